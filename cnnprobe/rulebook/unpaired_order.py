"""Images that are mixed with others than their labels are."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, variable
from cnnprobe.rulebook.material import perceptron, stepping

TAKING = frozenset({"getitem", "index_select"})


def _loop(paired: bool) -> Mapping[str, Any]:
    import torch

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        order = torch.randperm(len(inputs))
        other = order if paired else torch.randperm(len(inputs))
        optimizer.zero_grad()
        outputs = model(0.7 * inputs + 0.3 * inputs[order])
        loss = 0.7 * loss_fn(outputs, targets) + 0.3 * loss_fn(outputs, targets[other])
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """A mixup with a second torch.randperm for the labels."""
    return _loop(False)


def healthy() -> Mapping[str, Any]:
    """One order for both."""
    return _loop(True)


@rule(
    code="CP551",
    name="unpaired-order",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def unpaired_order(evidence: Evidence) -> Iterator[Finding]:
    """The step takes the images in one random order, and the targets in another one.

    Why it matters: each image is taught the label of another one.
    What to do: draw torch.randperm once, and index the images and the targets with it.
    Known exceptions: targets that are not reordered at all; an order that is drawn once and used
    for both, also among others.
    Source: Zhang et al. 2018, "mixup", arXiv:1710.09412, section 1: both are mixed with one pair.
    """
    if not evidence.own_loop:
        return
    flow = Flow(evidence.trace)
    given = (info.source for root in flow.roots() for info in flow.calls[root].inputs)
    images = _list_orders(flow, given)
    targets = _list_orders(
        flow, (loss.target.source for loss in loss_calls(evidence) if loss.target)
    )
    if images and targets and not set(images.values()) & set(targets.values()):
        first, second = (flow.line(next(iter(each))) for each in (images, targets))
        inputs, labels = variable(evidence, "inputs"), variable(evidence, "targets")
        yield Finding(
            module=None,
            message=(
                f"{inputs} are taken in the order of one torch.randperm at "
                f"{first.rpartition('/')[2]}, and {labels} in that of another one at "
                f"{second.rpartition('/')[2]}: the labels belong to other images"
            ),
            fix=f"draw torch.randperm once, and index {inputs} and {labels} with it",
            source=second,
        )


def _list_orders(flow: Flow, sources: Iterable[object]) -> dict[int, int]:
    """The rows behind these that take the samples in a random order, and the row that drew it;
    none of the model's own.
    """
    found: dict[int, int] = {}
    for source in sources:
        for i in sorted({*flow.before(source), source}) if isinstance(source, int) else ():
            call = flow.calls[i]
            if operation(call) not in TAKING or flow.owner(i) is not None or len(call.inputs) < 2:
                continue
            drawn = [j for info in call.inputs[1:] for j in _list_draws(flow, info.source)]
            if drawn:
                found[i] = drawn[0]
    return found


def _list_draws(flow: Flow, source: object) -> list[int]:
    """The calls of torch.randperm that an index comes from."""
    behind = {*flow.before(source), source} if isinstance(source, int) else set[int]()
    return [i for i in sorted(behind) if operation(flow.calls[i]) == "randperm"]
