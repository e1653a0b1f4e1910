"""From what a watch has written down to the evidence that the rules of `diagnose` read, as far as
it suffices; the model is not run.
"""

import math
import re
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
from cnnprobe.records.history import NonFinite
from cnnprobe.records.ledger import Rows
from cnnprobe.records.statistics import COLUMNS, COUNT, INF, L2, NAN
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace
from cnnprobe.rulebook import all_rules
from cnnprobe.rulebook.divergence import TIMES

if TYPE_CHECKING:
    from cnnprobe.monitoring.watch import Watch

_MOST = 200  # steps that the rules look at, spread over the run
_LONG = 100  # steps with a loss, of different batches, before it is said not to fall
_PART = 5  # a fifth of the run is averaged: batches differ
_SURE = 2.0  # standard errors
_BETTER = 0.9  # of the first loss: a run that ends below it has come back from wherever it was
_SCHEDULED = 100  # batches that an epoch has at least, for most data sets
_SHORTEST = 10  # steps before a schedule can be told


def judge(watch: "Watch", ignore: Mapping[str, str] | None = None) -> Diagnosis:
    """What the rules find in the run so far."""
    watch.settle()
    chosen = _chosen(watch)
    evidence = _evidence(watch, chosen)
    curve = watch.ledger.curves.get("loss", ([], []))
    rules = [
        rule
        for rule in all_rules()
        if rule.monitored and (len(curve[0]) >= _LONG or rule.name != "loss-not-decreasing")
    ]
    lost = _lost([step.value for step in evidence.steps])
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
        if _is_averaged(curve)
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


def _evidence(watch: "Watch", chosen: Sequence[int]) -> Evidence:
    ledger, first = watch.ledger, watch.trace
    cube = ledger.cube()
    last = _with_statistics(first, watch, cube)
    steps = tuple(_steps(watch, cube, (first, last), chosen))
    event = ledger.nonfinite
    return Evidence(
        trace=first,
        evaluation=_of_event(first, event)
        if event is not None and event.what == "activation" and event.step > 0
        else first,
        steps=steps,
        values=_values(watch, cube, event),
        optimizers=tuple(_optimizers(watch)),
        inputs=watch.first.inputs,
        collapse=_collapse(ledger.curves.get("learning rate", ([], []))[1]),
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
        shape=(), dtype="float32", device=trace.device, nbytes=0, requires_grad=False, source=1 if event.fqn else 0,
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
    watch: "Watch", cube: Rows, traces: tuple[Trace, Trace], chosen: Sequence[int]
) -> Iterator[Step]:
    ledger, (first, last) = watch.ledger, traces
    losses = _smooth(ledger.curves.get("loss", ([], [])))
    position = {step: i for i, step in enumerate(ledger.steps)}
    bare = replace(first, calls=tuple(replace(call, outputs=()) for call in first.calls))
    rates = dict(zip(*ledger.curves.get("learning rate", ([], [])), strict=True))
    mode, alive = True, 0
    for step in chosen:
        at = position.get(step)
        mode, alive = watch.modes.get(step, mode), watch.graphs.alive.get(step, alive)
        value = losses.get(step)
        yield Step(
            trace=first if step == chosen[0] else last if step == chosen[-1] else bare,
            events=tuple(_events(watch, rates, step)),
            losses=(Loss(value=value),)
            if value is not None
            else (Loss(value=None),)
            if at is not None
            else (),
            gradients=_gradients(watch, cube, at)
            if at is not None and step not in watch.skipped
            else {},
            stale=watch.stale.get(step, ()),
            changes=_changes(watch, cube, at) if at is not None else {},
            training=mode,
            alive=alive,
        )


