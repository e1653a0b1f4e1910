"""Runs the model again, in eval mode and without gradients, to see what depends on what. Everything
it changes is put back by its caller.
"""

import contextlib
import dis
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.compiler import is_dynamo_compiling
from torch.overrides import TorchFunctionMode

from cnnprobe.diagnosis.evidence import Flow, Probes, is_inplace, operation
from cnnprobe.recorder.functions import operation_of
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.preservation import read_version
from cnnprobe.recorder.sources import find_nearest_line, is_users
from cnnprobe.recorder.values import is_ordinary, leaves
from cnnprobe.records.trace import Trace
from cnnprobe.training.batch_leak import SMALLEST_LEAK, find_leak
from cnnprobe.training.passes import (
    Pass,
    batch_size,
    difference,
    forward,
    fresh,
    list_tensors,
    tensors_of,
)
from cnnprobe.training.unread import find_unread
from cnnprobe.training.wrapping import summary

_MOST_FLIPS = 4
_SMALL = 4096  # elements of a buffer that is compared by its values


def spread(output: Any, n: int | None) -> float | None:
    """The greatest difference between samples over the output's magnitude; 0 where all samples get
    the same.
    """
    worst = None
    for x in tensors_of(output):
        if n is None or n < 2 or x.dim() == 0 or x.shape[0] != n or not bool(x.isfinite().all()):
            return None
        gap = (x.double() - x[:1].double()).abs().max() if x.numel() else torch.zeros(())
        worst = max(worst or 0.0, float(gap / x.abs().max().double().clamp(min=1e-30)))
    return worst


