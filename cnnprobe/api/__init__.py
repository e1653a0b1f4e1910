"""The verbs: each takes the user's model and gives a report. The only room that knows the whole
path.
"""

from cnnprobe.api.batches import inspect_data
from cnnprobe.api.forward import (
    ExplainedRecording,
    autograd_graph,
    keep_report,
    last_report,
    probe,
    record,
)
from cnnprobe.api.learning import diagnose, rules
from cnnprobe.api.measuring import measure
from cnnprobe.api.run import monitor
from cnnprobe.api.sameness import Compared, compare, refactor
from cnnprobe.api.sizes import memory, shapes

__all__ = [
    "Compared",
    "ExplainedRecording",
    "autograd_graph",
    "compare",
    "diagnose",
    "inspect_data",
    "keep_report",
    "last_report",
    "measure",
    "memory",
    "monitor",
    "probe",
    "record",
    "refactor",
    "rules",
    "shapes",
]
