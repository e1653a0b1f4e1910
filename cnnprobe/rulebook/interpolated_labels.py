"""Class indices that were interpolated."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, variable
from cnnprobe.rulebook.material import images, stepping

SMOOTH = ("linear", "bilinear", "bicubic", "trilinear", "area")  # modes of interpolate
# Of the places where two classes meet that are 2 apart or more: masks that were not resized have a
# tenth, of objects that touch by chance; those of a rim all around have all.
MANY, NEARLY_ALL = 0.3, 0.95
FEWEST = 50  # of these places with a thin strip
WIDE = 5.0  # times as many as wide ones, which are objects
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
    Known exceptions: targets that are no indices: probabilities, heat maps, depths; rims that are
    a class of their own all around, or that fill no places elsewhere, as those of a trimap.
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
            return
    yield from _judge_borders(evidence)


def _judge_borders(evidence: Evidence) -> Iterator[Finding]:
    """Maps of the batch in which thin strips of a class lie between two others."""
    if evidence.batch.borders is None:
        return
    thin, wide, direct = evidence.batch.borders
    share = thin / max(thin + direct, 1)
    if thin >= FEWEST and MANY <= share <= NEARLY_ALL and thin >= WIDE * wide:
        yield Finding(
            module=None,
            kind="borders",
            message=(
                f"where two classes meet in {variable(evidence, 'targets')} whose indices are 2 "
                f"apart or more, {share:.0%} of the {thin + direct:,} places have a class between "
                "them that is 1 or 2 pixels wide, as masks have that were resized by averages"
            ),
            fix=(
                'resize masks of class indices with mode="nearest" (InterpolationMode.NEAREST, '
                "Image.NEAREST), rotate them so too"
            ),
        )
