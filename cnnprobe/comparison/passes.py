"""Runs both models and compares every activation. Runs forward passes of its own, and leaves
models, inputs and generators as they were.

Where they can, both passes take turns and no activation is kept. Else those of one model at most
are: the actual one runs first and keeps its outputs, the other one streams against them, and each
is let go as soon as it was compared. What stands for what is known beforehand, from a pass on the
meta device that computes nothing.
"""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cnnprobe.comparison.alignment import align
from cnnprobe.comparison.lockstep import KEPT, can_run_side_by_side, run_side_by_side
from cnnprobe.comparison.numbers import Tolerance
from cnnprobe.comparison.primitives import list_operations
from cnnprobe.comparison.structure import Aligned
from cnnprobe.comparison.witnesses import Counter, Keeper, Streamer, find_difference
from cnnprobe.recorder import Observation, Witness, is_compiled, observe, switch_mode
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.recorder.preservation import (
    ModuleState,
    is_sharded,
    preserved_generators,
)
from cnnprobe.recorder.shapes import move_to_meta, without_values
from cnnprobe.recorder.values import drop_output, leaves, name_deferred
from cnnprobe.records.differences import Discrepancy, Operation
from cnnprobe.records.trace import Trace

_PLAIN = (bool, int, float, complex, str, np.generic)
_COMPARED = (Tensor, np.ndarray, type(None), *_PLAIN)  # an object of a user's own is not


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A model with the inputs that it is given."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """What a pass of both models found: positions in the pairs -> discrepancy (None: equal), and
    the same for the outputs, by path.
    """

    aligned: Aligned
    activations: Mapping[int, Discrepancy | str | None] = field(default_factory=dict)
    outputs: Mapping[str, Discrepancy | str | None] = field(default_factory=dict)
    ran: bool = True  # both forward passes came to their end
    unread: str = ""  # why no output was compared; "" where one was


# -- passes ----------------------------------------------------------------------------------------


def run_both(actual: Side, expected: Side, tolerance: Tolerance, *, training: bool) -> Agreement:
    """One forward pass of each model in the given mode, from the same state of the random
    generators, with every activation compared.
    """
    if can_run_side_by_side(actual.model, expected.model):
        found = _run_side_by_side(actual, expected, tolerance, training=training)
        if found is not None:
            return found
    return _run_one_after_the_other(actual, expected, tolerance, training=training)


def _run_side_by_side(
    actual: Side, expected: Side, tolerance: Tolerance, *, training: bool
) -> Agreement | None:
    """Both passes in turns; None where they did not run as was expected, or in an order in which
    they cannot take turns.
    """
    plan = None
    if not _is_built_alike(actual.model, expected.model):
        traces = [trace_structure(subject, training=training) for subject in (actual, expected)]
        plan, _ = _make_plan(align_traces(traces[0], traces[1]))
        numbers = [number for number, _ in plan.values()]
        if numbers != sorted(numbers) or list(plan) != sorted(plan):
            return None
    found: dict[int, Discrepancy | str | None] = {}

    def compare(mine: Tensor, other: Tensor, number: int) -> None:
        depth = number + 1 if plan is None else plan[number][1]
        found[number] = find_difference(mine, other, tolerance, depth)

    first, second = run_side_by_side(
        lambda witness: observe_pass(actual, witness, training=training),
        lambda witness: observe_pass(expected, witness, training=training),
        (lambda number: number) if plan is None else (lambda number: plan.get(number, (-1, 0))[0]),
        compare,
    )
    aligned = align_traces(first.trace, second.trace)
    real, positions = _make_plan(aligned)
    if (
        any(number not in found for number in real)
        or (plan is not None and real != plan)
        or (plan is None and any(k != n for k, (n, _) in real.items()))
    ):
        return None
    at_pairs = {positions[k]: found[k] for k in reversed(found) if k in positions}
    return _build_agreement(first, second, aligned, at_pairs, tolerance)


def _run_one_after_the_other(
    actual: Side, expected: Side, tolerance: Tolerance, *, training: bool
) -> Agreement:
    """The actual model's activations are kept, and the expected one streams against them."""
    expected_trace = None
    for attempt in (1, 2):
        keeper = Keeper()
        first = observe_pass(actual, keeper, training=training)
        if expected_trace is None:
            expected_trace = (
                first.trace
                if _is_built_alike(actual.model, expected.model)
                else trace_structure(expected, training=training)
            )
        aligned = align_traces(first.trace, expected_trace)
        plan, positions = _make_plan(aligned)
        _let_go(keeper, plan)
        streamer = Streamer(keeper.tensors, plan, tolerance)
        second = observe_pass(expected, streamer, training=training)
        aligned = align_traces(first.trace, second.trace)
        if attempt == 2 or _make_plan(aligned) == (plan, positions):
            break
        # it did not run as it was expected to (values decide its flow): align with what really ran
        expected_trace = second.trace
    found = {
        positions[number]: difference for number, difference in reversed(streamer.found.items())
    }
    return _build_agreement(first, second, aligned, found, tolerance)


