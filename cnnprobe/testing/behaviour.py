"""Assertions about what a model does: numbers, gradients, batches, modes. Each runs the model, and
leaves it as it was.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from cnnprobe.errors import TargetError
from cnnprobe.recorder import preserved
from cnnprobe.recorder.inventory import class_of, has_values, is_lazy, named_modules
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.recorder.values import leaves
from cnnprobe.records.trace import ModuleCall, Trace
from cnnprobe.records.words import format_counted
from cnnprobe.testing.failures import (
    Inputs,
    describe_place,
    fail,
    match_names,
    observe_model,
    split_arguments,
)

Loss = Callable[..., Tensor]


def assert_finite(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    *,
    loss_fn: Loss | None = None,
    backward: bool = True,
) -> None:
    """Fail if any operation of the forward pass puts out NaN or Inf, or any gradient of the
    backward pass is not finite.

    Args:
        model: the model.
        inputs: what it is called with.
        targets: what the loss compares with; only with `loss_fn`.
        loss_fn: the loss; by default a fixed random weighting of all outputs.
        backward: whether to look at gradients too.
    """
    __tracebackhide__ = True
    seen = observe_model(model, inputs, statistics=True)
    outputs = [t for _, t in leaves(seen.output) if isinstance(t, Tensor)]
    check_values(model, outputs, "output")
    _check_activations(model, seen.trace)
    if not backward:
        return
    with _compute_gradients(model, inputs, targets, loss_fn) as gradients:
        bad = [
            f"'{name}': {int((~g.isfinite()).sum()):,} of {g.numel():,} values"
            for name, g in gradients.items()
            if g is not None and not bool(g.isfinite().all())
        ]
    if bad:
        verb = "are" if len(bad) > 1 else "is"
        fail(
            f"{format_counted(len(bad), 'gradient')} {verb} not finite",
            details=bad,
            where=class_of(model).__name__,
            fix="start with the last one: the backward pass runs from the end",
        )


def _check_activations(model: nn.Module, trace: Trace) -> None:
    """Fail at the first operation that puts out NaN or Inf; a module that only hands such values on
    from an operation inside of it is not the first.
    """
    __tracebackhide__ = True
    odd = [i for i, call in enumerate(trace.calls) if _find_odd_output(call) is not None]
    parents = {call.parent for call in trace.calls}
    first = [i for i in odd if i not in parents]
    if not first:
        return
    call = trace.calls[first[0]]
    counts = _find_odd_output(call) or {}
    which = "the only operation" if len(first) == 1 else f"the first of {len(first):,} operations"
    fail(
        f"{counts['nan']:,} NaN and {counts['inf']:,} Inf among the {counts['count']:,} "
        f"values of {describe_place(trace, first[0])}",
        where=f"{which} with such values; {_describe_origin(model, call)}",
        fix=(
            "look at what this operation computes from its inputs: a division, a logarithm, "
            "an overflow in half precision"
        ),
    )


def _find_odd_output(call: ModuleCall) -> Mapping[str, float | int] | None:
    """The statistics of the first output with NaN or Inf."""
    return next(
        (t.stats for t in call.outputs if t.stats and (t.stats["nan"] or t.stats["inf"])), None
    )


def _describe_origin(model: nn.Module, call: ModuleCall) -> str:
    """Where values that are not finite may have come from: parameters first, as they spoil every
    later run.
    """
    module = dict(model.named_modules()).get(call.fqn) if call.fqn is not None else None
    spoilt = (
        [name for name, p in module.named_parameters(recurse=False) if not bool(p.isfinite().all())]
        if module is not None
        else []
    )
    if spoilt:
        return f"its {' and '.join(spoilt)} {'are' if len(spoilt) > 1 else 'is'} not finite"
    given = any(t.stats and (t.stats["nan"] or t.stats["inf"]) for t in call.inputs)
    return "its inputs were not finite either" if given else "its inputs were finite"


def assert_gradients_reach(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    *,
    loss_fn: Loss | None = None,
    ignore: Sequence[str] = (),
) -> None:
    """Fail unless every trainable parameter gets a gradient that is not zero everywhere.

    Args:
        model: the model; it is run forward and backward once.
        inputs: what it is called with.
        targets: what the loss compares with; only with `loss_fn`.
        loss_fn: the loss; by default a fixed random weighting of all outputs, so that nothing
            cancels.
        ignore: glob patterns of parameters that need none.
    """
    __tracebackhide__ = True
    with _compute_gradients(model, inputs, targets, loss_fn) as gradients:
        left_out = match_names(gradients, ignore, what="trainable parameter") if ignore else set()
        missing = [
            f"'{name}': {'no gradient' if gradient is None else 'zero everywhere'}"
            for name, gradient in gradients.items()
            if name not in left_out and (gradient is None or not bool(gradient.any()))
        ]
    if not gradients:
        fail(
            "no parameter is trainable",
            where=class_of(model).__name__,
            fix="call requires_grad_(True) on the parameters that should learn",
        )
    if missing:
        fail(
            (
                f"{len(missing)} of {format_counted(len(gradients), 'trainable parameter')} "
                "without a "
                "gradient"
            ),
            details=missing,
            where=class_of(model).__name__,
            fix=(
                "look for detach(), no_grad(), .data, argmax, or a layer whose result is not "
                "used; list parameters that need no gradient in ignore="
            ),
        )


@contextlib.contextmanager
def _compute_gradients(
    model: nn.Module, inputs: Inputs, targets: Any, loss_fn: Loss | None
) -> Iterator[dict[str, Tensor | None]]:
    """The gradient of each trainable parameter after one forward and backward pass; the model is as
    before afterwards.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    with keep_model(model, args, kwargs) as (args, kwargs), torch.enable_grad():
        for parameter in parameters.values():
            parameter.grad = None
        loss = _compute_loss(model(*args, **kwargs), targets, loss_fn)
        if not loss.requires_grad:
            yield dict.fromkeys(parameters)
            return
        check_values(model, [loss], "loss")
        found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        yield dict(zip(parameters, found, strict=True))


