"""Measures what every layer puts out over a whole data set, in one process or in several, and keeps
what it has through a kill. The model is in eval mode meanwhile, and afterwards as before.
"""

from cnnprobe.measuring.ranges import make_observer
from cnnprobe.measuring.results import Measurements, load_measurements

__all__ = ["Measurements", "load_measurements", "make_observer"]
