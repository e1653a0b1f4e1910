"""A loss that is computed, and that no backward goes through."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    LOSSES,
    PROJECTIONS,
    Evidence,
    Flow,
    Step,
    describe,
    operation,
)
from cnnprobe.diagnosis.evidence.sums import is_loss, is_reached, list_reached, read_sum
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import perceptron, stepping

CURVES = frozenset({"log", "log2", "log10", "log1p", "exp", "expm1", "exp2", "sqrt"})


def _loop(overwritten: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        output = model(inputs)
        loss: Any = loss_fn(output, targets)
        smooth: Any = 0.1 * output.diff(dim=1).abs().mean()
        loss = smooth if overwritten else loss + smooth
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The second term in the place of the sum."""
    return _loop(True)


def healthy() -> Mapping[str, Any]:
    """The sum of both."""
    return _loop(False)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedLoss:
    """The calls, in the first step, that compute a loss on one line, and those that count."""

    flow: Flow
    rows: tuple[int, ...]
    used: int  # of the rows, those that a backward goes through
    # the row of the loss of the weights alone that backward is called on; None: it is another one
    instead: int | None = None

    @property
    def call(self) -> ModuleCall:
        """The first of the calls."""
        return self.flow.calls[self.rows[0]]


@rule(
    code="CP442",
    name="unused-loss",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("no-grad-path", "no-grad-params", "cannot-overfit"),
)
def unused_loss(evidence: Evidence) -> Iterator[Finding]:
    """A loss with a graph is computed in each step, and no backward goes through it.

    Why it matters: it was overwritten by another loss before the backward, or the backward stands
    after the loop over the batches, where only the last batch is left, or is called on a penalty of
    the weights alone.
    What to do: add it to the loss that backward is called on; indent backward and step into the
    loop.
    Known exceptions: a loss whose value is read, compared, returned or kept: it may be a metric,
    which is cheaper under torch.no_grad(), unless nothing that has a backward depends on what the
    model gives. A sum of losses that each had a backward of its own, as
    a discriminator's, and the logarithm, root, multiple or exponential of a loss that had one, as
    PSNR and perplexity: they are there for the log.
    Source: torch.Tensor.backward, "Computes the gradient of current tensor wrt graph leaves".
    """
    for found in find_unused(evidence):
        name, count = describe(found.call), len(found.rows)
        if found.used:
            yield Finding(
                module=None,
                message=(
                    f"{name} computes {count} losses in a step, and backward goes through "
                    f"{found.used} of them, the last"
                ),
                fix=(
                    "indent backward() and step() into the loop, or call backward() on the sum of "
                    "the losses"
                ),
                source=found.call.source,
                kind="last-of-loop",
                subject=name,
            )
        elif found.instead is not None:
            penalty = describe(found.flow.calls[found.instead])
            yield Finding(
                module=None,
                severity=Severity.ERROR,
                message=(
                    f"no backward goes through the loss that {name} computes: it is called on what "
                    f"{penalty} computes at {found.flow.line(found.instead).rpartition('/')[2]}, "
                    "which depends on the weights alone and on no output of the model"
                ),
                fix=f"call backward() on the loss of {name}, or on the sum of both",
                source=found.call.source,
                kind="penalty-alone",
                subject=name,
            )
        else:
            yield Finding(
                module=None,
                message=(
                    f"the loss that {name} computes is never used: no backward goes through it, "
                    "and nothing reads it"
                ),
                fix=(
                    "add it to the loss that backward is called on (loss = loss + ...); if it is "
                    "not needed, remove it"
                ),
                source=found.call.source,
                kind="overwritten",
                subject=name,
            )


def find_unused(evidence: Evidence) -> Iterator[UnusedLoss]:
    """What is so in each step with a backward, by the line that computes it."""
    steps = tuple(step for step in evidence.steps if step.losses and step.uses is not None)
    nodes = list_reached(steps)
    if not steps or nodes is None or not evidence.own_loop:
        return
    found = [{(u.call.kind, u.call.source): u for u in _find_in(step, nodes)} for step in steps]
    for key, first in found[0].items():
        if all(key in each for each in found):
            yield first


def _find_in(step: Step, nodes: frozenset[int]) -> Iterator[UnusedLoss]:
    """The losses of one step that are dropped, or of which only the last counts."""
    assert step.uses is not None  # noqa: S101  (the caller has asked)
    flow = Flow(step.trace)
    read = {row for row, _ in step.uses.reads}
    instead = _find_penalty(step, flow)
    lines: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i in flow.primitives():
        if is_loss(flow, i):
            lines[flow.calls[i].kind, flow.calls[i].source].append(i)
    for rows in lines.values():
        reached = [i for i in rows if is_reached(flow.calls[i], nodes)]
        idle = [i for i in rows if i not in reached and not _is_logged(step, flow, i)]
        if instead is not None:
            if not reached and _is_criterion(flow, idle) and _is_of_layers(flow, rows[-1]):
                yield UnusedLoss(flow=flow, rows=tuple(rows), used=0, instead=instead)
            continue
        if not idle or any(i in step.uses.held for i in idle):
            continue
        if not reached and not any(i in read or flow.readers.get(i) for i in idle):
            yield UnusedLoss(flow=flow, rows=tuple(rows), used=0)
        elif len(reached) == 1 and reached[0] == rows[-1] and _is_criterion(flow, idle):
            yield UnusedLoss(flow=flow, rows=tuple(rows), used=1)


def _find_penalty(step: Step, flow: Flow) -> int | None:
    """The row of the last loss with a backward, where none of them depends on a layer's output."""
    ends = [loss.call for loss in step.losses]
    is_alone = not any(end is None or _is_of_layers(flow, end) for end in ends)
    is_trained = all(loss.trained & loss.reached for loss in step.losses)
    return ends[-1] if is_alone and is_trained else None


def _is_of_layers(flow: Flow, row: int) -> bool:
    rows = [flow.calls[i] for i in flow.before(row)]
    return any(call.fqn is not None or operation(call) in PROJECTIONS for call in rows)


def _is_logged(step: Step, flow: Flow, row: int) -> bool:
    """Whether a row is there for the log: it adds up losses that each had a backward, of which none
    had them all, or is a curve over one number that had one.
    """
    graphs = [loss.nodes for loss in step.losses]
    over, curved = _find_under(flow, row)
    if curved or over != row:  # a root of it, or its negative, as a critic's estimate
        return any(is_reached(flow.calls[over], nodes) for nodes in graphs)
    terms = [flow.calls[i] for i in read_sum(flow, row).terms]
    return (
        len(terms) > 1
        and all(any(is_reached(term, nodes) for nodes in graphs) for term in terms)
        and not any(all(is_reached(term, nodes) for term in terms) for nodes in graphs)
    )


def _find_under(flow: Flow, row: int) -> tuple[int, bool]:
    """The row under those that turn one number into another, and whether any of them is a curve."""
    curved = False
    while len(live := [info for info in flow.calls[row].inputs if info.requires_grad]) == 1:
        made = flow.producer(live[0])
        if made is None or math.prod(live[0].shape) != 1:
            break
        curved = curved or operation(flow.calls[row]) in CURVES
        row = made
    return row, curved


def _is_criterion(flow: Flow, rows: list[int]) -> bool:
    """Whether these are calls of a loss function whose results are at most logged."""
    return all(
        operation(flow.calls[i]) in LOSSES
        and all(operation(flow.calls[r]) in ("detach", "data") for r in flow.readers.get(i, ()))
        for i in rows
    )
