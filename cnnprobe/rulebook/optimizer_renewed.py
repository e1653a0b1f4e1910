"""An optimizer that is made anew for each step."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping

LEAST = 3  # steps


def _loop(renewed: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        if renewed:
            optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    model = perceptron()
    return stepping(model, loop, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))


def sick() -> Mapping[str, Any]:
    """Adam is built in the step."""
    return _loop(renewed=True)


def healthy() -> Mapping[str, Any]:
    """Adam is built once."""
    return _loop(renewed=False)


@rule(
    code="CP518",
    name="optimizer-renewed",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "idle-optimizer", "update-ratio"),
)
def optimizer_renewed(evidence: Evidence) -> Iterator[Finding]:
    """Each step is the first one of its optimizer: what it has gathered of earlier steps is gone;
    or each epoch makes a new model.

    Why it matters: momentum and Adam's averages never form; Adam's first step has the same length
    for every weight, whatever the gradient is.
    What to do: build the optimizer once, before the loop.
    Known exceptions: optimizers without a state, as plain SGD; loops that take several steps with
    each optimizer, as inner loops do.
    Source: Kingma and Ba 2015, arXiv:1412.6980, section 3.
    """
    for slip in evidence.texts.slips:
        if slip.kind == "made-anew":
            yield Finding(
                module=None,
                message=(
                    f"`{slip.text}` in the loop over epochs makes a new model in each of them: "
                    "what the epoch before has learned is gone"
                ),
                fix=f"make {slip.name} and its optimizer once, before the loop",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
    stepped = [[e for e in step.events if e.kind == "step"] for step in evidence.steps]
    if not evidence.own_loop or len(stepped) < LEAST or not all(stepped):
        return
    names = {event.subject for events in stepped for event in events if event.fresh}
    for name in sorted(names):
        mine = [event for events in stepped for event in events if event.subject == name]
        if len(mine) >= LEAST and all(event.fresh for event in mine):
            yield Finding(
                module=None,
                message=(
                    f"{len(mine)} of {len(mine)} steps of {name} are the first of their optimizer: "
                    "it is built anew for each, and its averages are lost"
                ),
                fix="build the optimizer once, before the loop",
            )
