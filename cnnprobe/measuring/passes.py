"""The passes of a model over batches, each of its layers measured; the model is afterwards as it
was.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.errors import TargetError, UsageError
from cnnprobe.measuring.totals import Key, Total, Totals
from cnnprobe.recorder.inventory import CONTAINERS, class_of, named_modules
from cnnprobe.recorder.preservation import ModuleState, preserved_generators
from cnnprobe.recorder.values import argument_leaves, drop_output, leaves, name_deferred


class WatchedPass:
    """A model whose layers add what they put out to `totals`, while a pass runs."""

    def __init__(self, model: nn.Module, totals: Totals) -> None:
        self.model = model
        self.totals = totals
        self.unread: set[Key] = set()  # tensors that are not of floating point, or not readable
        self._calls: dict[str, int] = {}

    def run(self, batch: Any) -> None:
        """One pass over a batch."""
        args = _choose_inputs(batch, next(_list_devices(self.model), torch.device("cpu")))
        self._calls.clear()
        for path, leaf in argument_leaves(args, {}):
            self._take(("input", "", 0, path), class_of(self.model).__name__, leaf)
        output = self.model(*args)
        drop_output(output)
        if deferred := name_deferred(output):
            raise TargetError(
                f"the forward returns a {deferred}: it runs only when that is read",
                where=f"measure({class_of(self.model).__name__})",
                fix="measure a model whose forward returns tensors",
            )

    def take_output(self, fqn: str, module: nn.Module, output: Any) -> None:
        """What a layer has put out."""
        call = self._calls.get(fqn, 0)
        self._calls[fqn] = call + 1
        for path, leaf in leaves(output):
            self._take(("activation", fqn, call, path), class_of(module).__name__, leaf)

    def _take(self, key: Key, kind: str, leaf: Any) -> None:
        if not isinstance(leaf, Tensor):
            return
        if key not in self.totals:
            self.totals[key] = Total(kind)
        if not self.totals[key].add(leaf):
            self.unread.add(key)


@contextlib.contextmanager
def watch(model: nn.Module, totals: Totals) -> Iterator[WatchedPass]:
    """The model in eval mode, with hooks; all of it is put back."""
    watched = WatchedPass(model, totals)
    state = ModuleState(named_modules(model))
    handles = []
    try:
        with preserved_generators(), torch.no_grad():
            for fqn, module, first in named_modules(model):
                alone = not fqn and not module._modules
                if first and (alone or (fqn and type(module) not in CONTAINERS)):
                    handles.append(
                        nn.Module.register_forward_hook(module, _make_hook(watched, fqn))
                    )
            model.eval()
            yield watched
    finally:
        for handle in handles:
            handle.remove()
        state.restore()


def _make_hook(watched: WatchedPass, fqn: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(module: nn.Module, _: Any, output: Any) -> None:
        watched.take_output(fqn, module, output)

    return hook


def _list_devices(model: nn.Module) -> Iterator[torch.device]:
    for tensor in (*model.parameters(), *model.buffers()):
        yield tensor.device


def _choose_inputs(batch: Any, device: torch.device) -> tuple[Any, ...]:
    """The first tensor of a batch of (images, labels), or the batch itself, on the model's
    device.
    """
    if isinstance(batch, list | tuple) and batch:
        batch = batch[0]
    if not isinstance(batch, Tensor):
        raise UsageError(
            f"the first part of a batch is a {type(batch).__name__}, not a tensor",
            where="measure(model, data)",
            fix="give a data set whose samples are tensors, or (image, label) pairs",
        )
    return (batch.to(device),)


def list_batches(samples: int, size: int, *, rank: int, of: int, done: int) -> list[range]:
    """The batches of one process that are still to do, as indices of samples: every `of`-th one.

    A batch has the same samples however many processes there are, so that its numbers are the same.

    >>> list_batches(10, 4, rank=0, of=2, done=0), list_batches(10, 4, rank=1, of=2, done=0)
    ([range(0, 4), range(8, 10)], [range(4, 8)])
    """
    starts = range(0, samples, size)
    mine = list(starts)[rank::of]
    return [range(start, min(start + size, samples)) for start in mine[done:]]


def count_samples(batches: Iterable[range]) -> int:
    """How many samples are in these batches."""
    return sum(map(len, batches))
