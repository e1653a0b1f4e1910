"""Class indices that were interpolated."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import images, stepping

SMOOTH = ("linear", "bilinear", "bicubic", "trilinear", "area")  # modes of interpolate
_TURNING = frozenset({"long", "int", "to", "type", "round", "float", "clamp"})


def _loop(mode: str) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1))

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        output = model(inputs)
        small = F.interpolate(targets[:, None].float(), size=output.shape[2:], mode=mode)
        optimizer.zero_grad()
        loss_fn(output, small[:, 0].long()).backward()
        optimizer.step()

    masks = (images().squeeze(1) * 2).long().clamp(0, 3)
    return stepping(model, loop, targets=masks)


def sick() -> Mapping[str, Any]:
    """Masks are made smaller with mode="bilinear"."""
    return _loop("bilinear")


def healthy() -> Mapping[str, Any]:
    """With mode="nearest"."""
    return _loop("nearest")


@rule(code="CP745", name="interpolated-labels", severity=Severity.WARNING, examples=(sick, healthy))
def interpolated_labels(evidence: Evidence) -> Iterator[Finding]:
    """The labels of the loss are class indices that were resized by a mode that averages.

    Why it matters: between class 1 and class 3 an average is class 2: wherever two classes meet a
    third one is taught.
    What to do: mode="nearest" for masks, or resize the output of the model.
    Known exceptions: targets that are no indices: probabilities, heat maps, depths.
    Source: torch.nn.functional.interpolate, "mode"; Long et al. 2015, arXiv:1411.4038, section 3.3,
    which resizes the scores.
    """
    for loss in loss_calls(evidence):
        target = loss.target
        if target is None or not target.dtype.startswith(("int", "uint")):
            continue
        made = loss.flow.origin(target, ARRANGING | _TURNING)
        if made is None or operation(loss.flow.calls[made]) != "interpolate":
            continue
        call = loss.flow.calls[made]
        mode = argument(call, "mode", "nearest")
        if mode in SMOOTH:
            yield Finding(
                module=None,
                message=(
                    f"the class indices that {describe(loss.call)} is given were resized by "
                    f"{describe(call)} with mode={mode!r}, which averages them: from "
                    f"{call.inputs[0].shape} to {call.outputs[0].shape}"
                ),
                fix='mode="nearest" there',
                source=call.source,
            )
