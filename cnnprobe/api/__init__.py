"""The verbs: each takes the user's model and gives a report. The only room that knows the whole
path.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_HOMES = {
    "Compared": "sameness",
    "ExplainedRecording": "forward",
    "autograd_graph": "forward",
    "compare": "sameness",
    "diagnose": "learning",
    "inspect_data": "batches",
    "keep_report": "forward",
    "last_report": "forward",
    "measure": "measuring",
    "memory": "sizes",
    "monitor": "run",
    "probe": "forward",
    "record": "forward",
    "refactor": "sameness",
    "rules": "learning",
    "shapes": "sizes",
}


def __getattr__(name: str) -> Any:
    """Load a verb on first use (PEP 562): `probe` needs a tenth of what all verbs need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnprobe.api' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cnnprobe.api.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
