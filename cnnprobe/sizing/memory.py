"""How much memory a model takes as a function of the batch, and the largest batch that fits."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.model_copy import hush
from cnnprobe.document.render.units import format_size
from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError, suggest
from cnnprobe.recorder import is_compiled
from cnnprobe.recorder.inventory import is_lazy, named_modules
from cnnprobe.recorder.shapes import shape_lazy
from cnnprobe.records.memory import (
    INFERENCE,
    TRAINING,
    CheckpointEffect,
    MemoryNeed,
    MemoryUse,
    MemoryWay,
)
from cnnprobe.sizing.refusals import (
    explain_pass,
    refuse_uninitialised,
    refuse_unmeasured,
    refuse_unseen,
)
from cnnprobe.sizing.steps import MeasuredStep, Plan, find_device, measure_forward, measure_step

# Batches that the line is made from: so large that the peak stays at one place of the pass.
_LARGE = (256, 512)
_MEAN = "the loss is the mean of the outputs: give yours with loss_fn, as cross_entropy keeps more"
_SHAPED = "the model is lazy: its parameters are those that this input gives a copy of it"
_NOT_INCLUDED = (
    "not included: workspaces of cuDNN, what an allocator keeps in reserve, and the CUDA context; "
    "leave a margin of 10% or more"
)
_ON_CPU = (  # measured by benchmarks/memory.py
    "on a CPU: with the copies that oneDNN makes in a convolution; the process itself takes up to "
    "40% more, as glibc's malloc keeps freed blocks; with MALLOC_MMAP_THRESHOLD_=65536 in its "
    "environment 8% at most, and its steps are slower"
)
_MOST_TRIALS = 24  # of the search for the largest batch
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4}
_SIZE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)(i?)b?\s*", re.IGNORECASE)

OPTIMIZERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "rmsprop": torch.optim.RMSprop,
}
"""Optimizers by name; each is really made, and makes a step."""


def parse_size(text: str | int) -> int:
    """Bytes of "24GiB", "24 GB", "512MiB" or a number.

    Raises:
        UsageError: it is no size.

    >>> parse_size("24GiB"), parse_size("1.5 kB"), parse_size(7)
    (25769803776, 1500, 7)
    """
    found = _SIZE.fullmatch(str(text))
    if found is None:
        raise UsageError(
            f"{text!r} is not a size", where="the memory limit", fix="write 24GiB, 24GB or 512MiB"
        )
    number, unit, binary = found.groups()
    power = "kmgt".find(unit.lower()) + 1 if unit else 0
    return int(float(number) * (1024**power if binary else _UNITS[unit.lower()]))


def choose_optimizer(wanted: Any) -> tuple[str, Callable[..., torch.optim.Optimizer]]:
    """The name of an optimizer, and what makes one for some parameters.

    Args:
        wanted: a name of `OPTIMIZERS`, a class or function of the parameters, or an optimizer,
            whose settings are taken over.
    """
    if isinstance(wanted, torch.optim.Optimizer):
        kind: Any = type(wanted)
        return kind.__name__, lambda parameters: kind(parameters, **wanted.defaults)
    if isinstance(wanted, str):
        if wanted.lower() not in OPTIMIZERS:
            raise UnknownNameError(
                f"no optimizer named {wanted!r}",
                where="memory(..., optimizer=...)",
                fix=suggest(wanted, OPTIMIZERS),
            )
        return wanted.lower(), OPTIMIZERS[wanted.lower()]
    if not callable(wanted):
        raise UsageError(
            f"the optimizer is a {type(wanted).__name__}",
            where="memory(..., optimizer=...)",
            fix='give a name such as "adam", a class, or an optimizer',
        )
    return getattr(wanted, "__name__", "optimizer"), wanted


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRequest:
    """What is asked of the memory of a model."""

    optimizer: Any = "adam"
    loss_fn: Callable[..., Any] | None = None
    targets: Any = None
    limit: int | None = None  # bytes
    checkpoint: Sequence[str] = ()


def measure_memory(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], request: MemoryRequest
) -> MemoryNeed:
    """What a model needs in training and in inference, in its own dtype and under bfloat16 autocast.

    Raises:
        TargetError: it cannot run without its weights, the forward raises, or it is given no batch.
        UnknownNameError: no optimizer or module has the name.
    """  # noqa: E501
    where = f"memory({type(model).__name__})"
    plan, name = _make_plan(model, args, kwargs, request, where)
    notes, model = [] if plan.model is model else [_SHAPED], plan.model
    refuse_unseen(plan, where)
    training, state, reasons = _measure_training(plan, request)
    forwards = {dtype: _make_forward(plan, dtype) for dtype in _list_dtypes(model)}
    inference, more = _measure_ways(plan, INFERENCE, request, forwards)
    ways = [*training, *inference]
    return MemoryNeed(
        model=type(model).__name__,
        batch=plan.batch,
        input=tuple(tuple(t.shape) for t in _list_tensors(args, kwargs)),
        optimizer=name if training else "",
        limit=request.limit,
        parameters=_count_bytes(model.parameters()),
        buffers=_count_bytes(model.buffers()),
        state=state,
        ways=tuple(ways),
        checkpoints=tuple(
            _measure_checkpoint(plan, block, request.limit)
            for block in (request.checkpoint if training else ())
        ),
        notes=(*notes, *reasons, *more, *_list_notes(plan, request)),
    )


def _measure_training(plan: Plan, request: MemoryRequest) -> tuple[list[MemoryWay], int, list[str]]:
    """The ways to train, the bytes of the optimizer's state, and why a way is left out."""
    if not any(p.requires_grad for p in plan.model.parameters()):
        return [], 0, ["no parameter requires grad: training is left out"]
    steps = {dtype: _make_pass(plan, dtype) for dtype in _list_dtypes(plan.model)}
    try:
        ways, reasons = _measure_ways(plan, TRAINING, request, steps)
    except TargetError as error:
        if request.loss_fn is not None:
            raise
        return [], 0, [f"training is left out: {error.what}"]
    return ways, steps[None](_LARGE[0]).state, reasons


