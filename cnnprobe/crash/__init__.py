"""A crash into an Explanation: the cause, the module to blame, and repairs that were tried. Runs shadows of the model, never the user's own."""

from cnnprobe.crash.case import Case
from cnnprobe.crash.reasoning import explain_forward

__all__ = ["Case", "explain_forward"]
