"""Errors between a value of a layer and a discounted one of the same layer: reward + 0.9 * next."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import ARRANGING, operation
from cnnprobe.records.trace import ModuleCall, TensorInfo

SQUARING = frozenset({"mse_loss", "smooth_l1_loss", "huber_loss", "l1_loss"})
# What hands on a sum of values, or one of several.
CHOOSING = frozenset({"gather", "max", "amax", "stack", "cat", "mean", "sum"})
LINEAR = ARRANGING | CHOOSING | {"add", "sub", "rsub", "mul", "neg"}


@dataclass(slots=True)
class _Sides:
    """What an error is the sum of: layers with the sign and whether they are discounted."""

    layers: dict[object, set[tuple[int, bool]]] = field(default_factory=lambda: defaultdict(set))
    has_reward: bool = False  # something without a gradient is added


def find_bootstraps(flow: Flow, toward: set[int]) -> Iterator[int]:
    """The rows among `toward` that square such an error, both sides of which have a gradient."""
    for i in sorted(toward):
        call = flow.calls[i]
        starts = _list_starts(call)
        if not flow.is_primitive[i] or not starts:
            continue
        sides = _follow(flow, starts)
        if sides.has_reward and any(
            (sign, True) in found and (-sign, False) in found
            for found in sides.layers.values()
            for sign in (1, -1)
        ):
            yield i


def _list_starts(call: ModuleCall) -> list[tuple[TensorInfo, int]]:
    """The sides of an error, each with its sign."""
    if operation(call) in SQUARING:
        return list(zip(call.inputs[:2], (1, -1), strict=False))
    is_square = operation(call) == "square" or (
        operation(call) == "pow" and 2 in call.arguments.values()
    )
    return [(call.inputs[0], 1)] if is_square and call.inputs else []


def _follow(flow: Flow, starts: list[tuple[TensorInfo, int]]) -> _Sides:
    """Back from an error to the layers that its sides come from."""
    sides, seen = _Sides(), set[tuple[int, int, bool]]()
    stack = [(info, sign, False) for info, sign in starts]
    while stack:
        info, sign, discounted = stack.pop()
        row = flow.producer(info)
        if row is None or not info.requires_grad or (row, sign, discounted) in seen:
            continue
        seen.add((row, sign, discounted))
        call = flow.calls[row]
        if flow.owner(row) is not None:
            made = flow.origin(info)
            layer = flow.calls[made] if made is not None else call
            sides.layers[layer.fqn or (layer.kind, layer.source)].add((sign, discounted))
        elif operation(call) in LINEAR:
            is_sum = operation(call) in ("add", "sub", "rsub")
            sides.has_reward |= is_sum and not all(t.requires_grad for t in call.inputs)
            less = discounted or (operation(call) == "mul" and _is_discount(flow, call))
            stack += [(t, sign * _sign(call, k), less) for k, t in enumerate(call.inputs)]
    return sides


def _sign(call: ModuleCall, place: int) -> int:
    kind = operation(call)
    is_turned = kind == "neg" or (kind == "sub" and place == 1) or (kind == "rsub" and place == 0)
    return -1 if is_turned else 1


def _is_discount(flow: Flow, call: ModuleCall) -> bool:
    """Whether a product has a factor between 0 and 1, itself or in what it multiplies by."""
    made = [flow.producer(info) for info in call.inputs if not info.requires_grad]
    rows = [call, *(flow.calls[row] for row in made if row is not None)]
    numbers = [number for row in rows for number in row.arguments.values()]
    return any(isinstance(number, float) and 0 < number < 1 for number in numbers)