def _measure_ways(
    plan: Plan, name: str, request: MemoryRequest, passes: Mapping[torch.dtype | None, "Pass"]
) -> tuple[list[MemoryWay], list[str]]:
    """Without and with autocast, and why the latter is left out."""
    ways, reasons = [], []
    for dtype, measure in passes.items():
        try:
            ways.append(
                _measure_way(measure, plan=plan, name=name, autocast=dtype, limit=request.limit)
            )
        except TargetError as error:
            if dtype is None:
                raise
            reasons.append(f"{name} under bfloat16 autocast is left out: {error.what}")
    return ways, reasons


def _make_plan(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    request: MemoryRequest,
    where: str,
) -> tuple[Plan, str]:
    refuse_unmeasured(model, args, kwargs, where)
    tensors = _list_tensors(args, kwargs)
    if not tensors or not tensors[0].dim():
        raise TargetError(
            "the model is given no tensor with a batch",
            where=where,
            fix="give the arguments of its forward: memory(model, torch.empty(8, 3, 224, 224))",
        )
    known = [fqn for fqn, _, _ in named_modules(model)]
    for block in request.checkpoint:
        if block not in known:
            raise UnknownNameError(
                f"no module named {block!r}", where=where, fix=suggest(block, filter(None, known))
            )
    name, make = choose_optimizer(request.optimizer)
    plan = Plan(
        model=model,
        args=args,
        kwargs=kwargs,
        targets=request.targets,
        loss_fn=request.loss_fn,
        make_optimizer=make,
        batch=tensors[0].shape[0],
        device=find_device(model),
    )
    return _shape_lazy(plan, where), name


def _shape_lazy(plan: Plan, where: str) -> Plan:
    """The plan with a copy of a lazy model, whose parameters have shapes.

    Raises:
        TargetError: its forward raises, or does not call all of its lazy layers.
    """
    if not is_lazy(plan.model):
        return plan
    try:
        with hush():
            shaped = shape_lazy(plan.model, plan.args, plan.kwargs)
    except Exception as error:
        raise explain_pass(plan, plan.batch, error, where) from error
    refuse_uninitialised(shaped, where)
    return replace(plan, model=shaped)


def _list_tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    return [leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)]


def _list_dtypes(model: nn.Module) -> tuple[torch.dtype | None, ...]:
    """Without autocast and, for a model in float32, with it."""
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return (None, torch.bfloat16) if kinds == {torch.float32} else (None,)


def _list_notes(plan: Plan, request: MemoryRequest) -> Iterator[str]:
    if request.loss_fn is None:
        yield _MEAN
    if is_compiled(plan.model):
        yield "the model is compiled: this is the memory of its eager code, compiled code may keep less"  # noqa: E501
    if buckets := _count_buckets(plan.model):
        yield (
            "not included: the buckets of DistributedDataParallel, a copy of all gradients of "
            f"{format_size(buckets)}; gradient_as_bucket_view=True saves them"
        )
    yield _NOT_INCLUDED
    if plan.device.type != "cuda":
        yield _ON_CPU


def _count_buckets(model: nn.Module) -> int:
    """Bytes in which DistributedDataParallel keeps the gradients once more."""
    return sum(
        _count_bytes(p for p in module.parameters() if p.requires_grad)
        for _, module, first in named_modules(model)
        if first and isinstance(module, DistributedDataParallel)
        if not module.gradient_as_bucket_view
    )


