"""Assertions for any test runner. Each raises AssertionError with what, where and fix, lists every
difference, and leaves the model as it was.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnprobe.testing.architecture import (
        assert_macs,
        assert_memory,
        assert_parameters,
        assert_same_architecture,
        assert_shapes,
    )
    from cnnprobe.testing.behaviour import (
        assert_finite,
        assert_gradients_reach,
        assert_overfits_batch,
        assert_parameters_change,
    )
    from cnnprobe.testing.equivalence import assert_equivalent
    from cnnprobe.testing.graphs import assert_no_graph_leak, assert_same_graph
    from cnnprobe.testing.health import assert_healthy
    from cnnprobe.testing.listing import architecture_text
    from cnnprobe.testing.repeatability import (
        assert_batch_independent,
        assert_deterministic,
        assert_eval_is_stable,
    )

__all__ = [
    "architecture_text",
    "assert_batch_independent",
    "assert_deterministic",
    "assert_equivalent",
    "assert_eval_is_stable",
    "assert_finite",
    "assert_gradients_reach",
    "assert_healthy",
    "assert_macs",
    "assert_memory",
    "assert_no_graph_leak",
    "assert_overfits_batch",
    "assert_parameters",
    "assert_parameters_change",
    "assert_same_architecture",
    "assert_same_graph",
    "assert_shapes",
]

_HOMES = {
    "architecture_text": "listing",
    "assert_batch_independent": "repeatability",
    "assert_deterministic": "repeatability",
    "assert_equivalent": "equivalence",
    "assert_eval_is_stable": "repeatability",
    "assert_finite": "behaviour",
    "assert_gradients_reach": "behaviour",
    "assert_healthy": "health",
    "assert_macs": "architecture",
    "assert_memory": "architecture",
    "assert_no_graph_leak": "graphs",
    "assert_overfits_batch": "behaviour",
    "assert_parameters": "architecture",
    "assert_parameters_change": "behaviour",
    "assert_same_architecture": "architecture",
    "assert_same_graph": "graphs",
    "assert_shapes": "architecture",
}


def __getattr__(name: str) -> Any:
    """Load an assertion on first use (PEP 562): that of health takes six times that of shapes."""
    if name not in _HOMES:
        raise AttributeError(f"module 'cnnprobe.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"cnnprobe.testing.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
