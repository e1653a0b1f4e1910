"""Images that are turned without their masks."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe
from cnnprobe.diagnosis.evidence.questions import LossCall, find_given, loss_calls, variable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import images, stepping

TURNING = frozenset({"flip", "rot90", "grid_sample"})


def _loop(paired: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, *_: Any) -> None:
        masks = targets.flip(-1) if paired else targets
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs.flip(-1)), masks)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return stepping(model, loop, targets=(images() > 0).float())


def sick() -> Mapping[str, Any]:
    """The images are flipped."""
    return _loop(False)


def healthy() -> Mapping[str, Any]:
    """So are the masks."""
    return _loop(True)


@rule(
    code="CP535",
    name="unpaired-flip",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit"),
)
def unpaired_flip(evidence: Evidence) -> Iterator[Finding]:
    """The step flips or turns the images, and compares the output with masks that are not.

    Why it matters: each pixel is taught the label of another place.
    What to do: the same flip, with the same random draw, of the images and of the masks.
    Known exceptions: an output that is turned back; targets without height and width, such as
    classes; a target that is made of the turned images; a flip of the channels or of the batch.
    Source: torchvision.transforms.v2, which transforms images, masks and boxes together.
    """
    if not evidence.own_loop:
        return
    for loss in loss_calls(evidence):
        row = _find_unpaired(evidence, loss)
        if row is not None:
            call = loss.flow.calls[row]
            yield Finding(
                module=None,
                message=(
                    f"{describe(call)} turns the images, of shape {call.inputs[0].shape}, and the "
                    f"{loss.operation} compares the output with masks, of shape "
                    f"{loss.flow.outer(loss.target).shape if loss.target else ()}, that 0 such "
                    "calls have turned"
                ),
                fix=(
                    f"turn {variable(evidence, 'targets')} by the same call and the same draw, or "
                    "leave it out"
                ),
                source=call.source,
                subject=describe(call),
            )
            return


def _find_unpaired(evidence: Evidence, loss: LossCall) -> int | None:
    """The row that turns the images of this loss, and not its target."""
    flow, target = loss.flow, loss.target
    made = flow.producer(loss.prediction)
    if made is None or target is None or target.requires_grad:
        return None
    behind = {*flow.before(made), made}
    rows = sorted(i for i in behind if _turns(flow, i))
    if not rows or any(_is_of_model(flow, i) for i in rows):
        return None  # an output that is turned back, or a way of the model's own
    call = flow.calls[rows[0]]
    if not _is_given(evidence, call.inputs[0]):
        return None
    producer = flow.producer(target)
    before = set() if producer is None else {*flow.before(producer), producer}
    if any(_turns(flow, i) or _is_of_model(flow, i) for i in before):
        return None
    outer = flow.outer(target)
    is_map = outer.shape[-2:] == call.inputs[0].shape[-2:] and len(outer.shape) > 2
    is_target = find_given(evidence, flow, target) in evidence.targets
    return rows[0] if is_map and is_target else None


def _is_of_model(flow: Flow, index: int) -> bool:
    """Whether the model makes it, or what it is made of."""
    return any(flow.owner(i) is not None for i in (index, *flow.before(index)))


def _is_given(evidence: Evidence, info: TensorInfo) -> bool:
    """Whether it is the batch of images, or one of them."""
    shapes = [given.shape for given in evidence.inputs if len(given.shape) == 4]
    return any(info.shape in (shape, shape[1:]) for shape in shapes)


def _turns(flow: Flow, index: int) -> bool:
    """Whether a row moves the pixels of maps, along their height or width."""
    call = flow.calls[index]
    name = call.kind.rpartition(".")[2]
    if name not in TURNING or not call.inputs or len(call.inputs[0].shape) < 3:
        return False
    return name == "grid_sample" or _are_of_pixels(call)


def _are_of_pixels(call: ModuleCall) -> bool:
    dims = [
        value
        for name, value in call.arguments.items()
        if isinstance(value, int) and not name.startswith(("k", "times"))
    ]
    rank = len(call.inputs[0].shape)
    if call.kind.endswith("rot90"):
        dims = dims[-2:]
    return bool(dims) and all((n + rank if n < 0 else n) >= rank - 2 for n in dims)
