"""Statistics of one tensor at about the price of reading it once, and how they add up over batches,
workers and ranks.
"""

from cnnprobe.records.statistics import Channels, Statistics, merge
from cnnprobe.records.trace import Histogram
from cnnprobe.stats.engine import summarise, write
from cnnprobe.stats.pages import PageReading, Pages
from cnnprobe.stats.table import RowTable

__all__ = [
    "Channels",
    "Histogram",
    "PageReading",
    "Pages",
    "RowTable",
    "Statistics",
    "merge",
    "summarise",
    "write",
]
