"""Steps that something takes back."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping

# of an optimizer's change that is left at the end of the step; an average with decay 0.99 leaves
# 0.01
UNDONE = 0.05
FEWEST = 2  # steps


def _loop(left: float) -> Mapping[str, Any]:
    """After each step the weights go back to what they were, but for a part of the step."""

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        import torch

        before = [p.detach().clone() for p in model.parameters()]
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), before, strict=True):
                parameter.lerp_(old, 1 - left)

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """A hundredth of each step is left."""
    return _loop(0.01)


def healthy() -> Mapping[str, Any]:
    """A tenth is left, as of an optimizer that looks ahead."""
    return _loop(0.1)


@rule(
    code="CP516",
    name="update-undone",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="unchanged-weights",
    explains=("loss-not-decreasing", "cannot-overfit", "lr-too-low"),
)
def update_undone(evidence: Evidence) -> Iterator[Finding]:
    """Something writes the old weights back after the optimizer's step, or before the next forward.

    Why it matters: nothing, or next to nothing, is learned.
    What to do: copy the model into its average or its best state, not the other way round; restore
    weights that were swapped for an evaluation.
    Known exceptions: Lookahead and like schemes, which keep more than a twentieth of each step, and
    whose slow weights change only when they are copied. A training that goes on from its average
    on purpose is reported, as a warning.
    Source: the parameters before each observed step, right after the optimizer's own step, and at
    its end; Zhang et al. 2019, arXiv:1907.08610.
    """
    if evidence.own_loop and _begins_anew(evidence):
        yield Finding(
            module=None,
            message=(
                f"the loss and every gradient are the same to the bit in {len(evidence.steps)} "
                "steps, although the first one changed the weights: something writes the old "
                "weights back before the next forward"
            ),
            fix="load the weights once, before the loop over the batches",
        )
        return
    yield from _find_averages(evidence)
    steps = [s for s in evidence.steps if s.stepped and s.changes]
    if len(steps) > FEWEST:
        steps = steps[-1:]  # the first ones may still go to the weights that are written
    left = [
        s.changes[name] / moved
        for s in steps
        for name, moved in s.stepped.items()
        if moved > 0 and name in s.changes
    ]
    if not evidence.own_loop or not left or max(left) > UNDONE:
        return
    yield Finding(
        module=None,
        message=(
            f"of what {evidence.optimizers[0].name} changes, at most {max(left):.1%} is left at "
            f"the end of the step (less than {UNDONE:.0%}): something writes the old weights back"
        ),
        fix=(
            "copy the model into its average or its best state, not the other way round, and "
            "restore weights that were swapped for an evaluation"
        ),
    )


def _find_averages(evidence: Evidence) -> Iterator[Finding]:
    """An average that is copied into the trained model in some of the steps."""
    for average in evidence.averages if evidence.own_loop else ():
        if not average.overwrites:
            continue
        count, shown = len(average.overwrites), ", ".join(map(str, average.overwrites[:3]))
        yield Finding(
            module=None,
            severity=Severity.WARNING,
            message=(
                f"at the end of step{'s' if count > 1 else ''} {shown} the weights of "
                f"{average.of} are those of {average.name}, which follows them as an average "
                "in the other steps: what the optimizer did since is lost"
            ),
            fix=(
                f"copy {average.name} into a model of its own to evaluate it, or put the trained "
                "weights back afterwards"
            ),
            kind="average",
        )


def _begins_anew(evidence: Evidence) -> bool:
    """Whether each step has the loss and the gradients of the first one, which moved the
    weights.
    """
    first, *others = evidence.steps or (None,)
    if first is None or len(others) < FEWEST or not any(first.changes.values()):
        return False
    norms = {name: gradient.norm for name, gradient in first.gradients.items()}
    return any(norms.values()) and all(
        step.value is not None
        and step.value == first.value
        and any(event.kind == "step" for event in step.events)
        and norms == {name: gradient.norm for name, gradient in step.gradients.items()}
        for step in others
    )
