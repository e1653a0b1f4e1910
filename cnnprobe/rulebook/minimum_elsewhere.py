"""A loss that is smallest where the output is not what the targets say."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, FreeOutput
from cnnprobe.diagnosis.evidence.loss_terms import is_maximised
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import perceptron, stepping

MOST = 0.8  # of the changed elements
OTHERS = 0.6  # of them; where two orders differ, some places stay
WRONG = 0.6  # agreement of a minimum that is at other targets; its own gives 0.9 and more
FARTHER = 2.0  # times the distance of the own output: it was driven away
MISSED = 0.5  # of the classes, of a minimum that is at none
TURNED = frozenset({"neg", "rsub"})


def _loop(apart: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        loss: Any = loss_fn(model(inputs), targets.flip(0) if apart else targets)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The targets are in another order than the samples."""
    return _loop(apart=True)


def healthy() -> Mapping[str, Any]:
    """They are in the same order."""
    return _loop(apart=False)


@rule(
    code="CP451",
    name="minimum-elsewhere",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def minimum_elsewhere(evidence: Evidence) -> Iterator[Finding]:
    """The output that makes the loss smallest is not what the targets say.

    Why it matters: the better the model fits this loss, the worse are its predictions.
    What to do: compare output and targets in the same order of samples and positions; see the sign
    of each term.
    Known exceptions: silent for torch's own loss without a train_step, whose minimum is known;
    where the step calls its model twice before the first backward, where
    the loss has weights of its own, sorts or compares all samples with all, and where the model
    gets the samples in another order, or where another network without gradient is part of the
    loss, as a teacher that is meant to know better than the labels; a shift along time is meant.
    Source: the step itself with a tensor in the place of the model: elements of the targets are
    changed one at a time, and the tensor is optimised (Adam, at most 100 steps).
    """
    found = evidence.code.free.outputs if evidence.code.free is not None else ()
    is_alone = len(found) == 1 and not _is_taught(evidence)
    for output in found:
        said = _judge(evidence, output, is_alone=is_alone)
        if said is not None:
            kind, message, fix = said
            yield Finding(
                module=None, message=message, fix=fix, kind=kind, source=_find_line(evidence)
            )
            return


def _judge(
    evidence: Evidence, output: FreeOutput, *, is_alone: bool
) -> tuple[str, str, str] | None:
    """Which fault it is, how it shows, and what to do."""
    if output.agreement is None or output.opposite is None:
        return None
    if output.misplaced >= OTHERS * output.tried and output.agreement <= WRONG:
        place, acts = output.places
        return (
            "misplaced",
            (
                f"{output.target} at {_say(place)} acts on the output at {_say(acts)}, and not at "
                f"its own place; so do {output.misplaced} of {output.tried} elements that were "
                f"changed. {_say_minimum(output)}"
            ),
            (
                "give the loss output and targets in the same order of samples and positions: see "
                "what reshapes, transposes, flips or shuffles one of them"
            ),
        )
    if not is_alone or is_maximised(evidence) or _is_turned(evidence):
        return None
    is_away = output.farther is not None and output.farther >= FARTHER
    if output.reversed >= MOST * output.tried and (output.opposite >= MOST or is_away):
        return (
            "reversed",
            (
                f"the loss pushes the output away from {output.target}, at {output.reversed} of "
                f"{output.tried} elements that were changed. {_say_minimum(output)}"
            ),
            "see the sign of each term of the loss: an error is minimised, a score is not",
        )
    if output.classes and output.agreement < MISSED:
        return (
            "",
            f"the loss is not smallest at {output.target}. {_say_minimum(output)}",
            "see what the loss computes of the output for the right class and for the others",
        )
    return None


def _say_minimum(output: FreeOutput) -> str:
    assert output.agreement is not None  # noqa: S101  (the caller has asked)
    if output.classes:
        what = f"names the right class in {output.agreement:.0%} of its places"
    else:
        what = f"has a rank correlation of {output.agreement:.2f} with them"
    if output.farther is not None and output.farther >= FARTHER:
        what = f"is {output.farther:.2g} times as far from them as what the model gives"
    steps = format_counted(output.steps, "step")
    return f"The output that makes this loss small, by {steps} without the model, {what}"


def _say(place: tuple[int, ...]) -> str:
    return str(place[0]) if len(place) == 1 else str(place)


def _is_turned(evidence: Evidence) -> bool:
    """Whether the loop turns the output around by itself, as distances that are to be small."""
    flow = Flow(evidence.trace)
    return any(
        flow.owner(i) is None and flow.owner(flow.producer(flow.data(i))) is not None
        for i in flow.primitives(TURNED)
    )


def _is_taught(evidence: Evidence) -> bool:
    """Whether weights that get no gradient, beside the model, make a part of the loss."""
    flow = Flow(evidence.trace)
    losses = evidence.steps[0].losses if evidence.steps else ()
    behind = set[int]().union(*(flow.before(s.call) for s in losses if s.call is not None))
    return any(
        flow.owner(i) is None and not any(info.requires_grad for info in flow.calls[i].outputs)
        for i in flow.primitives(PROJECTIONS)
        if i in behind
    )


def _find_line(evidence: Evidence) -> str:
    """The line that makes the loss."""
    losses = evidence.steps[0].losses if evidence.steps else ()
    rows = [loss.call for loss in losses if loss.call is not None]
    flow = Flow(evidence.steps[0].trace) if evidence.steps else None
    return flow.line(rows[0]) if rows and flow is not None else ""
