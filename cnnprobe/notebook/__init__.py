"""The decorator: the user's own calls of a model are recorded, nothing is run twice, and nothing is
printed.
"""

import functools
import random
import weakref
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

import torch
from torch import nn
from torch.utils.weak import WeakIdKeyDictionary

from cnnprobe.api import keep_report, record
from cnnprobe.errors import TargetError, UsageError
from cnnprobe.recorder.inventory import check_model
from cnnprobe.report import Report

ModelClass = TypeVar("ModelClass", bound=type[nn.Module])
Model = TypeVar("Model", bound=nn.Module)
Target = TypeVar("Target", bound=type[nn.Module] | nn.Module)

_being_recorded: set[int] = set()  # ids: a model may have no hash, or equal another


@overload
def probed(target: ModelClass, *, every: int = 1, sample: float = 1.0) -> ModelClass: ...
@overload
def probed(target: Model, *, every: int = 1, sample: float = 1.0) -> Model: ...
@overload
def probed(*, every: int = 1, sample: float = 1.0) -> Callable[[Target], Target]: ...
def probed(target: Any = None, *, every: int = 1, sample: float = 1.0) -> Any:
    """A model class, or one model, whose calls are recorded from now on;
    `cnnprobe.last_report(model)` gives the latest.

    A class stays the same class object. A model stays the same object; pickled or copied it is an
    ordinary one again. A call that is not recorded costs next to nothing; if it raises, there is no
    report of it.

    Args:
        target: a subclass of nn.Module or an instance of one; left out, a decorator with these
            options comes out.
        every: of the calls of a model only the first, and then each `every`-th is recorded.
        sample: of those the fraction that is recorded, in (0, 1], chosen by a random generator of
            its own.

    Raises:
        TargetError: `target` is neither a model class nor a model.
        UsageError: `every` is less than 1, or `sample` is not in (0, 1].

    >>> @probed
    ... class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.fc = nn.Linear(4, 2)
    ...
    ...     def forward(self, x):
    ...         return self.fc(x)
    >>> from cnnprobe.api import last_report
    >>> net = Net()
    >>> output = net(torch.ones(3, 4))
    >>> last_report(net).trace["fc"].outputs[0].shape
    (3, 2)
    """
    if every < 1 or not 0 < sample <= 1:
        fix = "use every=10 to record every tenth call, or sample=0.1 to record a random tenth"
        raise UsageError(
            f"every={every} and sample={sample} record no call", where="@cnnprobe.probed", fix=fix
        )
    turns = _Selection(every, sample)
    if target is None:
        return functools.partial(probed, every=every, sample=sample)
    if isinstance(target, type) and issubclass(target, nn.Module):
        target.__call__ = _record_calls(target.__call__, turns)  # type: ignore[method-assign]
        return target
    if isinstance(target, nn.Module):
        check_model(target, "@cnnprobe.probed")
        if isinstance(target, torch.jit.ScriptModule) and "_modules" not in target.__dict__:
            raise TargetError(
                "a traced model cannot be decorated: its class takes no subclass",
                where="@cnnprobe.probed",
                fix=(
                    "use cnnprobe.record(model) or cnnprobe.probe(model, ...), or decorate the "
                    "model before it is traced"
                ),
            )
        try:
            target.__class__ = _make_probed_class(type(target), turns)
        except Exception as error:
            raise TargetError(
                f"the model refuses another class ({type(error).__name__}: {error})",
                where="@cnnprobe.probed",
                fix="use cnnprobe.record(model) or cnnprobe.probe(model, ...)",
            ) from error
        return target
    raise TargetError(
        (
            f"{getattr(target, '__name__', type(target).__name__)} is neither a model class nor a "
            "model"
        ),
        where="@cnnprobe.probed",
        fix="decorate a subclass of torch.nn.Module, or pass an instance of one",
    )


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which calls of a model are recorded."""

    every: int
    sample: float
    calls: MutableMapping[nn.Module, int] = field(
        default_factory=WeakIdKeyDictionary, compare=False
    )
    dice: random.Random = field(
        default_factory=random.Random, compare=False
    )  # not the user's: their numbers stay as they are

    def is_due(self, model: nn.Module) -> bool:
        """Whether this call is one of them; counts it."""
        if self.every == 1 and self.sample == 1:
            return True
        number = self.calls[model] = self.calls.get(model, -1) + 1
        return number % self.every == 0 and (self.sample == 1 or self.dice.random() < self.sample)


def _record_calls(call: Callable[..., Any], turns: _Selection) -> Callable[..., Any]:
    if hasattr(call, "is_probed"):
        return call

    @functools.wraps(call)
    def recorded_call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if (
            torch.compiler.is_compiling()
            or torch._C._is_tracing()
            or id(self) in _being_recorded
            or not turns.is_due(self)
        ):
            return call(self, *args, **kwargs)
        recording = record(self)
        _being_recorded.add(id(self))
        error: BaseException | None = None
        try:
            with recording:
                return call(self, *args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            _being_recorded.discard(id(self))
            if recording.traces:
                keep_report(
                    self,
                    Report(trace=recording.trace, explanation=recording.explanation, error=error),
                )

    recorded_call.is_probed = True  # type: ignore[attr-defined]
    return recorded_call


def _blank(kind: type[nn.Module]) -> nn.Module:
    """An instance that is still to get its state; module-level, so that a pickle can name it."""
    return kind.__new__(kind)


_probed_classes: "weakref.WeakKeyDictionary[type, dict[_Selection, type]]" = (
    weakref.WeakKeyDictionary()
)


def _make_probed_class(kind: type[nn.Module], turns: _Selection) -> type[nn.Module]:
    """A subclass of the same name that records; it reduces to the class itself."""
    if hasattr(kind.__call__, "is_probed"):
        return kind
    known = _probed_classes.setdefault(kind, {})
    if turns in known:
        return known[turns]

    def reduce_to_original(self: nn.Module, protocol: Any) -> Any:
        reduced: tuple[Any, ...] = kind.__reduce_ex__(self, protocol)  # type: ignore[assignment]
        return (_blank, (kind,), *reduced[2:])

    members = {
        "__call__": _record_calls(kind.__call__, turns),
        "__reduce_ex__": reduce_to_original,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_cnnprobe_class": kind,
    }
    known[turns] = type(kind.__name__, (kind,), members)
    return known[turns]