@contextlib.contextmanager
def keep_model(
    model: nn.Module, args: tuple[Any, ...], kwargs: Any
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Copies of the arguments to run on; model and generators are as before afterwards, whatever
    the forward writes to.
    """
    _check_shapes(model)
    copies = {id(p): (p, p.detach().clone()) for p in model.parameters() if has_values(p)}
    given = torch.utils._pytree.tree_map(
        lambda v: v.detach().clone() if isinstance(v, Tensor) else v, (tuple(args), dict(kwargs))
    )
    with preserved_generators(), preserved(named_modules(model), (), {}):
        try:
            yield given
        finally:
            with torch.no_grad():
                for parameter, copied in copies.values():
                    if not torch.equal(parameter, copied):
                        parameter.copy_(copied)


def _check_shapes(model: nn.Module) -> None:
    """Refuse a lazy model, which its first forward would change for good."""
    if is_lazy(model):
        raise TargetError(
            "the model has lazy modules: its first forward pass creates their parameters",
            where=class_of(model).__name__,
            fix="call it once on a batch before testing it",
        )


def check_values(model: nn.Module, tensors: Sequence[Tensor], what: str) -> None:
    """Refuse what came out on meta, where there is nothing to compare."""
    if not all(map(has_values, tensors)):
        raise TargetError(
            f"the {what} has no values: it is on the meta device",
            where=class_of(model).__name__,
            fix=(
                "move the model to a real device with model.to_empty(device='cpu'), and load "
                "weights"
            ),
        )


def _compute_loss(output: Any, targets: Any, loss_fn: Loss | None) -> Tensor:
    if loss_fn is not None:
        return loss_fn(output) if targets is None else loss_fn(output, targets)
    # Weighted at random, or a softmax and its kin would sum to a constant, whose gradient is zero.
    generator = torch.Generator().manual_seed(0)
    tensors = [t for _, t in leaves(output) if isinstance(t, Tensor) and t.dtype.is_floating_point]
    weighted = [(t * torch.randn(t.shape, generator=generator).to(t)).sum() for t in tensors]
    return torch.stack([w.float() for w in weighted]).sum() if weighted else torch.zeros(())


def assert_parameters_change(
    model: nn.Module,
    inputs: Inputs,
    targets: Any = None,
    *,
    optimizer: torch.optim.Optimizer,
    loss_fn: Loss | None = None,
    ignore: Sequence[str] = (),
) -> None:
    """Fail unless one step of the optimizer changes every trainable parameter. Model and optimizer
    are as before afterwards.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    left_out = match_names(parameters, ignore, what="trainable parameter") if ignore else set()
    _check_shapes(model)
    before = {name: p.detach().clone() for name, p in parameters.items() if has_values(p)}
    state = copy.deepcopy(optimizer.state_dict())
    try:
        with keep_model(model, args, kwargs) as (args, kwargs), torch.enable_grad():
            optimizer.zero_grad()
            loss = _compute_loss(model(*args, **kwargs), targets, loss_fn)
            check_values(model, [loss], "loss")
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            same = [
                name
                for name, p in parameters.items()
                if name not in left_out and (name not in before or torch.equal(p, before[name]))
            ]
    finally:
        optimizer.load_state_dict(state)
    if same:
        _fail_unchanged(model, same, parameters, optimizer)


def _fail_unchanged(
    model: nn.Module,
    same: Sequence[str],
    parameters: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> NoReturn:
    __tracebackhide__ = True
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    state = {True: "is unchanged", False: "is not in the optimizer"}
    fail(
        f"{len(same)} of {format_counted(len(parameters), 'trainable parameter')} did not "
        "change in a step",
        details=[f"'{name}': {state[id(parameters[name]) in known]}" for name in same],
        where=class_of(model).__name__,
        fix="give the optimizer model.parameters(), and make sure that a gradient reaches each",
    )


def assert_overfits_batch(
    model: nn.Module,
    inputs: Inputs,
    targets: Any,
    *,
    loss_fn: Loss,
    optimizer: Callable[..., torch.optim.Optimizer] | None = None,
    steps: int = 100,
    to: float = 0.1,
) -> None:
    """Fail unless a copy of the model can learn one batch by heart: its loss falls to the fraction
    `to` of what it was within `steps`.

    Args:
        model: the model; a copy is trained.
        inputs: one batch.
        targets: what the loss compares with.
        loss_fn: the loss, a minimum of 0 assumed.
        optimizer: makes an optimizer of parameters; default Adam(lr=0.003).
        steps: at most so many.
        to: fraction of the first loss.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    _check_shapes(model)
    with preserved_generators(), torch.enable_grad():
        twin = copy.deepcopy(model).train()
        make = optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.003))
        stepper = make([p for p in twin.parameters() if p.requires_grad])
        first = last = float("nan")
        for step in range(steps):
            stepper.zero_grad()
            loss = _compute_loss(twin(*args, **kwargs), targets, loss_fn)
            check_values(model, [loss], "loss")
            last = float(loss.detach())
            first = last if step == 0 else first
            if last <= to * first:
                return
            loss.backward()  # type: ignore[no-untyped-call]
            stepper.step()
    fail(
        (
            f"after {steps} steps on one batch the loss is {last:.4g}, still {last / first:.0%} of "
            f"{first:.4g} (at most {to:.0%} allowed)"
        ),
        where=class_of(model).__name__,
        fix=(
            "check that the gradient reaches all layers, the loss fits the output, and the "
            "learning rate"
        ),
    )
