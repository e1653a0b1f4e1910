"""The total of a batch in the place of a value for each sample."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, perceptron

# They weigh a total and leave it a total; a division makes it a mean.
WEIGHING = frozenset({"add", "sub", "rsub", "mul", "neg"})


def _training(dims: tuple[int, ...]) -> Mapping[str, Any]:
    def loss_fn(output: Any, targets: Any) -> Any:
        from torch.nn import functional as F

        likely: Any = F.cross_entropy(output, targets, reduction="none")
        size: Any = output.square().sum(dims) if dims else output.square().sum()
        return (likely + 0.01 * size).mean()

    return classifying(perceptron(), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """A penalty that is summed over the batch too, and added to each sample's loss."""
    return _training(())


def healthy() -> Mapping[str, Any]:
    """One of each sample."""
    return _training((1,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """A sum over everything, and the tensor of single values that it is spread over."""

    index: int
    call: ModuleCall
    given: TensorInfo
    spread: TensorInfo

    @property
    def name(self) -> str:
        """What adds up: torch's sum, or Python's."""
        return "sum()" if operation(self.call) == "unbind" else describe(self.call)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims that it is to be the sum over."""
        return tuple(range(len(self.spread.shape), len(self.given.shape)))


@rule(code="CP443", name="total-per-sample", severity=Severity.WARNING, examples=(sick, healthy))
def total_per_sample(evidence: Evidence) -> Iterator[Finding]:
    """A term of the loss is summed over the whole batch, and then added to the value of each
    sample, or multiplied by the mask of each.

    Why it matters: the term is as many times too large as there are samples, and its weight against
    the other terms changes with the size of the batch.
    What to do: sum over the dims of a sample alone: sum(dim=-1); drop the sum of what has one value
    for each sample already.
    Known exceptions: a division by a total, which normalises; a total without gradient.
    Source: torch.sum, "the sum of all elements in the input tensor" where no dim is given.
    """
    for found in find_totals(evidence):
        yield Finding(
            module=None,
            message=(
                f"{found.name} adds up all {math.prod(found.given.shape):,} values of "
                f"shape {found.given.shape}, and the total is spread over a tensor of shape "
                f"{found.spread.shape}: as a part of each of its {math.prod(found.spread.shape):,} "
                "values"
            ),
            fix=_write_fix(found),
            source=found.call.source,
            subject=describe(found.call),
        )


def _write_fix(found: Total) -> str:
    if not found.dims:
        return "drop the sum: each sample has its own value already"
    return f"sum(dim={_write_dims(found)}) there, for a sum of each sample"


def _write_dims(found: Total) -> str:
    return "-1" if len(found.dims) == 1 else str(found.dims)


def find_totals(evidence: Evidence) -> Iterator[Total]:
    """The totals in the loss of the first step that are spread over single values."""
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    ends = [loss.call for loss in evidence.steps[0].losses if loss.call is not None]
    toward = set(ends).union(*(flow.before(end) for end in ends)) if ends else set()
    for i in flow.primitives({"sum"}):
        call = flow.calls[i]
        if i in toward and flow.owner(i) is None and _is_total(call):
            spread = _find_spread(flow, i, call.inputs[0], toward)
            if spread is not None:
                yield Total(index=i, call=call, given=call.inputs[0], spread=spread)
    yield from _find_totals_of_samples(evidence, flow, toward)


def _find_totals_of_samples(evidence: Evidence, flow: Flow, toward: set[int]) -> Iterator[Total]:
    """The sums of what has one value for each sample, by torch's sum or by Python's."""
    sizes = {info.shape[0] for info in (*evidence.inputs, *evidence.targets) if info.shape}
    for i in flow.primitives({"sum", "unbind"}):
        call = flow.calls[i]
        given = call.inputs[0] if call.inputs else None
        end = i if operation(call) == "sum" else _follow_sum(flow, i)
        if (
            given is not None
            and len(given.shape) == 1
            and given.shape[0] > 1
            and given.shape[0] in sizes
            and given.requires_grad
            and flow.producer(given) is not None
            and end in toward
        ):
            spread = _find_spread(flow, end, given, toward)
            if spread is not None:
                yield Total(index=i, call=call, given=given, spread=spread)


def _follow_sum(flow: Flow, index: int) -> int:
    """The last addition of Python's sum() of a tensor; -1 where it is none."""
    readers = flow.readers.get(index, [])
    is_sum = len(readers) == len(flow.calls[index].outputs) and all(
        operation(flow.calls[i]) == "add" and flow.calls[i].outputs[0].shape == () for i in readers
    )
    return max(readers, default=-1) if is_sum else -1


def _is_total(call: ModuleCall) -> bool:
    made, given = call.outputs[:1], call.inputs[:1]
    return bool(
        made
        and given
        and made[0].shape == ()
        and made[0].requires_grad
        and len(given[0].shape) > 1
        and given[0].shape[0] > 1
    )


def _find_spread(flow: Flow, index: int, given: TensorInfo, toward: set[int]) -> TensorInfo | None:
    """What a total is added to or multiplied by, with the first dims of what it is a sum of."""
    stack, seen = [index], {index}
    while stack:
        for reader in flow.readers.get(stack.pop(), ()):
            call = flow.calls[reader]
            if reader in seen or reader not in toward:
                continue
            seen.add(reader)
            others = [t for t in call.inputs if t.shape]
            kind = operation(call)
            if kind in ("add", "sub", "mul") and len(others) == 1:
                shape = others[0].shape
                is_whole = len(given.shape) == 1 or len(shape) < len(given.shape)
                if shape == given.shape[: len(shape)] and is_whole:
                    return others[0]
            elif kind in WEIGHING and not others and not _divides(call, given):
                stack.append(reader)
    return None


def _divides(call: ModuleCall, given: TensorInfo) -> bool:
    """Whether a row multiplies by one over the number of samples or values."""
    numbers = [v for v in call.arguments.values() if isinstance(v, float)]
    counts = [math.prod(given.shape[:k]) for k in range(1, len(given.shape) + 1)]
    return any(
        math.isclose(abs(number) * count, 1.0, rel_tol=1e-6)
        for number in numbers
        for count in counts
    )
