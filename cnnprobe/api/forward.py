"""The verbs of one forward pass, and the report that is kept of it.

What explains a crash or walks a graph is loaded when it is needed: most passes need neither, and
loading it takes longer than they do.
"""

import weakref
from collections.abc import MutableMapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from cnnprobe.errors import UnknownNameError
from cnnprobe.recorder import Observation, Recording, observe
from cnnprobe.recorder.devices import read_index_ranges
from cnnprobe.recorder.inventory import check_model
from cnnprobe.recorder.peers import meet_peers, needs_all_ranks
from cnnprobe.records.trace import Trace
from cnnprobe.report import Report

if TYPE_CHECKING:
    from cnnprobe.graph import Graph
    from cnnprobe.records.explanation import Explanation

# By identity: a model that is a dataclass may equal another, or have no hash.
_last: MutableMapping[nn.Module, Report] = WeakIdKeyDictionary()
# The latest report of all, if it has an exception: the frames of that hold the model, which no
# weak key would let go of.
_failed: MutableMapping[nn.Module, Report] = WeakIdKeyDictionary()
LATEST = 8  # traces of a finished recording that are kept for the graphs of its outputs
_traces: MutableMapping[nn.Module, tuple[Trace, ...]] = WeakIdKeyDictionary()
_recordings: MutableMapping[nn.Module, weakref.ref[Recording]] = WeakIdKeyDictionary()


def probe(model: nn.Module, *args: Any, shapes_only: bool = False, **kwargs: Any) -> Report:
    """One forward pass of `model(*args, **kwargs)`, neutrally observed.

    The model is afterwards bit for bit as it was: parameters, buffers, flags, gradients,
    attributes, hooks, random generators. It runs in the mode it is in (train or eval) and under the
    caller's grad mode. When the forward raises, the report says why instead of raising (`report.ok`
    is False, `report.explanation` names the module to blame, the cause, and repairs that were tried
    on a shadow of the model, `report.error` is the exception); an interrupt goes on to the caller.

    Args:
        model: any nn.Module, also lazy, compiled or on the meta device.
        *args: the forward's positional arguments.
        shapes_only: compute nothing and read no weight; shapes, parameters and multiply-accumulates
            are the same, values are missing. An operation that needs values is given zeros, and
            named in a note.
        **kwargs: the forward's keyword arguments.

    On several ranks the numbers are of this rank's batch. DistributedDataParallel reduces nothing
    meanwhile, so that one rank may call it alone; a model that is sharded over ranks (fully_shard)
    is probed by all of them at once.

    Raises:
        TargetError: `model` is not an nn.Module, or with `shapes_only` a part of it is scripted or
            sharded; or it is sharded, and another rank did not come within 20 seconds.

    >>> import torch
    >>> report = probe(torch.nn.Linear(4, 2), torch.ones(3, 4))
    >>> report.ok, report.trace[""].outputs[0].shape, report.trace[""].macs
    (True, (3, 2), 24)
    """
    ranges: tuple[tuple[str, int, int], ...] = ()
    if not shapes_only:
        meet_peers(model, "cnnprobe.probe")
        ranges = read_index_ranges((("input", args), ("input", dict(kwargs))))
    try:
        observation = _look(model, args, kwargs, shapes_only=shapes_only)
    except BaseException as interrupt:
        seen = getattr(interrupt, "observation", None)
        if isinstance(seen, Observation):
            keep_report(model, Report(trace=seen.trace, error=interrupt))
        raise
    explanation = None
    if observation.error is not None and not needs_all_ranks(model):
        from cnnprobe.crash import Crash, explain

        explanation = explain(
            Crash(
                error=observation.error,
                model=model,
                trace=observation.trace,
                args=args,
                kwargs=kwargs,
                ranges=ranges,
            )
        )
    report = Report(
        trace=observation.trace,
        explanation=explanation,
        output=observation.output,
        error=observation.error,
    )
    keep_report(model, report)
    return report


def _look(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, shapes_only: bool
) -> Observation:
    if not shapes_only:
        return observe(model, args, kwargs)
    from cnnprobe.recorder.shapes import observe_shapes

    return observe_shapes(model, args, kwargs)


class ExplainedRecording(Recording):
    """A recording that explains the exception which leaves its block: as notes on it (PEP 678), and
    as `explanation`.
    """

    def __init__(self, model: nn.Module, *, statistics: bool = True) -> None:
        super().__init__(model, statistics=statistics)
        self._explained = model
        self.explanation: Explanation | None = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        args, kwargs = self.given
        super().__exit__(kind, error, trace)
        _traces[self._explained] = self.traces[-LATEST:]
        if error is not None and self.traces:
            keep_report(self._explained, Report(trace=self.traces[-1], error=error))
        if not isinstance(error, Exception) or needs_all_ranks(self._explained):
            return
        from cnnprobe.crash import NOTHING_SEEN, Crash, add_note, explain

        latest = self.traces[-1] if self.traces else NOTHING_SEEN
        self.explanation = explain(
            Crash(error=error, model=self._explained, trace=latest, args=args, kwargs=kwargs)
        )
        if self.traces:
            report = Report(trace=self.traces[-1], explanation=self.explanation, error=error)
            keep_report(self._explained, report)
        if self.explanation is not None and self.explanation.diagnosis != "unknown":
            add_note(error, self.explanation)


def record(model: nn.Module, *, statistics: bool = True) -> ExplainedRecording:
    """A context manager around the user's own forward (and backward) passes: no extra pass, the
    same numbers.

    An exception keeps its type, message and traceback, and gains the explanation as notes;
    explaining it runs shadows of the model.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> [call.kind for call in recording.trace.calls]
    ['Sequential', 'Linear', 'ReLU']
    """
    recording = ExplainedRecording(model, statistics=statistics)
    _recordings[model] = weakref.ref(recording)
    return recording


def autograd_graph(
    output: Any, model: nn.Module | None = None, *, trace: Trace | None = None, saved: bool = True
) -> "Graph":
    """The dynamic graph that autograd has built behind a tensor or a nested output: what made what,
    and what it keeps.

    It is exact, it is walked without recursion, and it keeps no tensor alive. If the forward pass
    was recorded, every node is named by the module call that made it and the user's line; else
    modules are told by the parameters they own.

    Args:
        output: a tensor (a loss, say), or any nest of tensors.
        model: names the parameters; the forward pass of its latest `record(model)` is found by
            itself, one of the last eight where you do not hold the recording any more.
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
    if model is not None:
        check_model(model, "the model that names the parameters")
    from cnnprobe.recorder.autograd import made_by, walk

    if trace is None and model is not None and model in _recordings:
        recording = _recordings[model]()
        traces = recording.traces if recording is not None else _traces.get(model, ())
        trace = made_by(traces, output)
    return walk(output, model=model, trace=trace, saved=saved)


def keep_report(model: nn.Module, report: Report) -> None:
    """Make `report` the one that `last_report(model)` gives, without its exception once there is a
    later one of any model.
    """
    _failed.clear()
    _last[model] = report
    if report.error is not None:
        _last[model] = replace(report, error=None)
        _failed[model] = report


def last_report(model: nn.Module) -> Report:
    """The report of the model's latest probed call; also what an interrupted one had seen.

    It has the exception of a call that raised until the next report, of whatever model: an
    exception keeps the model in memory.
    """
    report = _failed.get(model, _last.get(model))
    if report is None:
        raise UnknownNameError(
            "no report of this model",
            where=f"last_report({type(model).__name__})",
            fix="call cnnprobe.probe(model, ...), or decorate it with @cnnprobe.probed",
        )
    return report
