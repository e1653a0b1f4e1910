"""Images that are normalised once more by the mean and the deviation of raw ones."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import find_given, spoken, stat
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images, layers

_STANDARD = (0.5, 2.0)  # the deviation of what is normalised already
_CENTRED = 1.0
_BELOW = -0.3  # raw pixels are not negative
_WIDER = 2.0  # of a deviation: that of pixels in [0, 1] is about 0.25
_FEW = 4  # constants, one for each channel


def _net(raw: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = layers(nn.Flatten(), lambda: nn.Linear(64, 4))

        def forward(self, x: Any) -> Any:
            return self.body((x - 0.45) / 0.225)

    torch.manual_seed(0)
    return classifying(Net(), inputs=(images() * 0.225 + 0.45).clamp(0, 1) if raw else images())


def sick() -> Mapping[str, Any]:
    """Of images with mean 0 and deviation 1."""
    return _net(raw=False)


def healthy() -> Mapping[str, Any]:
    """Of pixels in [0, 1]."""
    return _net(raw=True)


@rule(code="CP336", name="normalised-again", severity=Severity.WARNING, examples=(sick, healthy))
def normalised_again(evidence: Evidence) -> Iterator[Finding]:
    """The model subtracts the mean of raw pixels and divides by their deviation, but its input is
    normalised already.

    Why it matters: what has mean 0 and deviation 1 gets a deviation of 4 and a mean of -2; weights
    that were trained on images see something else.
    What to do: normalise in one place, the data or the model.
    Known exceptions: inputs that are not negative; constants that do not widen the range.
    Source: torchvision.transforms.Normalize, "output = (input - mean) / std".
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"div"}):
        call = flow.calls[i]
        before = flow.producer(flow.data(i))
        if before is None or operation(flow.calls[before]) != "sub":
            continue
        readers = {operation(flow.calls[j]) for j in flow.passes_on(i)}
        if not _is_constant(call) or not _is_constant(flow.calls[before]):
            continue
        given = find_given(evidence, flow, flow.calls[before].inputs[0])
        if given is None or not readers & PROJECTIONS or not _is_standard(given):
            continue
        made, low = call.outputs[0], stat(given, "min")
        if not stat(made, "std") > _WIDER * stat(given, "std"):
            continue
        yield Finding(
            module=flow.owner(i),
            message=(
                f"the input is normalised already (from {low:.3g} to {stat(given, 'max'):.3g}, "
                f"deviation {stat(given, 'std'):.3g}), and is normalised again: it reaches the "
                f"first layer with mean {stat(made, 'mean'):.3g} and deviation "
                f"{stat(made, 'std'):.3g}"
            ),
            fix=f"give {spoken(evidence, flow.owner(i))} the raw pixels, or drop this one",
            source=flow.line(i),
        )
        return


def _is_constant(call: ModuleCall) -> bool:
    """Whether the second operand is a number, or one for each channel."""
    others = call.inputs[1:]
    return all(math.prod(info.shape) <= _FEW for info in others)


def _is_standard(info: TensorInfo) -> bool:
    return (
        stat(info, "min") < _BELOW
        and abs(stat(info, "mean")) < _CENTRED
        and _STANDARD[0] < stat(info, "std") < _STANDARD[1]
    )
