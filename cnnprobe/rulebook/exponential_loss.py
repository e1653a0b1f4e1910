"""The exponential of a loss."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import LOSSES, Evidence, Flow, describe, operation
from cnnprobe.rulebook.material import classifying, perceptron

HANDING = frozenset({"mean", "sum", "add", "mul", "div"})  # of a loss that is still one


def _training(raised: bool) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F

    def loss_fn(output: Any, targets: Any) -> Any:
        loss = F.cross_entropy(output, targets)
        return torch.exp(loss) if raised else loss

    return classifying(perceptron(), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """The perplexity is minimised."""
    return _training(raised=True)


def healthy() -> Mapping[str, Any]:
    """Its logarithm, the cross entropy."""
    return _training(raised=False)


@rule(
    code="CP481",
    name="exponential-loss",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "loss-at-init",
        "exploding-gradient",
        "update-ratio",
        "divergence",
        "lr-too-high",
        "loss-not-decreasing",
        "nan-forward",
        "nan-backward",
    ),
)
def exponential_loss(evidence: Evidence) -> Iterator[Finding]:
    """What is minimised is exp of a loss.

    Why it matters: the gradient is multiplied by exp(loss), which is large where the model is
    wrong: the learning rate that fits the end lets the start explode, and one bad batch undoes the
    rest.
    What to do: minimise the loss itself, and compute exp(loss), the perplexity, for the log alone.
    Known exceptions: exp of minus a loss, as in a focal weight; exp of each sample's score.
    Source: Jelinek et al. 1977, "Perplexity": a measure of the model, 2 to the cross entropy.
    """
    step = evidence.steps[0] if evidence.steps else None
    flow = Flow(evidence.trace)
    for loss in step.losses if step is not None else ():
        row = find_exponential(flow, loss.call)
        if row is not None:
            index, of = row
            size = "" if loss.value is None else f", by {loss.value:.3g} at first"
            yield Finding(
                module=flow.owner(index),
                message=(
                    f"what is minimised is exp of a loss ({of}): the gradient is multiplied by the "
                    f"exponential itself{size}"
                ),
                fix=f"minimise the loss without exp: {of}",
                source=flow.line(index),
                subject=describe(flow.calls[index]),
            )
            return


def find_exponential(flow: Flow, end: int | None) -> tuple[int, str] | None:
    """The row of exp that makes all of a loss, and what it is of."""
    while end is not None and operation(flow.calls[end]) in HANDING:
        end = _find_only(flow, end)
    if end is None or operation(flow.calls[end]) != "exp" or flow.calls[end].outputs[0].shape:
        return None
    made = _find_only(flow, end)
    while made is not None and operation(flow.calls[made]) in HANDING:
        made = _find_only(flow, made)
    if made is None or operation(flow.calls[made]) not in LOSSES:
        return None
    return end, describe(flow.calls[made])


def _find_only(flow: Flow, index: int) -> int | None:
    """The row that makes the only tensor with gradient that a row is given."""
    trained = [info for info in flow.calls[index].inputs if info.requires_grad]
    return flow.origin(trained[0]) if len(trained) == 1 else None