def _normalises(model: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def spread_in_both_modes(model: nn.Module, inputs: Any, output: Any, n: int | None) -> float | None:
    """The spread of an eval output; where it vanishes and BatchNorm may not have settled, that in
    train mode if it is larger.
    """
    found = spread(output, n)
    if found is None or found > SMALLEST_LEAK or not _normalises(model):
        return found
    trained = forward(model, fresh(inputs), training=True)
    other = None if trained.error is not None else spread(trained.output, n)
    return found if other is None else max(found, other)


def find_ignored(
    model: nn.Module, inputs: Any, base: Any, *, training: bool = False
) -> tuple[str, ...]:
    """Paths of the tensor inputs that can be anything without changing what comes out."""
    found = []
    paths = [(path, leaf) for path, leaf in leaves(inputs) if isinstance(leaf, Tensor)]
    for path, leaf in paths[:8]:
        if leaf.numel() < 2 or not leaf.is_floating_point() or leaf.dim() == 0:
            continue
        generator = torch.Generator().manual_seed(2)
        noise = (
            torch.randn(leaf.shape, generator=generator) * max(float(leaf.std()), 1e-3)
            + float(leaf.mean())
        ).to(leaf)
        changed = torch.utils._pytree.tree_map(
            lambda v, leaf=leaf, noise=noise: noise if v is leaf else v, inputs
        )
        again = forward(model, changed, training=training)
        if again.error is None and difference(base, again.output) == 0.0:
            found.append(path)
    return tuple(found)


class _OutOfPlace(TorchFunctionMode):
    """Makes chosen in-place calls give a new tensor instead; `chosen` are (kind, source line)."""

    def __init__(self, chosen: set[tuple[str, str]]) -> None:
        super().__init__()
        self.chosen = chosen

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if is_dynamo_compiling():  # for torch.cond, which traces modes too
            return func(*args, **(kwargs or {}))
        kwargs = dict(kwargs or {})
        kind = operation_of(func).kind
        if (
            any(kind == k for k, _ in self.chosen)
            and (kind, find_nearest_line(sys._getframe(1))) in self.chosen
        ):
            if kwargs.get("inplace") is True:
                kwargs["inplace"] = False
            holder, _, name = kind.rpartition(".")
            if name.startswith("__i"):
                return getattr(Tensor, "__" + name[3:])(*args, **kwargs)
            plain = getattr(
                Tensor if holder == "torch.Tensor" else F, name.rstrip("_"), None
            ) or getattr(torch, name.rstrip("_"), None)
            if (
                _ends_in_underscore(name)
                and plain is not None
                and not _result_is_dropped(sys._getframe(1))
            ):
                return plain(*args, **kwargs)
        return func(*args, **kwargs)


def _ends_in_underscore(name: str) -> bool:
    return name.endswith("_") and not name.endswith("__")


def _result_is_dropped(frame: types.FrameType | None) -> bool:
    """Whether the user's call is a statement, `x.add_(y)`: then the write itself is what was
    meant.
    """
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return True
    following = (i.opname for i in dis.get_instructions(frame.f_code) if i.offset > frame.f_lasti)
    return next(following, "POP_TOP") == "POP_TOP"


@contextlib.contextmanager
def _flipped(model: nn.Module, trace: Trace, rows: list[int]) -> Iterator[None]:
    modules = dict(model.named_modules())
    flipped = [
        modules[fqn] for i in rows if (fqn := trace.calls[i].fqn) is not None and fqn in modules
    ]
    for module in flipped:
        module.inplace = False
    try:
        with _OutOfPlace(
            {
                (trace.calls[i].kind, trace.calls[i].source)
                for i in rows
                if trace.calls[i].fqn is None
            }
        ):
            yield
    finally:
        for module in flipped:
            module.inplace = True


def find_overwritten(model: nn.Module, inputs: Any, base: Pass) -> tuple[int, ...]:
    """In-place rows without which the model gives something else: a later row reads what they have
    overwritten.
    """
    flow = Flow(base.trace)
    rows = [
        i
        for i in flow.primitives()
        if is_inplace(base.trace, base.trace.calls[i])
        and operation(base.trace.calls[i]) != "setitem"
        and len(flow.readers.get(i, ())) > 1
    ]

    def changes(chosen: list[int]) -> bool:
        with _flipped(model, base.trace, chosen):
            again = forward(model, fresh(inputs), training=False)
        gap = None if again.error is not None else difference(base.output, again.output)
        return gap is not None and gap > SMALLEST_LEAK

    if not rows or not changes(rows):
        return ()
    if len(rows) == 1:
        return tuple(rows)
    return tuple(i for i in rows[:_MOST_FLIPS] if changes([i]))[:1] or (rows[0],)


def find_mutated(
    inputs: Any, run: Callable[[Any], Pass]
) -> tuple[Pass, tuple[tuple[str, int | None], ...]]:
    """A pass on copies of the inputs, and the inputs that it wrote to with the row that did."""
    copies = fresh(inputs)
    before = [
        (path, leaf, leaf._version) for path, leaf in leaves(copies) if isinstance(leaf, Tensor)
    ]
    made = run(copies)
    calls = made.trace.calls
    writer = next(
        (
            i
            for i, c in enumerate(calls)
            if c.inputs and c.inputs[0].source is None and c.depth > 1 and is_inplace(made.trace, c)
        ),
        None,
    )
    return made, tuple((path, writer) for path, leaf, version in before if leaf._version != version)


def _copy_buffers(model: nn.Module) -> list[Tensor]:
    """The small buffers: torch's own fused operations write to them without a new version."""
    return [
        buffer.detach().clone()
        for buffer in model.buffers()
        if type(buffer) is Tensor
        and buffer.device.type != "meta"
        and buffer.layout is torch.strided
        and buffer.numel() <= _SMALL
    ]


def _versions(model: nn.Module) -> list[tuple[int, int | None]]:
    """What tells whether a registered tensor was written to, or replaced."""
    return [
        (id(tensor), read_version(tensor)) for tensor in (*model.parameters(), *model.buffers())
    ]


def _is_unchanged(before: Tensor, after: Tensor) -> bool:
    if before.shape != after.shape:
        return False
    return bool(((before == after) | (before.isnan() & after.isnan())).all())


def run_probes(
    model: nn.Module, inputs: Any, targets: Any, names: Mapping[int, str]
) -> tuple[Pass, Probes]:
    """Everything that is probed before the first step; the evaluation pass too."""
    written, buffers = _versions(model), _copy_buffers(model)
    resting = find_resting(model)
    base, mutated = find_mutated(
        inputs, lambda given: forward(model, given, training=False, summarise=summary, names=names)
    )
    if base.error is not None or not is_ordinary((inputs, targets, base.output)):
        return base, Probes(mutated=mutated, resting=resting)
    now = _versions(model)
    keeps_state = written != now or not all(
        _is_unchanged(b, a) for b, a in zip(buffers, _copy_buffers(model), strict=False)
    )
    changed = {entry[0] for entry, later in zip(written, now, strict=False) if entry != later}
    repeat = _repeat(model, inputs, base, seed=1)
    if repeat is not None and repeat >= SMALLEST_LEAK:
        # With one seed, what differs comes from a state that a pass leaves behind.
        left = _repeat(model, inputs, base)
        keeps_state = keeps_state or left is None or left >= SMALLEST_LEAK
    n = batch_size(inputs, targets)
    steady = repeat is not None and repeat < SMALLEST_LEAK
    leak = None
    if steady and not keeps_state and n is not None and n > 1:
        leak = find_leak(model, inputs, n)
    probes = Probes(
        mutated=mutated,
        resting=resting,
        held=base.held,
        keeps_state=keeps_state,
        rewritten=tuple(
            name for name, p in model.named_parameters() if p.requires_grad and id(p) in changed
        ),
        repeat=repeat,
        leak=None if leak is None else leak[:2],
        mixing=None if leak is None else leak[2],
        overwritten=find_overwritten(model, inputs, base) if steady else (),
        # Last: a pass in train mode moves the running statistics that the others compare by.
        spread=spread_in_both_modes(model, inputs, base.output, n),
    )
    return base, probes


def _repeat(model: nn.Module, inputs: Any, base: Pass, *, seed: int = 0) -> float | None:
    """How far the output of one more pass is from the first; None where it raises."""
    again = forward(model, fresh(inputs), training=False, seed=seed)
    return None if again.error is not None else difference(base.output, again.output)


def find_resting(model: nn.Module) -> frozenset[str]:
    """The norms with running statistics that are in eval mode by themselves: the module around
    each is in train mode.
    """
    modules = {fqn: module for fqn, module, _ in named_modules(model)}
    return frozenset(
        fqn
        for fqn, module in modules.items()
        if isinstance(module, nn.modules.batchnorm._BatchNorm)
        and not module.training
        and fqn
        and getattr(modules.get(fqn.rpartition(".")[0]), "training", False)
    )


def run_late_probes(model: nn.Module, inputs: Any, targets: Any, probes: Probes) -> Probes:
    """What is better probed on weights that have been trained for a few steps: a head may start at
    zero.
    """
    if not is_ordinary((inputs, targets)):
        return probes
    late = forward(model, fresh(inputs), training=False)
    if late.error is not None or any(not bool(t.isfinite().all()) for t in tensors_of(late.output)):
        return probes
    n = batch_size(inputs, targets)
    differ = any(
        t.dim() > 0 and t.shape[0] > 1 and bool((t[1:] != t[:1]).any())
        for t in list_tensors(inputs)
    )
    after = spread_in_both_modes(model, inputs, late.output, n) if differ else None
    ignored = find_ignored(model, inputs, late.output)
    if ignored and _normalises(model):
        trained = forward(model, fresh(inputs), training=True)
        ignored = tuple(
            path
            for path in find_ignored(model, inputs, trained.output, training=True)
            if path in ignored
        )
    unread = find_unread(model, inputs, late.output, ignored)
    return replace(probes, spread_after=after, ignored=ignored, unread=unread)
