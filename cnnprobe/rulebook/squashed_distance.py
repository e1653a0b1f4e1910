"""A sigmoid of a distance."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, argument, describe, operation
from cnnprobe.rulebook.material import perceptron, stepping

DISTANCES = frozenset(
    {"pairwise_distance", "cdist", "norm", "linalg.norm", "linalg.vector_norm", "dist", "sqrt"}
)


def _comparing(squashed: bool) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:  # noqa: ARG001
        made = model(inputs)
        apart = F.pairwise_distance(made, made.roll(1, 0))
        apart = torch.sigmoid(apart) if squashed else apart
        same = (targets == targets.roll(1, 0)).float()
        optimizer.zero_grad()
        (same * apart**2 + (1 - same) * F.relu(1 - apart) ** 2).mean().backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """Pairs that belong together keep a distance of 0.5."""
    return _comparing(squashed=True)


def healthy() -> Mapping[str, Any]:
    """The distance itself."""
    return _comparing(squashed=False)


@rule(
    code="CP480",
    name="squashed-distance",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def squashed_distance(evidence: Evidence) -> Iterator[Finding]:
    """The loss is given the sigmoid of a distance.

    Why it matters: a distance is 0 or more, so its sigmoid is 0.5 or more: pairs that belong
    together never come near 0, and far ones have next to no gradient.
    What to do: give the loss the distance itself; a probability needs an offset that is learned, as
    sigmoid(bias - distance).
    Known exceptions: a sigmoid that is scaled afterwards, as 2 * sigmoid(d) - 1; one within the
    model, which further weights follow.
    Source: Hadsell et al. 2006, equation 4: the margin and the squares are of the distance itself.
    """
    flow = Flow(evidence.trace)
    losses = evidence.steps[0].losses if evidence.steps else ()
    for loss in (each for each in losses if each.call is not None):
        for i in sorted(flow.before(loss.call or 0)):
            distance = find_distance(flow, i)
            if distance is None or not _reaches(flow, i, loss.call or 0):
                continue
            is_negated, name = distance
            given, reach = ("minus a", "0 to 0.5") if is_negated else ("a", "0.5 to 1")
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(flow.calls[i])} of {given} distance ({name}), which is never below "
                    f"0, gives {reach} alone: the loss never gets the other half"
                ),
                fix="give the loss the distance itself, without the sigmoid",
                source=flow.line(i),
                subject=describe(flow.calls[i]),
            )
            return


def find_distance(flow: Flow, index: int) -> tuple[bool, str] | None:
    """Whether a sigmoid's distance is negated, and what makes it; None where it is of no
    distance.
    """
    call = flow.calls[index]
    if operation(call) != "sigmoid" or not call.inputs or not call.inputs[0].requires_grad:
        return None
    made = flow.origin(call.inputs[0])
    is_negated = made is not None and operation(flow.calls[made]) == "neg"
    if is_negated and made is not None:
        made = flow.origin(flow.calls[made].inputs[0])
    if made is None or operation(flow.calls[made]) not in DISTANCES:
        return None
    return is_negated, describe(flow.calls[made])


def _reaches(flow: Flow, index: int, end: int) -> bool:
    """Whether a loss reads a row without further weights and without a scale."""
    between = flow.after(index) & flow.before(end)
    if any(operation(flow.calls[k]) in PROJECTIONS for k in between):
        return False
    readers = [flow.calls[k] for k in flow.readers.get(index, ())]
    return not any(
        operation(call) == "mul" and isinstance(argument(call, "other", None), int | float)
        for call in readers
    ) and not any(
        operation(call) == "sub" and argument(call, "other", None) == 0.5 for call in readers
    )
