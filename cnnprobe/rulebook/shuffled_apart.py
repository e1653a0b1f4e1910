"""Inputs and labels that are not shuffled alike."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, LOSSES, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import input_stats, loss_calls, stat
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import perceptron, stepping

_TAKING = ("getitem", "index_select")
PAIR = 2
CLOSE = 0.02  # of two shares that are the same
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
    none; or it mixes two orders of inputs and of labels, and exchanges their shares (mixup).

    Why it matters: each image gets the label of another one; all that can be learnt is how often
    each class occurs.
    What to do: index inputs and labels with the same permutation; give each label the share of its
    image.
    Known exceptions: an input of which a part is replaced (cutmix); targets that do not come with
    the batch.
    Source: torch.randperm: each call gives another order; Zhang et al. 2018, arXiv:1710.09412,
    equation 1: one lambda for images and labels.
    """
    yield from _find_exchanged(evidence)
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


# -- shares ----------------------------------------------------------------------------------------


def _find_exchanged(evidence: Evidence) -> Iterator[Finding]:
    """A loss of two labels whose shares are those of the other image."""
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    root = next((i for i in flow.roots() if flow.calls[i].inputs), None)
    if root is None:
        return
    images = {order: share for order, _, share in _list_shares(flow, flow.calls[root].inputs[0])}
    for loss in evidence.steps[0].losses:
        found = [
            (order, row, share)
            for row, share, values in _list_terms(flow, loss.call)
            for order in [_find_labels(flow, values)]
            if order is not False
        ]
        labels = {order: share for order, _, share in found}
        if len(images) != PAIR or labels.keys() != images.keys() or len(found) != PAIR:
            continue
        (one, share), (other, rest) = images.items()
        is_turned = abs(labels[one] - rest) + abs(labels[other] - share) < CLOSE
        if is_turned and abs(share - rest) > CLOSE:
            yield Finding(
                module=None,
                message=(
                    f"mixup with exchanged shares: the images are mixed {share:.2f} to {rest:.2f}, "
                    f"and the losses of their labels {labels[one]:.2f} to {labels[other]:.2f}"
                ),
                fix="exchange the two factors: each label gets the share of its image",
                source=flow.line(found[0][1]),
                kind="shares",
            )


def _list_shares(flow: Flow, info: TensorInfo) -> Iterator[tuple[int | None, int, float]]:
    """The orders of the batch that a tensor is the weighted sum of: the row of the permutation, the
    row of the product, the share.
    """
    for row, share, values in _list_terms(flow, flow.origin(info)):
        is_known, order = _find_order(flow, values)
        if is_known:
            yield order, row, share


def _list_terms(flow: Flow, row: int | None) -> Iterator[tuple[int, float, TensorInfo]]:
    """The products with a number that a row is the sum of: their rows, the numbers, and what is
    multiplied.
    """
    if row is None or operation(flow.calls[row]) != "add":
        return
    for info in flow.calls[row].inputs:
        made = flow.origin(info)
        if made is not None and operation(flow.calls[made]) == "mul":
            yield from ((made, share, values) for share, values in _split(flow, made))


def _split(flow: Flow, row: int) -> Iterator[tuple[float, TensorInfo]]:
    """The number of a product, written down or a tensor of one value, and the other factor."""
    call = flow.calls[row]
    numbers = [float(v) for v in call.arguments.values() if isinstance(v, int | float)]
    if len(call.inputs) == 1 and len(numbers) == 1:
        yield numbers[0], call.inputs[0]
    elif len(call.inputs) == PAIR:
        for one, other in (call.inputs, call.inputs[::-1]):
            known = input_stats(flow, one)
            if not one.requires_grad and stat(known, "count") == 1:
                yield stat(known, "mean"), other
                return


def _find_labels(flow: Flow, values: TensorInfo) -> int | Literal[False] | None:
    """The order of the labels of the loss that is multiplied; False where it is none."""
    made = flow.origin(values)
    if made is None or operation(flow.calls[made]) not in LOSSES:
        return False
    target = flow.calls[made].inputs[1] if len(flow.calls[made].inputs) > 1 else None
    is_known, order = (False, None) if target is None else _find_order(flow, target)
    return order if is_known else False
