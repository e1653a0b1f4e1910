"""From what a watch has written down to the evidence that the rules of `diagnose` read, as far as
it suffices; the model is not run.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from cnnprobe.diagnosis import Check, Diagnosis, Finding, run_rules
from cnnprobe.diagnosis.evidence import (
    BackwardFault,
    Event,
    Evidence,
    Flow,
    Gradient,
    Loss,
    OptimizerInfo,
    Step,
    Values,
)
from cnnprobe.diagnosis.evidence.optimizers import describe_optimizer
from cnnprobe.monitoring.losses import LONG, Smoothed, find_highest
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ledger import Rows
from cnnprobe.records.statistics import COLUMNS, COUNT, INF, L2, NAN
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace
from cnnprobe.rulebook import all_rules

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_MOST = 200  # steps that the rules look at, spread over the run
_SCHEDULED = 100  # batches that an epoch has at least, for most data sets
_SHORTEST = 10  # steps before a schedule can be told


def judge(watch: "Watch", ignore: Mapping[str, str] | None = None) -> Diagnosis:
    """What the rules find in the run so far."""
    watch.settle()
    chosen = _chosen(watch)
    losses = Smoothed(watch.ledger.losses.stretches)
    evidence = _evidence(watch, chosen, losses)
    rules = [
        rule
        for rule in all_rules()
        if rule.monitored and (losses.count >= LONG or rule.name != "loss-not-decreasing")
    ]
    lost = find_highest([step.value for step in evidence.steps])
    if lost is not None:
        before = replace(evidence, steps=evidence.steps[: lost + 1])
        rules = [
            replace(rule, check=partial(_on, rule.check, before))
            if rule.name == "divergence"
            else rule
            for rule in rules
        ]
    outcome = run_rules(evidence, rules, ignore=ignore)
    loss = (
        "the loss, averaged over neighbouring steps, went"
        if losses.is_averaged
        else "the loss went"
    )
    return replace(
        outcome,
        findings=tuple(
            _worded(finding, watch.ledger.nonfinite, loss, chosen) for finding in outcome.findings
        ),
    )


def _on(check: Check, evidence: Evidence, _: Evidence) -> Iterable[Finding]:
    return check(evidence)


def _worded(finding: Finding, event: NonFinite | None, loss: str, chosen: Sequence[int]) -> Finding:
    """The rules speak of one batch, seen again and again, at each of the steps; here each step has
    its own, and some are passed over.
    """

    def passed(found: re.Match[str]) -> str:
        number = int(found[2])
        return f"{found[1]} {chosen[number - 1] + 1 if 0 < number <= len(chosen) else number} step"

    message = finding.message.replace("the loss of the same batch went", loss)
    message = re.sub(r"\b(in|after) (\d+) step", passed, message)
    names = {finding.rule, finding.family}
    if event is not None and not names.isdisjoint(("nan-forward", "nan-backward")):
        message = f"step {event.step}: {message}"
    return replace(finding, message=message)


def _evidence(watch: "Watch", chosen: Sequence[int], losses: Smoothed) -> Evidence:
    ledger, first = watch.ledger, watch.trace
    cube = ledger.cube()
    last = _with_statistics(first, watch, cube)
    steps = tuple(_steps(watch, cube, (first, last), chosen, losses))
    event = ledger.nonfinite
    return Evidence(
        trace=first,
        evaluation=_of_event(first, event)
        if event is not None and event.what == "activation" and event.step > 0
        else first,
        steps=steps,
        values=_values(watch, cube, event),
        optimizers=tuple(_describe_optimizers(watch)),
        inputs=watch.first.inputs,
        collapse=_collapse(*ledger.curves.get("learning rate", ([], []))),
        backward=_backward(first, event, steps),
        names=watch.names,
        own_loop=True,
    )


# -- traces ----------------------------------------------------------------------------------------


def _with_statistics(trace: Trace, watch: "Watch", cube: Rows) -> Trace:
    """The first pass with the statistics of the last observed step; rows of functions have none."""
    if not watch.ledger.steps:
        return trace
    found: dict[tuple[str | None, int, str], dict[str, float | int]] = {}
    for slot, rows in zip(watch.ledger.slots, cube, strict=True):
        if slot.what == "activation" and rows[-1, COUNT] > 0:
            found[slot.fqn, slot.call, slot.output] = {
                name: float(rows[-1, i]) for i, name in enumerate(COLUMNS)
            }

    def renewed(call: ModuleCall) -> ModuleCall:
        stats = [found.get((call.fqn, call.index, out.path)) for out in call.outputs]
        outputs = tuple(
            replace(out, stats=seen, histogram=None)
            for out, seen in zip(call.outputs, stats, strict=True)
        )
        return replace(call, outputs=outputs)

    return replace(trace, calls=tuple(map(renewed, trace.calls)))


def _of_event(trace: Trace, event: NonFinite) -> Trace:
    """The one call that put out what is not finite, as a trace."""
    low = TensorInfo(
        shape=(), dtype="float32", device=trace.device, nbytes=0, requires_grad=False,
        source=1 if event.fqn else 0,
        stats={"count": event.count, "nan": event.nan, "inf": event.inf},
    )  # fmt: skip
    inputs = () if not event.fqn else event.inputs
    root = ModuleCall(
        fqn="", kind=trace.model, index=0, parent=None, depth=0, inputs=event.inputs, outputs=(low,)
    )
    row = ModuleCall(
        fqn=event.fqn,
        kind=event.kind,
        index=event.call,
        parent=0,
        depth=1,
        inputs=inputs,
        outputs=(low,),
        source=_line(trace, event),
    )
    return replace(trace, calls=(root, row) if event.fqn else (root,))


def _line(trace: Trace, event: NonFinite) -> str:
    return next(
        (call.source for call in trace.calls if (call.fqn, call.index) == (event.fqn, event.call)),
        "",
    )


def _backward(
    trace: Trace, event: NonFinite | None, steps: tuple[Step, ...]
) -> BackwardFault | None:
    """The call whose derivative made the first gradient that is not finite: one that reads what the
    module of that gradient has put out.
    """
    if event is None or event.what != "gradient":
        return None
    row = next(
        (
            i
            for i, call in enumerate(trace.calls)
            if (call.fqn, call.index) == (event.fqn, event.call)
        ),
        None,
    )
    readers = Flow(trace).readers.get(row, []) if row is not None else []
    return BackwardFault(call=readers[0] if readers else row, step=max(len(steps) - 1, 0))


# -- steps -----------------------------------------------------------------------------------------


def _chosen(watch: "Watch") -> list[int]:
    """The steps that the rules look at: those with a loss or observed ones, spread over the run
    where they are many.
    """
    ledger = watch.ledger
    steps, losses = ledger.curves.get("loss", ([], []))
    known = sorted({*ledger.steps, *steps})
    highest = {steps[int(np.argmax(losses))]} if losses else set()
    needed = {
        *ledger.steps[:2],
        *ledger.steps[-1:],
        *watch.stale,
        *([ledger.nonfinite.step] if ledger.nonfinite else []),
    }
    return _spread(known, needed | highest)


def _steps(
    watch: "Watch",
    cube: Rows,
    traces: tuple[Trace, Trace],
    chosen: Sequence[int],
    losses: Smoothed,
) -> Iterator[Step]:
    ledger, (first, last) = watch.ledger, traces
    position = {step: i for i, step in enumerate(ledger.steps)}
    keepers = tuple(dict.fromkeys(name for graph in ledger.kept for name in graph.keepers))
    bare = replace(first, calls=tuple(replace(call, outputs=()) for call in first.calls))
    rates = ledger.curves.get("learning rate", ([], []))
    for step in chosen:
        at = position.get(step)
        value = losses.at(step)
        yield Step(
            trace=first if step == chosen[0] else last if step == chosen[-1] else bare,
            events=tuple(_events(watch, rates, step)),
            losses=(Loss(value=value),)
            if value is not None
            else (Loss(value=None),)
            if at is not None
            else (),
            gradients=_gradients(watch, cube, at)
            if at is not None and not _is_skipped(watch, at)
            else {},
            stale=watch.stale.get(step, ()),
            changes=_changes(watch, cube, at) if at is not None else {},
            training=watch.modes.at(step, default=True),
            alive=watch.graphs.alive.at(step, 0),
            keepers=keepers,
        )


def _is_skipped(watch: "Watch", at: int) -> bool:
    """Whether a GradScaler has skipped this step, or one of those for which it stands now."""
    steps, skipped = watch.ledger.steps, watch.skipped
    if not watch.ledger.thinned:
        return steps[at] in skipped
    low = steps[at - 1] if at else -1
    high = steps[at + 1] if at + 1 < len(steps) else math.inf
    return any(low < step < high for step in skipped)


def _spread(steps: list[int], needed: set[int]) -> list[int]:
    if len(steps) <= _MOST:
        return steps
    some = (
        {steps[len(steps) * k // _MOST] for k in range(_MOST)} | {steps[-1]} | (needed & set(steps))
    )
    return sorted(some)


def _events(
    watch: "Watch", rates: tuple[Sequence[int], Sequence[float]], step: int
) -> Iterator[Event]:
    yield Event(kind="backward")
    if watch.optimizers and step not in watch.skipped:
        yield Event(kind="step", subject=watch.names.get("optimizer", "optimizer"))
    steps, values = rates
    at = bisect_left(steps, step)
    if 0 < at < len(steps) and steps[at] == step and values[at] != values[at - 1]:
        yield Event(kind="schedule", subject="scheduler", rate=values[at])


def _gradients(watch: "Watch", cube: Rows, at: int) -> dict[str, Gradient]:
    found = {}
    for slot, rows in zip(watch.ledger.slots, cube, strict=True):
        if slot.is_parameters and rows[at, COUNT] > 0:
            odd = int(rows[at, NAN] + rows[at, INF])
            found[slot.fqn] = Gradient(norm=math.nan if odd else float(rows[at, L2]), nonfinite=odd)
    return found


def _changes(watch: "Watch", cube: Rows, at: int) -> dict[str, float]:
    slots = zip(watch.ledger.slots, cube, strict=True)
    return {
        slot.fqn: float(rows[at, L2])
        for slot, rows in slots
        if slot.what == "update" and not math.isnan(rows[at, L2])
    }


def _values(watch: "Watch", cube: Rows, event: NonFinite | None) -> dict[str, Values]:
    """The parameters before the first observed step; where one of them is the first that is not
    finite, that one as it was then.
    """
    shapes = {p.fqn: p.shape for p in watch.trace.parameters}
    found = {}
    for slot, rows in zip(watch.ledger.slots, cube, strict=True):
        if slot.what != "parameter" or not len(rows) or not rows[0, COUNT] > 0:
            continue
        first = dict(zip(COLUMNS, rows[0].tolist(), strict=False))
        odd = int(first["nan"] + first["inf"])
        if event is not None and event.what == "parameter" and event.fqn == slot.fqn:
            odd = event.nan + event.inf
        found[slot.fqn] = Values(
            shape=shapes.get(slot.fqn, ()),
            norm=first["l2"],
            mean=first["mean"],
            std=first["std"],
            low=first["min"],
            high=first["max"],
            nonfinite=odd,
        )
    return found


def _collapse(steps: Sequence[int], rates: Sequence[float]) -> float | None:
    """The rate after a hundred batches over the first, where each step multiplies it by the same
    factor.
    """
    if len(rates) < _SHORTEST or min(rates) <= 0:
        return None
    factors = (np.array(rates[1:]) / np.array(rates[:-1])) ** (1 / np.diff(steps))
    if factors.max() >= 1 or factors.max() - factors.min() > 1e-3:
        return None
    return float(np.exp(np.log(factors).mean() * _SCHEDULED))


def _describe_optimizers(watch: "Watch") -> Iterator[OptimizerInfo]:
    names = {id(each.tensor): each.name for each in watch.parameters.watched}
    name = watch.names.get("optimizer", "optimizer")
    for optimizer in watch.optimizers:
        yield describe_optimizer(optimizer, name=name, names=names, known=names)
