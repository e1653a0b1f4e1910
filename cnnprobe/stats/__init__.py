"""Statistics of one tensor at about the price of reading it once, and how they add up over batches,
workers and ranks.
"""

from cnnprobe.records.statistics import Channels, Statistics, merge
from cnnprobe.records.trace import Histogram
from cnnprobe.stats.engine import summarise, write
from cnnprobe.stats.pages import Pages, Reading
from cnnprobe.stats.table import Table

__all__ = [
    "Channels",
    "Histogram",
    "Pages",
    "Reading",
    "Statistics",
    "Table",
    "merge",
    "summarise",
    "write",
]
