"""The verbs: each takes the user's model and gives a Report. The only room that knows the whole path."""

import weakref
from types import TracebackType
from typing import Any

from torch import nn

from cnnprobe.crash import Crash, add_note, explain
from cnnprobe.errors import UnknownNameError
from cnnprobe.explanation import Explanation
from cnnprobe.recorder import Observation, Recording, observe
from cnnprobe.report import Report

_last: "weakref.WeakKeyDictionary[nn.Module, Report]" = weakref.WeakKeyDictionary()


def probe(model: nn.Module, *args: Any, **kwargs: Any) -> Report:
    """One forward pass of `model(*args, **kwargs)`, neutrally observed.

    The model is afterwards bit for bit as it was: parameters, buffers, flags, gradients, attributes, hooks, random generators.
    It runs in the mode it is in (train or eval) and under the caller's grad mode. When the forward raises, the report says
    why instead of raising (`report.ok` is False, `report.explanation` names the module to blame, the cause, and repairs that were
    tried on a shadow of the model, `report.error` is the exception); an interrupt goes on to the caller.

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
    explanation = None
    if observation.error is not None:
        explanation = explain(Crash(error=observation.error, model=model, trace=observation.trace, args=args, kwargs=kwargs))
    report = Report(trace=observation.trace, explanation=explanation, output=observation.output, error=observation.error)
    _last[model] = report
    return report


class ExplainedRecording(Recording):
    """A recording that explains the exception which leaves its block: as notes on it (PEP 678), and as `explanation`."""

    def __init__(self, model: nn.Module, *, statistics: bool = True) -> None:
        super().__init__(model, statistics=statistics)
        self._explained = model
        self.explanation: Explanation | None = None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        args, kwargs = self.given
        super().__exit__(kind, error, trace)
        if not isinstance(error, Exception):
            return
        latest = self.traces[-1] if self.traces else None
        self.explanation = explain(Crash(error=error, model=self._explained, trace=latest, args=args, kwargs=kwargs))
        if self.explanation is not None and self.explanation.diagnosis != "unknown":
            add_note(error, self.explanation)


def record(model: nn.Module, *, statistics: bool = True) -> ExplainedRecording:
    """A context manager around the user's own forward (and backward) passes: no extra pass, the same numbers.

    An exception keeps its type, message and traceback, and gains the explanation as notes; explaining it runs shadows of the model.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU())
    >>> with record(model) as recording:
    ...     loss = model(torch.ones(3, 4)).sum()
    >>> [call.kind for call in recording.trace.calls]
    ['Sequential', 'Linear', 'ReLU']
    """
    return ExplainedRecording(model, statistics=statistics)


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