def _build_agreement(
    first: Observation,
    second: Observation,
    aligned: Aligned,
    found: Mapping[int, Discrepancy | str | None],
    tolerance: Tolerance,
) -> Agreement:
    agreement = Agreement(
        aligned=aligned,
        activations=dict(sorted(found.items())),
        ran=first.error is None and second.error is None,
    )
    return add_outputs(agreement, first.output, second.output, tolerance, len(aligned.expected))


def run_plainly(
    agreement: Agreement, actual: Side, expected: Side, tolerance: Tolerance, *, training: bool
) -> Agreement:
    """The agreement with the outputs alone, of both models as they run when nobody looks: what
    compiled code allows.
    """
    if not agreement.ran:
        return replace(agreement, outputs={})
    outputs = []
    for subject in (actual, expected):
        with preserved_generators(), set_mode(subject.model, training=training), torch.no_grad():
            outputs.append(subject.model(*copy_inputs(subject.args), **copy_inputs(subject.kwargs)))
    depth = sum(1 for _ in named_modules(expected.model))
    return add_outputs(agreement, outputs[0], outputs[1], tolerance, depth)


def align_traces(actual: Trace, expected: Trace) -> Aligned:
    """The operations of two traces, and which stands for which."""
    ours, theirs = list_operations(actual), list_operations(expected)
    return Aligned(
        traces=(actual, expected), actual=ours, expected=theirs, alignment=align(ours, theirs)
    )


def observe_pass(subject: Side, witness: Witness, *, training: bool) -> Observation:
    """One forward pass without gradients, seen by `witness`."""
    with set_mode(subject.model, training=training), torch.no_grad():
        return observe(subject.model, subject.args, subject.kwargs, witness=witness)


def trace_structure(subject: Side, *, training: bool) -> Trace:
    """The trace of a forward pass that computes nothing; where the meta device cannot follow, that
    of a real one.
    """
    if any(is_sharded(module) for module in subject.model.modules()):
        return observe_pass(subject, Counter(), training=training).trace  # shards cannot be swapped
    try:
        with (
            set_mode(subject.model, training=training),
            without_values(subject.model),
            torch.no_grad(),
        ):
            args, kwargs = move_to_meta((subject.args, subject.kwargs))
            observation = observe(subject.model, args, kwargs, witness=Counter())
        if observation.error is None:
            drop_output(observation.output)
            return observation.trace
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
    ):  # a parameter or input that has no twin without values
        pass
    observation = observe_pass(subject, Counter(), training=training)
    drop_output(observation.output)
    return observation.trace


def add_outputs(
    agreement: Agreement, actual: Any, expected: Any, tolerance: Tolerance, depth: int
) -> Agreement:
    """The agreement with what the models gave back, or with the reason why none of it could be
    compared.
    """
    for output in (actual, expected):
        drop_output(output)
    if not agreement.ran:
        return replace(agreement, outputs={})
    found = compare_outputs(actual, expected, tolerance, depth)
    if found:
        return replace(agreement, outputs=found)
    if deferred := name_deferred(actual) or name_deferred(expected):
        why = f"the forward returns a {deferred}, which runs when it is read"
    else:
        name = "None" if expected is None else f"a {type(expected).__name__}"
        why = f"the forward returns {name}, without a tensor or a number in it"
    return replace(agreement, outputs={}, unread=why)


