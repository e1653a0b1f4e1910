"""The first training pass in full: every call with its functions between the layers, as the recorder sees it."""

import sys
from collections.abc import Mapping
from threading import get_ident
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder import Recording
from cnnprobe.recorder.assembly import assemble, no_collection
from cnnprobe.recorder.inventory import Tree
from cnnprobe.recorder.values import argument_leaves, describe_tensor
from cnnprobe.records.trace import TensorInfo, Trace
from cnnprobe.stats import summarise

_FRAMES = 8  # Python frames that hooks and the function mode add to one level of nesting


class FirstPass:
    """Records one root call of a model, from `begin` to its end, and nothing else; to be attached after the loop's own root hooks."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._recording = Recording(model)
        self._watcher = self._recording._watcher
        self._limit: int | None = None
        self._handle: Any = None
        self.over = False
        self.inputs: tuple[TensorInfo, ...] = ()  # of that pass, with their statistics

    def attach(self) -> None:
        """Hook the modules."""
        with no_collection():
            self._watcher.attach()
        self._handle = self.model.register_forward_hook(
            _End(self), with_kwargs=True, always_call=True
        )

    def begin(self) -> None:
        """The root is being called."""
        if self.over or self._limit is not None:
            return
        self._watcher.thread = get_ident()
        self._limit = sys.getrecursionlimit()
        deepest = 2 + max(fqn.count(".") for fqn in self._recording._tree.fqns)
        sys.setrecursionlimit(self._limit + _FRAMES * deepest)
        if not self._recording._sealed:  # a compiler would trace through a function mode
            self._watcher.__enter__()  # type: ignore[no-untyped-call]

    def end(self) -> None:
        """The root has returned."""
        if self._limit is not None and get_ident() == self._watcher.thread:
            sys.setrecursionlimit(self._limit)
            self._limit = None
            self.over = True
            if not self._recording._sealed:
                self._watcher.__exit__(None, None, None)
            self._watcher.thread = -1  # whatever is still called until the hooks are off
            args, kwargs = self._watcher.given
            tensors = [
                (path, value)
                for path, value in argument_leaves(args, kwargs)
                if isinstance(value, torch.Tensor)
            ]
            self.inputs = tuple(
                describe_tensor(value, path, None, _statistics(value)) for path, value in tensors
            )
            self._watcher.given = ((), {})

    def detach(self) -> None:
        """Take the hooks off; an interrupted pass is put to its end."""
        self.end()
        self._watcher.detach()
        self._watcher.given = ((), {})
        if self._handle is not None:
            self._handle.remove()

    @property
    def trace(self) -> Trace | None:
        """The pass, as soon as there was one."""
        traces = self._recording.traces
        return traces[-1] if traces else None

    def inventory(self) -> Trace:
        """The modules and parameters alone, where no pass was seen."""
        return assemble(Tree(self.model), ())


def _statistics(tensor: torch.Tensor) -> Mapping[str, float | int] | None:
    statistics = summarise(tensor)
    return None if statistics is None else statistics.as_mapping()


class _End:
    """The root's last hook."""

    def __init__(self, first: FirstPass | None = None) -> None:
        self.first = first

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any = None) -> None:  # noqa: ARG002
        """The recorder's own hooks have run."""
        if self.first is not None and module is self.first.model:
            self.first.end()

    def __deepcopy__(self, memo: object) -> "_End":
        return type(self)()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), ()
