"""The verbs of two models, or of one model and its blocks."""

import os
from typing import Any

from torch import nn

from cnnprobe.comparison import Tolerance, compare_models, compare_traces, observe_as
from cnnprobe.comparison.refactoring import refactor_model
from cnnprobe.comparison.results import Comparison, Refactoring
from cnnprobe.recorder import Recording
from cnnprobe.records.trace import Trace
from cnnprobe.report import Report
from cnnprobe.saved import load

Compared = nn.Module | Report | Recording | Trace | str | os.PathLike[str]
"""What can be compared: a model, a recording of one, or the path of a saved report."""


def compare(
    actual: Compared,
    expected: Compared,
    *args: Any,
    rtol: float | None = None,
    atol: float | None = None,
    level: str | None = None,
    **kwargs: Any,
) -> Comparison:
    """Whether two models are the same, however their modules are named and nested: level by level,
    and all that differs.

    Operations are aligned by what they are, their configuration, shapes and data flow; `nn.Flatten`
    and `torch.flatten` are one operation, so are `nn.ReLU` and `F.relu`. Both models are afterwards
    bit for bit as they were; the activations of one at most are held. Compiled code is compared by
    its outputs alone. Two models of other dtypes or devices get the inputs in their own, and what
    their rounding explains is allowed: 4 eps sqrt(depth), relative to the root mean square of an
    activation.

    Args:
        actual: a model, or a recording of one: a Report, a Trace, a Recording, the path of a saved
            report.
        expected: the one that it should be like. Where either is a recording, numbers are compared
            by the statistics that it holds.
        *args: the forward's positional arguments, for both.
        rtol: relative tolerance of numbers; default that of torch.testing.assert_close by dtype.
        atol: absolute tolerance of numbers.
        level: a name of `cnnprobe.records.differences.LEVELS` to go no further than it needs; None
            compares at every level.
        **kwargs: the forward's keyword arguments, for both.

    Raises:
        TargetError: one of the two is neither a model nor a recording.
        UnknownNameError: there is no such level.

    >>> import torch
    >>> from torch import nn
    >>> comparison = compare(nn.Sequential(nn.Sequential(nn.ReLU()), nn.Flatten()), nn.Sequential(nn.ReLU(), nn.Flatten()), torch.ones(2, 3, 4))
    >>> comparison.equivalent
    True
    """  # noqa: E501
    sides = [_recorded(side) for side in (actual, expected)]
    if isinstance(sides[0], Trace) or isinstance(sides[1], Trace):
        traces = [
            side
            if isinstance(side, Trace)
            else observe_as(side, args, kwargs, like=other if isinstance(other, Trace) else None)
            for side, other in (sides, sides[::-1])
        ]
        return Comparison(compare_traces(traces[0], traces[1], rtol=rtol, atol=atol))
    outcome = compare_models(
        sides[0], sides[1], (args, kwargs), tolerance=Tolerance(rtol=rtol, atol=atol), level=level
    )
    return Comparison(outcome, sides[0], sides[1])


def _recorded(side: Any) -> Any:
    """The trace of a recording in any of its forms; anything else as it is."""
    if isinstance(side, str | os.PathLike):
        side = load(side)
    return side.trace if isinstance(side, Report | Recording) else side


def refactor(model: nn.Module, *args: Any, **kwargs: Any) -> Refactoring:
    """What repeats in a model that was written out, as blocks: their source, the mapping of names,
    and the proof that it is the same model.

    The source is shown only when the model that it defines, with the weights carried over, has
    agreed at every level of `compare`.

    Args:
        model: any model with one input and one output of tensors.
        *args: the forward's positional arguments.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is no model, or its forward raises on these inputs.

    >>> import torch
    >>> from torch import nn
    >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU()]
    >>> refactoring = refactor(nn.Sequential(*layers), torch.ones(1, 3, 8, 8))
    >>> refactoring.blocks[0].pattern
    '[Conv2d 3x3, ReLU] x 3, channels 3->8->16->32'
    >>> refactoring.comparison.equivalent
    True
    """  # noqa: E501
    return Refactoring(refactor_model(model, args, kwargs))