def _spread(steps: list[int], needed: set[int]) -> list[int]:
    if len(steps) <= _MOST:
        return steps
    some = (
        {steps[len(steps) * k // _MOST] for k in range(_MOST)} | {steps[-1]} | (needed & set(steps))
    )
    return sorted(some)


def _smooth(curve: tuple[list[int], list[float]]) -> dict[int, float]:
    """Losses averaged over a fifth of the run; the last one lower by what the batches' differences
    may account for.
    """
    steps, values = curve
    n = len(values)
    half = max(0, n // _PART // 2)
    smooth = {}
    for i, (step, value) in enumerate(zip(steps, values, strict=True)):
        around = values[max(0, i - half) : i + half + 1]
        smooth[step] = float(np.mean(around)) if _is_noise(around) else value
    if n >= _LONG and all(map(math.isfinite, values)):
        ends = [
            np.array(end) for end in (values[: half + 1], values[-half - 1 :]) if _is_noise(end)
        ]
        error = math.sqrt(sum(float(end.var()) / len(end) for end in ends))
        smooth[steps[-1]] -= _SURE * error
    return smooth


def _is_noise(values: list[float]) -> bool:
    """Whether losses differ as those of batches do; a loss that explodes has no average that says
    where it began.
    """
    return all(map(math.isfinite, values)) and max(values) - min(values) <= TIMES * max(
        1.0, abs(min(values))
    )


def _is_averaged(curve: tuple[list[int], list[float]]) -> bool:
    """Whether the first or the last loss that the rules see is an average."""
    half = len(curve[1]) // _PART // 2
    return half > 0 and (_is_noise(curve[1][: half + 1]) or _is_noise(curve[1][-half - 1 :]))


def _lost(losses: Sequence[float | None]) -> int | None:
    """Where a loss was highest that has diverged and came down again to no less than it began with,
    as where every ReLU has died.
    """
    known = [(value, i) for i, value in enumerate(losses) if value is not None]
    if len(known) < 2 or not all(math.isfinite(value) for value, _ in known):
        return None
    first, last, (highest, at) = known[0][0], known[-1][0], max(known)
    return (
        at if first > 0 and last >= _BETTER * first and highest > max(1.0, TIMES * first) else None
    )


def _events(watch: "Watch", rates: Mapping[int, float], step: int) -> Iterator[Event]:
    yield Event(kind="backward")
    if watch.optimizers and step not in watch.skipped:
        yield Event(kind="step", subject=watch.names.get("optimizer", "optimizer"))
    if step in rates and step - 1 in rates and rates[step] != rates[step - 1]:
        yield Event(kind="schedule", subject="scheduler", rate=rates[step])


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


def _collapse(rates: list[float]) -> float | None:
    """The rate after a hundred batches over the first, where each step multiplies it by the same
    factor.
    """
    if len(rates) < _SHORTEST or min(rates) <= 0:
        return None
    factors = np.array(rates[1:]) / np.array(rates[:-1])
    if factors.max() >= 1 or factors.max() - factors.min() > 1e-3:
        return None
    return float(np.exp(np.log(factors).mean() * _SCHEDULED))


def _optimizers(watch: "Watch") -> Iterator[OptimizerInfo]:
    names = {id(each.tensor): each.name for each in watch.parameters.watched}
    for optimizer in watch.optimizers:
        listed = [p for group in optimizer.param_groups for p in group["params"]]
        yield OptimizerInfo(
            name=watch.names.get("optimizer", "optimizer"),
            kind=type(optimizer).__name__,
            rates=tuple(float(group.get("lr", 0.0)) for group in optimizer.param_groups),
            parameters=frozenset(names[id(p)] for p in listed if id(p) in names),
            foreign=tuple(tuple(p.shape) for p in listed if id(p) not in names),
            scheduled=any(group.get("initial_lr") for group in optimizer.param_groups),
            maximize=any(bool(group.get("maximize")) for group in optimizer.param_groups),
            weight_decay=max(
                (float(group.get("weight_decay") or 0.0) for group in optimizer.param_groups),
                default=0.0,
            ),
        )
