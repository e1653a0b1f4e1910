"""The verbs: each takes the user's model and gives a Report. The only room that knows the whole path."""

import weakref
from typing import Any

from torch import nn

from cnnprobe.autograd import made_by, walk
from cnnprobe.errors import UnknownNameError
from cnnprobe.graph import Graph
from cnnprobe.recorder import Observation, Recording, observe
from cnnprobe.report import Report
from cnnprobe.trace import Trace

_last: "weakref.WeakKeyDictionary[nn.Module, Report]" = weakref.WeakKeyDictionary()
_recordings: "weakref.WeakKeyDictionary[nn.Module, weakref.ref[Recording]]" = weakref.WeakKeyDictionary()


def probe(model: nn.Module, *args: Any, **kwargs: Any) -> Report:
    """One forward pass of `model(*args, **kwargs)`, neutrally observed.

    The model is afterwards bit for bit as it was: parameters, buffers, flags, gradients, attributes, hooks, random generators.
    It runs in the mode it is in (train or eval) and under the caller's grad mode. When the forward raises, the report says
    so (`report.ok` is False, `report.error` is the exception) instead of raising; an interrupt goes on to the caller.

    Args:
        model: any nn.Module, also lazy, compiled or on the meta device.
        *args: the forward's positional arguments.
        **kwargs: the forward's keyword arguments.

    Raises:
        TargetError: `model` is not an nn.Module.

    >>> import torch
    >>> report = probe(torch.nn.Linear(4, 2), torch.ones(3, 4))
    >>> report.ok, report.trace[""].outputs[0].shape, report.trace[""].macs
    (True, (3, 2), 24)
    """
    try:
        observation = observe(model, args, kwargs)
    except BaseException as interrupt:
        seen = getattr(interrupt, "observation", None)
        if isinstance(seen, Observation):
            _last[model] = Report(trace=seen.trace, error=interrupt)
        raise
    report = Report(trace=observation.trace, output=observation.output, error=observation.error)
    _last[model] = report
    return report


def record(model: nn.Module, *, statistics: bool = True) -> Recording:
    """A context manager around the user's own forward (and backward) passes: no extra pass, the same numbers.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> [call.kind for call in recording.trace.calls]
    ['Sequential', 'Linear', 'ReLU']
    """
    recording = Recording(model, statistics=statistics)
    _recordings[model] = weakref.ref(recording)
    return recording


def autograd_graph(output: Any, model: nn.Module | None = None, *, trace: Trace | None = None, saved: bool = True) -> Graph:
    """The dynamic graph that autograd has built behind a tensor or a nested output: what made what, and what it keeps.

    It is exact, it is walked without recursion, and it keeps no tensor alive. If the forward pass was recorded, every node is
    named by the module call that made it and the user's line; else modules are told by the parameters they own.

    Args:
        output: a tensor (a loss, say), or any nest of tensors.
        model: names the parameters; the forward pass of a `record(model)` that you still hold is found by itself.
        trace: the recorded forward pass that made the output, if it shall not be looked for.
        saved: tell what is kept for backward; False is faster.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> graph = autograd_graph(loss, model)
    >>> [(node.name, node.module) for node in graph.nodes if node.kind == "operation"]
    [('TBackward0', ''), ('AddmmBackward0', ''), ('SumBackward0', None)]
    """
    if trace is None and model is not None and model in _recordings:
        recording = _recordings[model]()
        trace = made_by(recording.traces, output) if recording is not None else None
    return walk(output, model=model, trace=trace, saved=saved)


def keep_report(model: nn.Module, report: Report) -> None:
    """Make `report` the one that `last_report(model)` gives."""
    _last[model] = report


def last_report(model: nn.Module) -> Report:
    """The report of the model's latest probed call; also what an interrupted one had seen."""
    report = _last.get(model)
    if report is None:
        raise UnknownNameError(
            "no report of this model",
            where=f"last_report({type(model).__name__})",
            fix="call cnnprobe.probe(model, ...), or decorate it with @cnnprobe.probed",
        )
    return report
