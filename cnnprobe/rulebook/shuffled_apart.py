"""Inputs and labels that are not shuffled alike."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

_TAKING = ("getitem", "index_select")
_SAMPLES = ARRANGING - {"getitem", "index_select", "gather"}


def _loop(both: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        order = torch.randperm(len(inputs))
        inputs = inputs[order]
        targets = targets[order] if both else targets
        optimizer.zero_grad()
        loss_fn(model(inputs), targets).backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The images alone are shuffled."""
    return _loop(both=False)


def healthy() -> Mapping[str, Any]:
    """Both, by the same order."""
    return _loop(both=True)


@rule(
    code="CP746",
    name="shuffled-apart",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing"),
)
def shuffled_apart(evidence: Evidence) -> Iterator[Finding]:
    """The step puts the inputs into an order of randperm, and the labels into another, or into
    none.

    Why it matters: each image gets the label of another one; all that can be learnt is how often
    each class occurs.
    What to do: index inputs and labels with the same permutation.
    Known exceptions: an input that is mixed with a shuffled one (mixup); targets that do not come
    with the batch.
    Source: torch.randperm: each call gives another order.
    """
    for loss in loss_calls(evidence):
        flow = loss.flow
        root = next((i for i in flow.roots() if flow.calls[i].inputs), None)
        if root is None or loss.target is None:
            continue
        given = flow.calls[root].inputs[0]
        if not given.shape or given.shape[:1] != loss.target.shape[:1]:
            continue
        known, ours = _find_order(flow, given)
        known_too, theirs = _find_order(flow, loss.target)
        if known and known_too and ours != theirs:
            place = ours if ours is not None else theirs
            yield Finding(
                module=None,
                message=(
                    f"the {'inputs' if ours is not None else 'labels'} are put into the order of "
                    f"torch.randperm, and the {'labels' if ours is not None else 'inputs'} "
                    f"{'into another' if None not in (ours, theirs) else 'stay as they are'}: the "
                    "pairs do not match"
                ),
                fix="index both with the same permutation",
                source=flow.line(place),
            )
        return


def _find_order(flow: Flow, info: TensorInfo) -> tuple[bool, int | None]:
    """Whether the samples are those of the batch, and the row of the permutation that they were
    taken by; None where they are in the batch's own order.
    """
    outer = flow.outer(info, _SAMPLES)
    made = flow.producer(outer)
    if made is None:
        return outer.source is None, None
    call = flow.calls[made]
    if operation(call) not in _TAKING or len(call.inputs) != len(("values", "order")):
        return False, None
    values, order = call.inputs
    index = flow.producer(order)
    is_drawn = index is not None and operation(flow.calls[index]) == "randperm"
    return is_drawn and flow.outer(values, _SAMPLES).source is None, index
