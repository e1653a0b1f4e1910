"""Scores within a loss: the overlap of an output with its targets, or what it gives to their
places, and the sign that they go in with.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.evidence import Evidence, Loss
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import FORWARDING, argument, operation
from cnnprobe.diagnosis.evidence.loss_terms import KEEPING
from cnnprobe.records.trace import TensorInfo

ROOTS = frozenset({"sqrt", "rsqrt", "norm", "std", "var", "normalize", "cosine_similarity"})
PRODUCTS = frozenset({"mul", "matmul", "dot", "einsum", "bmm", "logical_and", "inner"})
SUMS = frozenset({"sum", "mean"})
PICKING = frozenset({"gather", "getitem", "take_along_dim"})


class ScoreKind(enum.StrEnum):
    """What a score is."""

    OVERLAP = "overlap"  # a ratio: shared over all, as dice and IoU are
    PICKED = "picked"  # what the output gives to the places of the targets
    FOCAL = "focal"  # the weight of a focal loss: (1 - p) to a power


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """A score within a loss, of an output and of targets from outside."""

    kind: ScoreKind
    loss: Loss
    index: int  # its row
    sign: int  # that it goes into the loss with: -1 in "1 - dice"
    prediction: TensorInfo
    target: TensorInfo | None


def find_scores(evidence: Evidence, flow: Flow) -> Iterator[Score]:
    """The scores of the losses of the first step."""
    for loss in evidence.steps[0].losses if evidence.steps else ():
        stack, is_sum = [(loss.call, 1)], False
        while stack:
            index, sign = stack.pop()
            if index is None or flow.owner(index) is not None:
                continue
            found = _find_score(flow, loss, index, sign)
            if found is not None and not (is_sum and found.kind is ScoreKind.PICKED):
                yield found
            if found is None:
                terms = list(_list_terms(flow, index, sign))
                is_sum |= len(terms) > 1
                stack.extend(terms)
        yield from _find_focal(flow, loss)


def _list_terms(flow: Flow, index: int, sign: int) -> Iterator[tuple[int | None, int]]:
    """The rows that a sum is made of, or the one that a row only scales, each with its sign."""
    call, kind = flow.calls[index], operation(flow.calls[index])
    if kind in ("add", "sub") and len(call.inputs) > 1:
        yield flow.producer(call.inputs[0]), sign
        yield flow.producer(call.inputs[1]), -sign if kind == "sub" else sign
    elif turned := _find_sign(flow, index):
        yield flow.producer(flow.data(index)), sign * turned


def _find_sign(flow: Flow, index: int) -> int:
    """1 or -1, the sign that a row gives to its first input; 0 where it does more than that."""
    call, kind = flow.calls[index], operation(flow.calls[index])
    number = read_number(flow, index)
    if kind in ("neg", "rsub"):
        return -1 if len(call.inputs) == 1 else 0
    if kind in ("add", "sub"):
        return 0 if number is None else 1
    if kind in ("mul", "div"):
        return 0 if number is None else -1 if number < 0 else 1
    return 1 if kind in KEEPING else 0


def read_number(flow: Flow, index: int) -> float | None:
    """The number beside the tensor of an operator; None where there is none."""
    call = flow.calls[index]
    for found in (argument(call, "other"), call.arguments.get("[1]")):
        if isinstance(found, int | float):
            return float(found)
    return None


def _find_score(flow: Flow, loss: Loss, index: int, sign: int) -> Score | None:
    call, kind = flow.calls[index], operation(flow.calls[index])
    ends: tuple[TensorInfo, TensorInfo | None] | None
    if kind == "div" and len(call.inputs) > 1 and _is_ratio(flow, index):
        ends = _find_product(flow, call.inputs[0])
        chosen = ScoreKind.OVERLAP
    elif kind in PRODUCTS:
        ends, chosen = _find_ends(call.inputs), ScoreKind.PICKED
    elif kind in PICKING and call.inputs and call.inputs[0].requires_grad:
        ends, chosen = (call.inputs[0], _find_index(call.inputs)), ScoreKind.PICKED
    else:
        return None
    if ends is None:
        return None
    prediction, target = ends
    return Score(
        kind=chosen, loss=loss, index=index, sign=sign, prediction=prediction, target=target
    )


def _find_index(inputs: tuple[TensorInfo, ...]) -> TensorInfo | None:
    """The labels: an index that comes from outside, and not a range that is made for it."""
    found = [t for t in inputs[1:] if t.dtype.startswith("int")]
    return found[-1] if found else None


def _find_ends(inputs: tuple[TensorInfo, ...]) -> tuple[TensorInfo, TensorInfo] | None:
    """The output and the fixed tensor that are multiplied."""
    learned = [t for t in inputs[:2] if t.requires_grad]
    fixed = [t for t in inputs[:2] if not t.requires_grad]
    return (learned[0], fixed[0]) if len(learned) == len(fixed) == 1 else None


def _find_product(flow: Flow, info: TensorInfo) -> tuple[TensorInfo, TensorInfo] | None:
    """Output and target of the sum of products that a tensor is, but for numbers."""
    index, summed = flow.producer(info), False
    while index is not None and flow.owner(index) is None:
        call, kind = flow.calls[index], operation(flow.calls[index])
        ends = _find_ends(call.inputs) if kind in PRODUCTS else None
        if ends is not None:
            made = flow.producer(ends[0])
            if (
                made is None
                or flow.owner(made) is not None
                or operation(flow.calls[made]) not in SUMS
            ):
                return ends if summed or kind != "mul" else None
            index = made  # a weight of the sum, as in a generalised dice
            continue
        if kind in SUMS:
            summed = True
        elif _find_sign(flow, index) != 1:
            return None
        index = flow.producer(flow.data(index))
    return None


def _is_ratio(flow: Flow, index: int) -> bool:
    """Whether a divisor is made of sums of the output, and of no root."""
    divisor = flow.calls[index].inputs[1]
    made = flow.producer(divisor)
    if made is None or not divisor.requires_grad:
        return False
    behind = {i for i in flow.before(made) | {made} if flow.owner(i) is None}
    kinds = {operation(flow.calls[i]) for i in behind}
    return bool(kinds & SUMS) and not kinds & ROOTS


def _find_focal(flow: Flow, loss: Loss) -> Iterator[Score]:
    """(1 - p) ** gamma, beside a logarithm or a loss."""
    behind = flow.before(loss.call) if loss.call is not None else set()
    for i in flow.primitives(("pow",)):
        base = flow.producer(flow.data(i))
        if i not in behind or base is None or flow.owner(i) is not None:
            continue
        is_rest = operation(flow.calls[base]) == "rsub" and read_number(flow, base) == 1
        if is_rest and _is_weight(flow, i):
            yield Score(
                kind=ScoreKind.FOCAL,
                loss=loss,
                index=i,
                sign=1,
                prediction=flow.calls[i].inputs[0],
                target=None,
            )


def _is_weight(flow: Flow, index: int) -> bool:
    """Whether what is raised is multiplied with what comes of a logarithm or a standard loss."""
    through = FORWARDING | {"neg"}
    products = [r for r in flow.passes_on(index, through) if operation(flow.calls[r]) == "mul"]
    for product in products:
        for info in flow.calls[product].inputs:
            maker = flow.producer(info)
            if maker is not None and maker != index and _is_logarithm(flow, maker):
                return True
    return False


def _is_logarithm(flow: Flow, index: int) -> bool:
    near = {index, *(s for t in flow.calls[index].inputs if (s := flow.producer(t)) is not None)}
    kinds = {operation(flow.calls[i]) for i in near if flow.owner(i) is None}
    return any("log" in kind or "entropy" in kind or kind == "nll_loss" for kind in kinds)
