"""A margin that is added behind its hinge."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.rulebook.material import perceptron, stepping

HINGES = frozenset({"relu", "clamp"})
REDUCED = frozenset({"mean", "sum"})


def _comparing(outside: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:  # noqa: ARG001
        made = model(inputs)
        near = (made - made.roll(4, 0)).square().sum(1)
        far = (made - made.roll(1, 0)).square().sum(1)
        hinge: Any = torch.relu(near - far) + 0.5 if outside else torch.relu(near - far + 0.5)
        optimizer.zero_grad()
        hinge.mean().backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """relu(near - far) + margin."""
    return _comparing(outside=True)


def healthy() -> Mapping[str, Any]:
    """relu(near - far + margin)."""
    return _comparing(outside=False)


@rule(
    code="CP467",
    name="margin-outside",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def margin_outside(evidence: Evidence) -> Iterator[Finding]:
    """A ranking loss adds its margin behind the relu of a difference, and not within it.

    Why it matters: a constant has no gradient, so that the loss asks for no margin: it is content
    where all distances are 0, and the embeddings collapse to a point.
    What to do: relu(near - far + margin).mean().
    Known exceptions: a difference of which one side gets no gradient; a constant of 0 or less.
    Source: Schroff et al. 2015, "FaceNet", arXiv:1503.03832, equation 3.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives(HINGES):
        added = flow.readers.get(i, ())
        if not _is_hinge_of_difference(flow, i) or len(added) != 1:
            continue
        margin = _find_constant(flow, added[0])
        readers = flow.readers.get(added[0], ())
        if margin > 0 and readers and all(operation(flow.calls[k]) in REDUCED for k in readers):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{margin:g} is added behind {describe(flow.calls[i])} of a difference: a "
                    "constant of the loss, which has no gradient, and no margin"
                ),
                fix=f"add the margin within: relu(near - far + {margin:g})",
                source=flow.calls[added[0]].source,
            )
            return


def _is_hinge_of_difference(flow: Flow, index: int) -> bool:
    """Whether a row cuts a difference of two values off at 0, both of which are trained."""
    call = flow.calls[index]
    made = flow.producer(flow.data(index))
    if made is None or operation(flow.calls[made]) != "sub":
        return False
    is_cut = operation(call) == "relu" or (
        argument(call, "min", None) == 0 and argument(call, "max", None) is None
    )
    sides = flow.calls[made].inputs
    return is_cut and len(sides) == 2 and all(side.requires_grad for side in sides)


def _find_constant(flow: Flow, index: int) -> float:
    """The number that a row adds; 0 where it adds none."""
    call = flow.calls[index]
    number = argument(call, "other", None)
    is_sum = operation(call) == "add" and len(call.inputs) == 1
    return float(number) if is_sum and isinstance(number, int | float) else 0.0