def _count_bytes(tensors: Any) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


# -- one way ---------------------------------------------------------------------------------------

Pass = Callable[[int], MeasuredStep]


def _make_pass(plan: Plan, autocast: torch.dtype | None, blocks: Sequence[str] = ()) -> Pass:
    """A training step at a batch, made once."""
    return cache(partial(measure_step, plan, autocast=autocast, blocks=blocks))


def _make_forward(plan: Plan, autocast: torch.dtype | None) -> Pass:
    """A forward pass at a batch, made once."""
    return cache(partial(measure_forward, plan, autocast=autocast))


def _measure_way(
    measure: Pass, *, plan: Plan, name: str, autocast: torch.dtype | None, limit: int | None
) -> MemoryWay:
    """The line through two large batches, and what it gives at others."""
    low, high = (measure_checked(measure, plan, batch) for batch in _LARGE)
    slope = (high.use.peak - low.use.peak) // (_LARGE[1] - _LARGE[0])
    base = low.use.peak - slope * _LARGE[0]
    step_slope = (high.step - low.step) // (_LARGE[1] - _LARGE[0])
    given = _measure_given(measure, plan.batch)
    fits = None if limit is None else find_largest(measure, limit, base, slope)
    checks = [385, 3 * _LARGE[1] + 1, *([fits] if fits else [])]
    is_low = given is not None and given.peak == base + slope * given.batch
    return MemoryWay(
        name=name,
        autocast="" if autocast is None else str(autocast).removeprefix("torch."),
        given=given,
        base=base,
        slope=slope,
        first=plan.batch if is_low else _LARGE[0],
        step=low.step - step_slope * _LARGE[0],
        step_slope=step_slope,
        fits=fits,
        checked=tuple((batch, measure(batch).use.peak) for batch in checks),
    )


def measure_checked(measure: Pass, plan: Plan, batch: int) -> MeasuredStep:
    """A pass; what it raises is said in one message.

    Raises:
        TargetError: the forward, the loss or the backward raises, or asks for a value.
    """
    where = f"memory({type(plan.model).__name__})"
    try:
        return measure(batch)
    except ProbeError:
        raise
    except Exception as error:
        if "DataDependent" in type(error).__name__ or "Unbacked" in type(error).__name__:
            raise TargetError(
                "the forward asks for the value of a tensor, and there are none",
                where=where,
                fix="measure a part of the model that does not, or watch a real run with "
                "torch.profiler",
            ) from error
        raise explain_pass(plan, batch, error, where) from error


def _measure_given(measure: Pass, batch: int) -> MemoryUse | None:
    """The pass at the given batch; None where that is too small, as for a BatchNorm over one value."""  # noqa: E501
    try:
        return measure(batch).use
    except Exception:
        return None


def find_largest(measure: Pass, limit: int, base: int, slope: int) -> int:
    """The largest batch whose peak is within the limit, found by passes; 0 where none is.

    The line says where to look; from there the distance doubles until the end is enclosed.
    """
    guess = max((limit - base) // slope, 1) if slope > 0 else _LARGE[1]
    low, high, step = 0, 0, 1  # low fits, high does not; 0: none was found yet
    for _ in range(_MOST_TRIALS):
        if _fits(measure, guess, limit):
            low = guess
        else:
            high = guess
        if high and high - low <= 1:
            break
        guess, step = _guess_next(low, high, step), 2 * step
    return low


def _guess_next(low: int, high: int, step: int) -> int:
    if not high:
        return low + step
    return (low + high) // 2 if low else max(high - step, 1)


def _fits(measure: Pass, batch: int, limit: int) -> bool:
    found = measure(batch)
    return max(found.use.peak, found.step) <= limit


def _measure_checkpoint(plan: Plan, block: str, limit: int | None) -> CheckpointEffect:
    """A block with and without checkpointing, at the given batch."""
    plain, with_it = _make_pass(plan, None), _make_pass(plan, None, (block,))
    batch = plan.batch if _measure_given(plain, plan.batch) is not None else _LARGE[0]
    before = measure_checked(plain, plan, batch)
    after = measure_checked(with_it, plan, batch)
    fits = None
    if limit is not None:
        low, high = (with_it(n).use.peak for n in _LARGE)
        slope = (high - low) // (_LARGE[1] - _LARGE[0])
        fits = find_largest(with_it, limit, low - slope * _LARGE[0], slope)
    return CheckpointEffect(
        module=block,
        saved=before.use.saved - after.use.saved,
        peak=before.use.peak - after.use.peak,
        macs=after.macs - before.macs,
        share=(after.macs - before.macs) / before.macs if before.macs else 0.0,
        fits=fits,
    )
