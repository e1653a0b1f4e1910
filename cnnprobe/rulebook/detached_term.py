"""A term of the loss that is in its value and not in its gradient."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    ANY_LOSS,
    PROJECTIONS,
    Evidence,
    Flow,
    Loss,
    Step,
    describe,
    operation,
)
from cnnprobe.diagnosis.evidence.questions import owner
from cnnprobe.diagnosis.evidence.sums import (
    CUTS,
    HANDING,
    Constant,
    Sum,
    find_source,
    is_few,
    read_sum,
)
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping

SAME = 1e-9  # relative; Python's own arithmetic of a number is exact to 1e-16
MOVED = 1e-6  # relative change between steps, without which equal ratios say nothing
ENOUGH = 3  # steps
FIX = "add the term as it was computed, with its gradient; detach() or item() a copy to log"
# What gives whole numbers, choices or truths of its input.
STEPPING = frozenset(
    {"argmax", "argmin", "round", "floor", "ceil", "sign", "gt", "ge", "lt", "le", "eq", "ne",
        "long", "int", "bool", "multinomial", "bernoulli", "one_hot"}
)  # fmt: skip


def _loop(cut: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        output = model(inputs)
        loss: Any = loss_fn(output, targets)
        smooth: Any = output.log_softmax(1).mean()
        optimizer.zero_grad()
        (loss - 0.1 * (smooth.detach() if cut else smooth)).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The second term is detached before it is added."""
    return _loop(True)


