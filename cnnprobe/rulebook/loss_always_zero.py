"""A loss that is zero and stays so."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, Evidence, Flow, describe, operation, option
from cnnprobe.diagnosis.evidence.questions import input_stats, stat, zero
from cnnprobe.diagnosis.evidence.scores import read_number
from cnnprobe.diagnosis.evidence.sums import HANDING
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import images, perceptron, stepping

ZERO = 1e-6  # what rounding leaves of a difference of float32 numbers of about 1
LEAST = 2  # steps
# What is 0 beyond a margin.
MARGINS = frozenset(
    {"relu", "clamp", "max", "maximum", "amax", "where", "triplet_margin_loss",
        "triplet_margin_with_distance_loss", "margin_ranking_loss", "hinge_embedding_loss",
        "cosine_embedding_loss", "multi_margin_loss", "multilabel_margin_loss"}
)  # fmt: skip
_ALIKE = ("mul", "einsum")  # a cosine by hand, 1 where both vectors are the same
# What both sides of a comparison may go through, and still be the same thing.
_THROUGH = FORWARDING | {
    "detach",
    "exp",
    "log",
    "log_softmax",
    "normalize",
    "sigmoid",
    "softmax",
    "tanh",
}


def _loop(own: bool) -> Mapping[str, Any]:
    from torch.nn import functional

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        optimizer.zero_grad()
        output = model(inputs)
        functional.mse_loss(output, output if own else targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return stepping(perceptron(), loop, targets=images()[:, 0, 0, :4].clone() * 1e-2)


def sick() -> Mapping[str, Any]:
    """The output is compared with itself."""
    return _loop(own=True)


def healthy() -> Mapping[str, Any]:
    """With targets that are small."""
    return _loop(own=False)


@rule(
    code="CP420",
    name="loss-always-zero",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "zero-grad",
        "unchanged-weights",
        "no-grad-params",
        "no-grad-path",
        "lr-too-low",
        "unoptimized-params",
        "step-missing",
        "cannot-overfit",
    ),
)
def loss_always_zero(evidence: Evidence) -> Iterator[Finding]:
    """The loss is zero from the first step on: it compares something with itself, is multiplied by
    zero, is a CTC loss of too few time steps, or has no gradient anywhere.

    Why it matters: there is nothing to learn from it, and it looks like a perfect fit.
    What to do: see what both sides of the comparison are made of: one output given twice, a target
    that is computed from the output, a teacher that is the student, two branches that are equal.
    Known exceptions: a margin that this batch keeps, as info; a term beside others.
    Source: the data flow behind the loss of each observed step.
    """
    values = [step.value for step in evidence.steps]
    if len(values) < LEAST or any(v is None or abs(v) > ZERO for v in values):
        return
    flow = Flow(evidence.steps[0].trace)
    for loss in evidence.steps[0].losses:
        found = _find_cause(flow, loss.call)
        if found is None:
            yield from _judge_silent(evidence, flow, loss.call)
            continue
        place, kind, cause = found
        yield Finding(
            module=None,
            message=(
                f"the loss is {values[0]:.3g} in {len(values)} of "
                f"{format_counted(len(values), 'step')}: {cause}"
            ),
            fix="compare the output with targets that do not come from it",
            source=flow.line(place),
            kind=kind,
            subject=describe(flow.calls[place]),
        )


def _find_cause(flow: Flow, index: int | None) -> tuple[int, str, str] | None:
    """The row that makes it zero, by which kind of fault, and how."""
    while index is not None:
        call = flow.calls[index]
        tensors = [t for t in call.inputs if t.shape or t.requires_grad]
        if operation(call) == "mul" and read_number(flow, index) == 0:
            return index, "factor-of-zero", "it is multiplied by 0"
        if _is_square(call):
            index = flow.producer(flow.data(index))
            continue
        if len(tensors) > 1 and not _is_same(call) and operation(call) not in _ALIKE:
            return None
        if len(tensors) > 1:
            cause = _compare(flow, tensors[0], tensors[1])
            return None if cause is None else (index, "", f"{describe(call)} {cause}")
        index = flow.producer(flow.data(index))
    return None


def _is_square(call: ModuleCall) -> bool:
    """Whether a tensor is multiplied with itself."""
    sources = [t.source for t in call.inputs]
    return operation(call) == "mul" and len(sources) == 2 and sources[0] == sources[1] is not None


def _compare(flow: Flow, a: TensorInfo, b: TensorInfo) -> str | None:
    """How two sides of a comparison are the same."""
    left, right = _find_origin(flow, a), _find_origin(flow, b)
    if left is None or right is None:
        return None
    name = describe(flow.calls[left])
    if left == right:
        return f"compares what {name} gives with itself"
    if left in flow.before(right) and not b.requires_grad:
        return f"compares what {name} gives with a target that is computed from it"
    if left in flow.before(right) or right in flow.before(left):
        return f"compares what {name} gives with something that is computed from it"
    if _is_equal(flow, left, right):
        if flow.calls[left].fqn is not None and flow.calls[left].fqn == flow.calls[right].fqn:
            return f"compares two calls of {name}, which give the same"
        return f"compares {name} with {describe(flow.calls[right])}, which give the same"
    return None


def _find_origin(flow: Flow, info: TensorInfo) -> int | None:
    """The row that both sides of a comparison may come from, also by a number as factor."""
    index = flow.origin(info, _THROUGH)
    while index is not None and read_number(flow, index) is not None:
        if operation(flow.calls[index]) not in ("mul", "div"):
            return index
        given = flow.data(index)
        index = flow.origin(given, _THROUGH) if given is not None else None
    return index


def _is_same(call: ModuleCall) -> bool:
    """Whether a comparison gives no difference: a cosine of 1, or zeros."""
    made = call.outputs[0] if call.outputs else None
    if operation(call) == "cosine_similarity":
        return stat(made, "min") >= 1 - ZERO
    return max(abs(stat(made, "min")), abs(stat(made, "max"))) <= ZERO


def _is_equal(flow: Flow, left: int, right: int) -> bool:
    """Whether two rows give the same, by all of their statistics."""
    made, other = (flow.calls[i].outputs[:1] for i in (left, right))
    if not made or not other or made[0].shape != other[0].shape or made[0].stats is None:
        return False
    return stat(made[0], "count") > 1 and made[0].stats == other[0].stats


# -- zero, with gradients of zero ------------------------------------------------------------------


def _judge_silent(evidence: Evidence, flow: Flow, index: int | None) -> Iterator[Finding]:
    """A loss of exactly 0 that gives no weight a gradient in any step."""
    gradients = [g for step in evidence.steps for g in step.gradients.values()]
    is_silent = bool(gradients) and all(map(zero, gradients))
    if index is None or not is_silent or any(step.value != 0 for step in evidence.steps):
        return
    counted = format_counted(len(evidence.steps), "step")
    rows = [i for i in flow.before(index) | {index} if operation(flow.calls[i]) == "ctc_loss"]
    cause = _find_short(evidence, flow, max(rows)) if rows else None
    if cause is not None:
        yield Finding(
            module=None,
            kind="too-few-steps",
            message=f"the loss and all gradients are exactly 0 in {counted}: {cause}",
            fix=(
                "let the model give more time steps (less stride or pooling along the width), or "
                "shorter targets; zero_infinity=False shows such a loss as inf"
            ),
            source=flow.line(max(rows)),
        )
        return
    row = _find_end(flow, index)
    is_margin = any(
        operation(flow.calls[i]) in MARGINS for i in (flow.before(row) & _list_loss(flow)) | {row}
    )
    yield Finding(
        module=None,
        kind="no-gradient",
        severity=Severity.INFO if is_margin else Severity.WARNING,
        message=(
            f"the loss and all gradients are exactly 0 in {counted}: {describe(flow.calls[row])} "
            "gives nothing but 0"
            + (" (each sample of this batch may keep its margin)" if is_margin else "")
        ),
        fix="see what it is given: a mask that chooses nothing, weights of 0, or a value cut off",
        source=flow.line(row),
    )


def _find_short(evidence: Evidence, flow: Flow, row: int) -> str | None:
    """That a CTC loss has fewer time steps than each of its targets has labels."""
    call = flow.calls[row]
    if option(evidence.trace, call, "zero_infinity") is not True or len(call.inputs) < 2:
        return None
    given = [input_stats(flow, info) for info in call.inputs[2:4]]
    most = stat(given[0], "max") if given else math.nan
    least = stat(given[1], "min") if len(given) > 1 else math.nan
    steps = call.inputs[0].shape[0] if math.isnan(most) else int(most)
    wanted = call.inputs[1].shape[-1] if math.isnan(least) else int(least)
    if len(call.inputs[1].shape) < 2 and math.isnan(least):
        return None
    if steps >= wanted:
        return None
    return (
        f"{describe(call)} gets {format_counted(steps, 'time step')} for "
        f"{format_counted(wanted, 'label')} or more per target, and needs at least one step per "
        "label (one more between two equal ones); zero_infinity=True makes 0 of the infinite loss"
    )


def _find_end(flow: Flow, index: int) -> int:
    """The row behind sums, means and multiples."""
    made: int | None = index
    while made is not None and operation(flow.calls[made]) in HANDING:
        index, made = made, flow.producer(flow.data(made))
    return index if made is None else made


def _list_loss(flow: Flow) -> set[int]:
    """The rows that lie in no module."""
    return {i for i in range(len(flow.calls)) if flow.owner(i) is None}
