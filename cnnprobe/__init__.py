"""Shows what every layer of a PyTorch network really did, names the layer at fault, and leaves the
model as it was.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnprobe.api import (
        autograd_graph,
        compare,
        diagnose,
        inspect_data,
        last_report,
        measure,
        memory,
        monitor,
        probe,
        record,
        refactor,
        rules,
        shapes,
    )
    from cnnprobe.comparison.results import Comparison, Refactoring
    from cnnprobe.data.report import DataReport
    from cnnprobe.diagnosis import Finding, ignore
    from cnnprobe.errors import ProbeError
    from cnnprobe.graph import Graph
    from cnnprobe.measuring import Measurements
    from cnnprobe.monitoring.live import live
    from cnnprobe.notebook import probed
    from cnnprobe.records.trace import Trace
    from cnnprobe.report import Report
    from cnnprobe.saved import load
    from cnnprobe.sizing.results import Memory, Shapes

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "DataReport",
    "Finding",
    "Graph",
    "Measurements",
    "Memory",
    "ProbeError",
    "Refactoring",
    "Report",
    "Shapes",
    "Trace",
    "__version__",
    "autograd_graph",
    "compare",
    "diagnose",
    "ignore",
    "inspect_data",
    "last_report",
    "live",
    "load",
    "measure",
    "memory",
    "monitor",
    "probe",
    "probed",
    "record",
    "refactor",
    "rules",
    "shapes",
]

_HOMES = {
    "Finding": "diagnosis",
    "Graph": "graph",
    "Measurements": "measuring",
    "Comparison": "comparison.results",
    "DataReport": "data.report",
    "Memory": "sizing.results",
    "ProbeError": "errors",
    "Refactoring": "comparison.results",
    "Report": "report",
    "Shapes": "sizing.results",
    "Trace": "records.trace",
    "autograd_graph": "api",
    "compare": "api",
    "diagnose": "api",
    "ignore": "diagnosis",
    "inspect_data": "api",
    "last_report": "api",
    "live": "monitoring.live",
    "load": "saved",
    "measure": "api",
    "memory": "api",
    "monitor": "api",
    "probe": "api",
    "probed": "notebook",
    "record": "api",
    "refactor": "api",
    "rules": "api",
    "shapes": "api",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562), so that `import cnnprobe` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnprobe' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cnnprobe.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def load_ipython_extension(shell: Any) -> None:
    """Called by `%load_ext cnnprobe`: adds `%probe model(x)` and `%%probe model`."""
    importlib.import_module("cnnprobe.notebook.magics").load_ipython_extension(shell)


def __dir__() -> list[str]:
    return sorted(__all__)