def healthy() -> Mapping[str, Any]:
    """It is added as it is."""
    return _loop(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetachedTerm:
    """A term without a gradient: the row that computes it, and how it lost its gradient."""

    flow: Flow
    loss: Loss
    term: int | None
    cut: int  # the row that hands it on without a gradient, or adds its number
    how: str
    read: int | None = None  # the row whose number was taken
    cure: str = ""  # what to do where it is no matter of a detach() or an item()


@rule(code="CP440", name="detached-term", severity=Severity.WARNING, examples=(sick, healthy))
def detached_term(evidence: Evidence) -> Iterator[Finding]:
    """A term is added to the loss without its gradient: it is detached, a number, made of choices
    such as argmax, or compares two things that are not trained.

    Why it matters: it is in the number that is printed, and trains nothing.
    What to do: add the tensor itself; detach() or item() only what is logged.
    Known exceptions: a constant that is also part of a term with a gradient, as the maximum in a
    log-sum-exp of one's own; a value that is subtracted from itself.
    Source: torch.Tensor.detach, "the result will never require gradient".
    """
    found = list(find_detached_terms(evidence))
    for cut in dict.fromkeys(each.cut for each in found):
        each = next(each for each in found if each.cut == cut)
        row = each.cut if each.term is None else each.term
        count = format_counted(len(each.loss.trained), "parameter")
        yield Finding(
            module=None,
            message=(
                f"a term of the loss, made by {describe(each.flow.calls[row])}, has no gradient: "
                f"{each.how}; it changes none of the {count} that this loss trains"
            ),
            fix=each.cure or FIX,
            source=each.flow.line(each.cut),
        )


def find_detached_terms(evidence: Evidence) -> Iterator[DetachedTerm]:
    """The terms of the first step that have no gradient in any step."""
    if not evidence.steps:
        return
    step = evidence.steps[0]
    flow = Flow(step.trace)
    for position, loss in enumerate(step.losses):
        if loss.call is not None and loss.trained & loss.reached and loss.complete:
            total = read_sum(flow, loss.call)
            yield from _find_tensors(flow, loss, total)
            yield from _find_numbers(evidence, position, flow)


def _find_tensors(flow: Flow, loss: Loss, total: Sum) -> Iterator[DetachedTerm]:
    for constant in total.constants:
        made = flow.producer(constant.info)
        if made is None or constant.info is None or not is_few(constant.info):
            continue
        path, source = find_source(flow, made)
        if not _depends(flow, made, loss.trained):
            yield from _find_foreign(flow, loss, made)
            continue
        if _is_counted(flow, loss, total, path, source):
            continue
        kind = operation(flow.calls[path[-1]])
        line = flow.line(path[-1]).rpartition("/")[2]
        if source is not None:
            how = (
                f".{kind}() at {line} cuts it"
                if kind in CUTS
                else f"{kind} at {line} has no derivative"
                if kind in STEPPING
                else f"{line} runs without gradient"
            )
            soft = f"compute the term from probabilities and not from what {kind} gives"
            yield DetachedTerm(
                flow=flow, loss=loss, cut=path[-1], how=how, cure=soft if kind in STEPPING else "",
                term=_find_maker(flow, source) if kind in CUTS else path[-1],
            )  # fmt: skip
        else:
            yield DetachedTerm(
                flow=flow, loss=loss, term=path[-1], cut=path[-1],
                how="what it is computed from has none",
            )  # fmt: skip


def _find_foreign(flow: Flow, loss: Loss, made: int) -> Iterator[DetachedTerm]:
    """A loss of torch's that compares nothing that comes from what is trained."""
    row = _find_maker(flow, made)
    call = flow.calls[row]
    if operation(call) in ANY_LOSS and len(call.inputs) > 1:
        is_outside = not _is_of_layers(flow, row)
        yield DetachedTerm(
            flow=flow, loss=loss, term=row, cut=row,
            how="nothing that it compares comes from what is trained",
            cure="compute it from the output of the model: one side was meant to be that"
            + ("; .data, numpy() and a new tensor of it have no gradient" if is_outside else ""),
        )  # fmt: skip


def _is_of_layers(flow: Flow, row: int) -> bool:
    rows = [flow.calls[i] for i in flow.before(row)]
    return any(call.fqn is not None or operation(call) in PROJECTIONS for call in rows)


def _find_maker(flow: Flow, index: int) -> int:
    """The row behind multiples and means."""
    made: int | None = index
    while made is not None and operation(flow.calls[made]) in HANDING:
        index, made = made, flow.producer(flow.data(made))
    return index if made is None else made


def _depends(flow: Flow, index: int, trained: frozenset[str]) -> bool:
    """Whether a value comes from parameters that are trained."""
    owners = {owner(name) for name in trained}
    rows = [flow.calls[i] for i in flow.before(index) | {index}]
    return any(
        call.fqn in owners or any(info.source in trained for info in call.inputs) for call in rows
    )


def _is_counted(flow: Flow, loss: Loss, total: Sum, path: list[int], source: int | None) -> bool:
    """Whether the same value is in the loss with a gradient as well."""
    if source is not None and (read_sum(flow, source).rows & total.rows):
        return True
    assert loss.call is not None  # noqa: S101  (the caller has asked)
    toward = flow.before(loss.call) | {loss.call}
    live: set[int] = set()
    stack, seen = list(path), set(path)
    while stack:
        for reader in flow.readers.get(stack.pop(), ()):
            if reader in toward and reader not in seen:
                seen.add(reader)
                is_live = any(info.requires_grad for info in flow.calls[reader].outputs)
                (live.add if is_live else stack.append)(reader)
    return len(live) > 1


# -- numbers ---------------------------------------------------------------------------------------


def _find_numbers(evidence: Evidence, position: int, flow: Flow) -> Iterator[DetachedTerm]:
    """The numbers in the sum that are, in each step, the same multiple of a tensor's value."""
    steps = [s for s in evidence.steps if len(s.losses) > position and s.uses is not None]
    read = [_read_numbers(step, step.losses[position]) for step in steps]
    if len(steps) < ENOUGH or len({(len(c), len(r)) for c, r in read}) != 1:
        return
    loss = evidence.steps[0].losses[position]
    for j, constant in enumerate(read[0][0]):
        for k, (row, _) in enumerate(read[0][1]):
            added = [constants[j].number or 0.0 for constants, _ in read]
            if _is_multiple(added, [reads[k][1] for _, reads in read]):
                cut = flow.line(constant.index).rpartition("/")[2]
                yield DetachedTerm(
                    flow=flow, loss=loss, term=_find_tensor(flow, row), cut=constant.index,
                    read=row, how=f"the Python number of it, by item(), is added at {cut}",
                )  # fmt: skip
                break


def _read_numbers(step: Step, loss: Loss) -> tuple[list[Constant], list[tuple[int, float]]]:
    """The numbers in the sum of a loss, and what was read of tensors that it does not count."""
    if loss.call is None:
        return [], []
    flow = Flow(step.trace)
    total = read_sum(flow, loss.call)
    reads = step.reads
    chosen = [
        (row, number)
        for row, number in dict(reads).items()
        if math.isfinite(number)
        and _depends(flow, row, loss.trained)
        and not read_sum(flow, _find_tensor(flow, row)).rows & total.rows
    ]
    return [c for c in total.constants if c.number is not None], chosen


def _find_tensor(flow: Flow, index: int) -> int:
    """The row in front of detach()."""
    _, source = find_source(flow, index)
    is_cut = operation(flow.calls[index]) in CUTS
    return index if source is None or not is_cut else source


def _is_multiple(added: Sequence[float], values: Sequence[float]) -> bool:
    if any(value == 0 for value in (*values, *added)):
        return False
    if max(values) - min(values) <= MOVED * abs(values[0]):
        return False
    ratios = [a / v for a, v in zip(added, values, strict=True)]
    return max(ratios) - min(ratios) <= SAME * abs(ratios[0])
