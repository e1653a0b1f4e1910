"""Steps that something takes back."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping

# of an optimizer's change that is left at the end of the step; an average with decay 0.99 leaves
# 0.01
UNDONE = 0.05


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
    """Something writes the old weights back after the optimizer's step.

    Why it matters: nothing, or next to nothing, is learned.
    What to do: copy the model into its average or its best state, not the other way round; restore
    weights that were swapped for an evaluation.
    Known exceptions: Lookahead and like schemes, which keep more than a twentieth of each step.
    Source: the parameters before each observed step, right after the optimizer's own step, and at
    its end; Zhang et al. 2019, arXiv:1907.08610.
    """
    steps = [s for s in evidence.steps if s.stepped and s.changes]
    left = [
        s.changes[name] / moved
        for s in steps
        for name, moved in s.stepped.items()
        if moved > 0 and name in s.changes
    ]
    if not evidence.own_loop or len(steps) < 2 or not left or max(left) > UNDONE:
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
