"""Watches a user's own training loop step by step, at a small part of its time, and changes nothing
of it.
"""

from cnnprobe.monitoring.settings import EVERYTHING, Settings
from cnnprobe.monitoring.watch import Listener, Watch

__all__ = ["EVERYTHING", "Listener", "Settings", "Watch"]
