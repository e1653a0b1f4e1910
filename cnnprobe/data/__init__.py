"""What a loader gives, measured on a bounded sample: read, judged by rules, drawn. The loader is
left as it was.

Reading needs torch; the facts and the rules are plain data and plain functions without it.
"""

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import (
    DataRule,
    all_data_rules,
    data_rule,
    join_findings,
    load_data_rules,
)

__all__ = [
    "Data", "DataRule", "Split", "all_data_rules", "data_rule", "join_findings", "load_data_rules",
]  # fmt: skip
