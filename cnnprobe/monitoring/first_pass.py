"""The first training pass in full: every call with its functions between the layers, as the
recorder sees it.
"""

from collections.abc import Mapping
from threading import get_ident
from typing import Any

import torch
from torch import nn

from cnnprobe.recorder import Recording
from cnnprobe.recorder.assembly import assemble
from cnnprobe.recorder.module_tree import ModuleTree
from cnnprobe.recorder.values import argument_leaves, describe_tensor
from cnnprobe.records.trace import TensorInfo, Trace
from cnnprobe.stats import summarise

_FRAMES = 8  # Python frames that hooks and the function mode add to one level of nesting


class FirstPass:
    """Records one root call of a model, from `begin` to its end, and nothing else; to be attached
    after the loop's own root hooks.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._recording = Recording(model)
        self._thread: int | None = None  # the one that is being recorded
        self._handle: Any = None
        self.over = False
        self.inputs: tuple[TensorInfo, ...] = ()  # of that pass, with their statistics

    def attach(self) -> None:
        """Hook the modules."""
        self._recording.attach()
        self._handle = nn.Module.register_forward_hook(  # a script's own refuses
            self.model, _End(self), with_kwargs=True, always_call=True
        )

    def begin(self) -> None:
        """The root is being called."""
        if self.over or self._thread is not None:
            return
        self._thread = get_ident()
        self._recording.start()

    def end(self) -> None:
        """The root has returned."""
        if self._thread is not None and get_ident() == self._thread:
            self._thread = None
            self.over = True
            args, kwargs = self._recording.given
            self._recording.stop()
            tensors = [
                (path, value)
                for path, value in argument_leaves(args, kwargs)
                if isinstance(value, torch.Tensor)
            ]
            self.inputs = tuple(
                describe_tensor(value, path, None, _statistics(value)) for path, value in tensors
            )

    def detach(self) -> None:
        """Take the hooks off; an interrupted pass is put to its end."""
        self.end()
        self._recording.detach()
        if self._handle is not None:
            self._handle.remove()

    @property
    def trace(self) -> Trace | None:
        """The pass, as soon as there was one."""
        traces = self._recording.traces
        return traces[-1] if traces else None

    def inventory(self) -> Trace:
        """The modules and parameters alone, where no pass was seen."""
        return assemble(ModuleTree(self.model), ())


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
