"""Tries the fix of each finding, and says what came of it.

It runs training steps and whole observations again, from the saved state of everything that is the
user's, and puts it back to the bit.
"""

from cnnprobe.remedies.advice import ADVICE, UNWRITTEN
from cnnprobe.remedies.ordering import order_beside
from cnnprobe.remedies.remedy import Remedy, all_sources, answers, list_remedies
from cnnprobe.remedies.trials import BUDGET, TriedFindings, try_remedies

__all__ = [
    "ADVICE",
    "BUDGET",
    "UNWRITTEN",
    "Remedy",
    "TriedFindings",
    "all_sources",
    "answers",
    "list_remedies",
    "order_beside",
    "try_remedies",
]
