"""The decorator: the user's own calls of a model are recorded, nothing is run twice, and nothing is printed."""

import functools
import weakref
from collections.abc import Callable
from typing import Any, TypeVar, overload

import torch
from torch import nn

from cnnprobe.api import keep_report, record
from cnnprobe.errors import TargetError
from cnnprobe.report import Report

ModelClass = TypeVar("ModelClass", bound=type[nn.Module])
Model = TypeVar("Model", bound=nn.Module)

_being_recorded: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


@overload
def probed(target: ModelClass) -> ModelClass: ...
@overload
def probed(target: Model) -> Model: ...
def probed(target: Any) -> Any:
    """A model class, or one model, whose calls are recorded from now on; `cnnprobe.last_report(model)` gives the latest.

    A class stays the same class object. A model stays the same object; pickled or copied it is an ordinary one again.

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
    if isinstance(target, type) and issubclass(target, nn.Module):
        target.__call__ = _recorded(target.__call__)  # type: ignore[method-assign]
        return target
    if isinstance(target, nn.Module):
        target.__class__ = _probed_class(type(target))
        return target
    raise TargetError(
        f"{getattr(target, '__name__', type(target).__name__)} is neither a model class nor a model",
        where="@cnnprobe.probed",
        fix="decorate a subclass of torch.nn.Module, or pass an instance of one",
    )


def _recorded(call: Callable[..., Any]) -> Callable[..., Any]:
    if hasattr(call, "is_probed"):
        return call

    @functools.wraps(call)
    def recorded_call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling() or torch._C._is_tracing() or self in _being_recorded:
            return call(self, *args, **kwargs)
        recording = record(self)
        _being_recorded.add(self)
        error: BaseException | None = None
        try:
            with recording:
                return call(self, *args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            _being_recorded.discard(self)
            if recording.traces:
                keep_report(self, Report(trace=recording.trace, explanation=recording.explanation, error=error))

    recorded_call.is_probed = True  # type: ignore[attr-defined]
    return recorded_call


def _blank(kind: type[nn.Module]) -> nn.Module:
    """An instance that is still to get its state; module-level, so that a pickle can name it."""
    return kind.__new__(kind)


_probed_classes: "weakref.WeakKeyDictionary[type, type]" = weakref.WeakKeyDictionary()


def _probed_class(kind: type[nn.Module]) -> type[nn.Module]:
    """A subclass of the same name that records; it reduces to the class itself."""
    if hasattr(kind.__call__, "is_probed"):
        return kind
    if kind in _probed_classes:
        return _probed_classes[kind]

    def reduce_to_original(self: nn.Module, protocol: Any) -> Any:
        reduced: tuple[Any, ...] = kind.__reduce_ex__(self, protocol)  # type: ignore[assignment]
        return (_blank, (kind,), *reduced[2:])

    members = {
        "__call__": _recorded(kind.__call__),
        "__reduce_ex__": reduce_to_original,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "_cnnprobe_class": kind,
    }
    _probed_classes[kind] = type(kind.__name__, (kind,), members)
    return _probed_classes[kind]