def compare_outputs(
    actual: Any, expected: Any, tolerance: Tolerance, depth: int
) -> dict[str, Discrepancy | str | None]:
    """What the models gave back, leaf by leaf: path -> discrepancy, None where equal; without what
    can't be compared.
    """
    ours, theirs = dict(leaves(actual)), dict(leaves(expected))
    found: dict[str, Discrepancy | str | None] = {}
    for path in (*theirs, *(path for path in ours if path not in theirs)):
        if path not in ours or path not in theirs:
            found[path] = "only the {} model returns it".format(
                "expected" if path in theirs else "actual"
            )
            continue
        a, b = ours[path], theirs[path]
        if all(isinstance(value, np.ndarray) for value in (a, b)):
            a, b = _read_array(a), _read_array(b)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            found[path] = find_difference(a, b, tolerance, depth)
        elif isinstance(a, _PLAIN) and isinstance(b, _PLAIN):
            same = a == b or _are_near(a, b, tolerance, depth)
            found[path] = None if same else f"{a!r} instead of {b!r}"
        elif type(a) is not type(b) and any(isinstance(value, _COMPARED) for value in (a, b)):
            found[path] = f"a {type(a).__name__} instead of a {type(b).__name__}"
    return found


def _read_array(array: Any) -> Any:
    """The array as a tensor, where it holds numbers that torch knows."""
    try:
        return torch.from_numpy(array)
    except (TypeError, ValueError):
        return array


def _are_near(a: Any, b: Any, tolerance: Tolerance, depth: int) -> bool:
    """Whether two numbers are as near as those of tensors may be: what item() gives was float32."""
    is_float = isinstance(a, float | complex) and isinstance(b, float | complex)
    return is_float and find_difference(torch.tensor(a), torch.tensor(b), tolerance, depth) is None


def _make_plan(aligned: Aligned) -> tuple[dict[int, tuple[int, int]], dict[int, int]]:
    """Tensor of the expected pass -> (kept tensor of the actual one, depth), and -> position in the
    pairs.
    """
    plan: dict[int, tuple[int, int]] = {}
    positions: dict[int, int] = {}
    for k, a, b in aligned.both():
        ours, theirs = _list_numbers(aligned.traces[0], a), _list_numbers(aligned.traces[1], b)
        for mine, other in zip(ours, theirs, strict=False):
            plan[other] = (mine, (aligned.alignment.pairs[k].expected or 0) + 1)
            positions[other] = k
    return plan, positions


def _is_built_alike(actual: nn.Module, expected: nn.Module) -> bool:
    """Whether two models are of the same classes and names throughout: then they will run alike,
    and if not, it is seen and run again.
    """
    ours, theirs = (
        [(fqn, type(module)) for fqn, module, _ in named_modules(model)]
        for model in (actual, expected)
    )
    return ours == theirs


def _list_numbers(trace: Trace, operation: Operation) -> list[int]:
    return [
        int(out.stats[KEPT])
        for out in trace.calls[operation.call].outputs
        if out.stats is not None and KEPT in out.stats
    ]


def _let_go(keeper: Keeper, plan: Mapping[int, tuple[int, int]]) -> None:
    wanted = {number for number, _ in plan.values()}
    for number in range(len(keeper.tensors)):
        if number not in wanted:
            keeper.tensors[number] = None


# -- modes and devices -----------------------------------------------------------------------------


@contextlib.contextmanager
def set_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """The model in train or eval mode by its own `train()`, and afterwards as it was, buffers and
    attributes too.
    """
    state = ModuleState(named_modules(model))
    try:
        switch_mode(model, training=training)
        yield
    finally:
        state.restore()


def copy_inputs(value: Any) -> Any:
    """The inputs with tensors of their own, for a pass that nobody guards."""
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, value
    )


def fit_inputs(value: Any, model: nn.Module) -> Any:
    """The inputs on the device and in the floating dtype of the model's parameters."""
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    if like is None:
        return value

    def fit(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or (leaf.is_meta and not like.is_meta):
            return leaf  # the forward says what is wrong with it
        return (
            leaf.to(like.device, like.dtype) if leaf.is_floating_point() else leaf.to(like.device)
        )

    return torch.utils._pytree.tree_map(fit, value)


def has_other_rounding(actual: nn.Module, expected: nn.Module) -> bool:
    """Whether the two do not round alike: another dtype or device, or compiled code."""
    likes = [
        next(((p.dtype, p.device.type) for p in model.parameters() if p.is_floating_point()), None)
        for model in (actual, expected)
    ]
    return (None not in likes and likes[0] != likes[1]) or is_compiled(actual) != is_compiled(
        expected
    )
