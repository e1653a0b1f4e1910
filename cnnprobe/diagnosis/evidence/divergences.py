"""Divergences from the standard normal distribution that a loss has in place, as a sum of a mean
squared, a spread and its exponential or logarithm; and the draws with the same spread.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import operation
from cnnprobe.records.trace import ModuleCall, TensorInfo

SUMS = frozenset({"add", "sub", "rsub"})
ELEMENTWISE = SUMS | {"mul", "div", "neg", "exp", "log", "square", "pow"}
NOISE = frozenset({"randn", "randn_like", "normal", "normal_"})
EQUAL = 0.02  # relative
POINTS = ((0.0, 0.4), (0.0, -0.9), (1.1, 0.0), (-0.6, 0.7))  # mean, logarithm of the spread
_Compute = Callable[[float, float], float]
_Deviation = Callable[[float], float]
_Key = tuple[int, bool]  # the row that made a tensor, and whether it is squared at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """A divergence that stands in the loss."""

    index: int  # the row that ends its sum
    smallest: float  # at which spread it is smallest, for a mean of 0
    standard: float  # that of a deviation of 1: 0 for a logarithm, 1 for the deviation itself
    is_right: bool
    # a row that multiplies noise by another deviation: its own and that of the divergence, for a
    # spread of 0.8; None where there is none
    draw: tuple[int, float, float] | None = None


@dataclass(slots=True)
class _Expression:
    """A sum of elementwise rows, down to those that are none."""

    flow: Flow
    shape: tuple[int, ...]
    leaves: set[_Key] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)

    def compute(self, info: TensorInfo, values: Mapping[_Key, float], *, squared: bool) -> float:
        """Its value for those of its leaves."""
        row = self.flow.producer(info)
        call = None if row is None else self.flow.calls[row]
        if row is None or call is None:
            raise ValueError(info.path)
        if operation(call) not in ELEMENTWISE or call.outputs[0].shape != self.shape:
            self.leaves.add((row, squared))
            return values.get((row, squared), 1.0)
        self.kinds.add(operation(call))
        sources = [t.source for t in call.inputs]
        is_square = len(sources) == 2 and sources[0] == sources[1] and operation(call) == "mul"
        number = _read_number(call)
        is_square = is_square or operation(call) == "square"
        is_square = is_square or (operation(call) == "pow" and number == 2)
        parts = [self.compute(t, values, squared=is_square) for t in call.inputs]
        if is_square:
            return parts[0] * parts[0]
        return _apply(operation(call), parts, number)


def _read_number(call: ModuleCall) -> float | None:
    found = [v for v in call.arguments.values() if isinstance(v, int | float)]
    return float(found[0]) if len(found) == 1 else None


def _apply(kind: str, parts: list[float], number: float | None) -> float:
    """One operation; raises where its arguments are others."""
    if len(parts) == 1 and number is not None:
        parts = [*parts, number]
    if kind in ("exp", "log"):
        return math.exp(parts[0]) if kind == "exp" else math.log(parts[0])
    if kind == "neg":
        return -parts[0]
    first, second = parts
    if kind == "rsub":
        return second - first
    if kind == "pow":
        return math.pow(first, second)
    if kind == "div":
        return first / second
    return {"add": first + second, "sub": first - second, "mul": first * second}[kind]


def find_divergences(flow: Flow) -> Iterator[Divergence]:
    """The divergences of a pass, each once."""
    seen: set[int] = set()
    for i in flow.primitives({"exp", "log"}):
        for top in _find_tops(flow, i):
            if top not in seen:
                seen.add(top)
                try:
                    found = _read_divergence(flow, top)
                except (ValueError, TypeError, OverflowError, ZeroDivisionError, KeyError):
                    continue  # another expression
                if found is not None:
                    yield found


def _find_tops(flow: Flow, index: int) -> set[int]:
    """The last elementwise rows of the same shape that a row goes into."""
    shape, tops, stack = flow.calls[index].outputs[0].shape, set(), [index]
    while stack:
        row = stack.pop()
        further = [
            r
            for r in flow.readers.get(row, ())
            if operation(flow.calls[r]) in ELEMENTWISE
            and flow.calls[r].outputs
            and flow.calls[r].outputs[0].shape == shape
        ]
        stack.extend(further)
        if not further:
            tops.add(row)
    return tops


def _read_divergence(flow: Flow, top: int) -> Divergence | None:
    whole = flow.calls[top].outputs[0]
    info = TensorInfo(
        shape=whole.shape, dtype=whole.dtype, device=whole.device, nbytes=whole.nbytes,
        requires_grad=whole.requires_grad, source=top,
    )  # fmt: skip
    expression = _Expression(flow=flow, shape=whole.shape)
    expression.compute(info, {}, squared=False)
    keys = _find_roles(flow, expression)
    if keys is None or not SUMS & expression.kinds:
        return None
    mean, spread = keys
    is_log = "exp" in expression.kinds

    def compute(m: float, s: float) -> float:
        values = {(spread, True): s, (spread, False): s} | {(mean, True): m}
        return expression.compute(info, values, squared=False)

    grid = [0.05 * k for k in range(-60, 61)] if is_log else [0.1 + 0.05 * k for k in range(80)]
    values = [compute(0.0, s) for s in grid]
    is_least = values[0] > values[len(values) // 2] < values[-1]
    least = grid[values.index(min(values) if is_least else max(values))]
    if least in (grid[0], grid[-1]) or not _is_apart(compute, least):
        return None
    to_deviation = _find_deviation(compute, is_log=is_log)
    return Divergence(
        index=top,
        smallest=round(least, 2),
        standard=0.0 if is_log else 1.0,
        is_right=to_deviation is not None,
        draw=None if to_deviation is None else _find_draw(flow, spread, to_deviation),
    )


def _find_roles(flow: Flow, expression: _Expression) -> tuple[int, int] | None:
    """The rows of the mean, which is only squared, and of the spread."""
    others = {row for row, squared in expression.leaves if not squared}
    squares = {row for row, squared in expression.leaves if squared}
    if len(others) != 1:
        return None
    spread = next(iter(others))
    if squares == others and len(flow.calls[spread].outputs) > 1:
        return spread, spread  # both are parts of one tensor
    means = squares - others
    return (next(iter(means)), spread) if len(means) == 1 else None


def _is_apart(compute: _Compute, least: float) -> bool:
    """Whether the mean goes in as its square, whatever the spread is."""
    steps = [compute(m, s) - compute(0.0, s) for s in (least, least + 0.3) for m in (1.0, 2.0)]
    one, two, other, more = steps
    same = abs(one - other) < EQUAL * abs(one) and abs(two - more) < EQUAL * abs(two)
    return one != 0 and same and abs(two - 4 * one) < EQUAL * abs(two)


def _find_deviation(compute: _Compute, *, is_log: bool) -> _Deviation | None:
    """What deviation the spread stands for, where the sum is that divergence but for a factor."""
    readings: tuple[_Deviation, ...] = (
        (lambda s: math.exp(0.5 * s), math.exp) if is_log else (lambda s: s, math.sqrt)
    )
    for to_deviation in readings:
        given = [(m, s if is_log else math.exp(s)) for m, s in POINTS]
        start = compute(0.0, 0.0 if is_log else 1.0)
        ratios = [(compute(m, s) - start) / _diverge(m, to_deviation(s)) for m, s in given]
        if max(ratios) - min(ratios) < EQUAL * max(map(abs, ratios)):
            return to_deviation
    return None


def _diverge(mean: float, deviation: float) -> float:
    return 0.5 * (mean**2 + deviation**2 - 1) - math.log(deviation)


def _find_draw(
    flow: Flow, spread: int, to_deviation: _Deviation
) -> tuple[int, float, float] | None:
    """A row that multiplies noise by another deviation of the same spread."""
    for i in flow.primitives({"mul"}):
        made = [flow.producer(info) for info in flow.calls[i].inputs]
        noise = [r is not None and operation(flow.calls[r]) in NOISE for r in made]
        if len(made) != 2 or noise.count(True) != 1:
            continue
        info = flow.calls[i].inputs[noise.index(False)]
        expression = _Expression(flow=flow, shape=info.shape)
        try:
            actual = expression.compute(
                info, {(spread, False): 0.8, (spread, True): 0.8}, squared=False
            )
        except (ValueError, TypeError, OverflowError, ZeroDivisionError, KeyError):
            continue
        wanted = to_deviation(0.8)
        is_same = {row for row, _ in expression.leaves} == {spread}
        if is_same and abs(actual - wanted) > EQUAL * wanted:
            return i, actual, wanted
    return None
