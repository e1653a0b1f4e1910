"""Many ranks as one run: statistics merged, and what differs between the ranks, by its own rules.
No torch, no process group: it reads what each rank has written of itself.
"""

from cnnprobe.ranks.joining import Joined, join
from cnnprobe.ranks.logs import find_logs, read_runs
from cnnprobe.ranks.rule import RankRule, all_rank_rules, load_rank_rules
from cnnprobe.ranks.runs import RankRun, Ranks, name_ranks

__all__ = [
    "Joined", "RankRule", "RankRun", "Ranks", "all_rank_rules", "find_logs", "join",
    "load_rank_rules", "name_ranks", "read_runs",
]  # fmt: skip
