"""Masks that were resized like photos."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Masks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, masked
from cnnprobe.diagnosis import Finding, Severity

SHARE = 0.25  # of the masks with two areas or more, and two of them at least
MAJOR = 0.7  # of the pixels have one of the two extreme values
OTHERS = 8  # values in between
QUARTERS = (
    64,
    128,
    192,
    255,
)  # in each of which one lies: COCO-Stuff's classes end at 182, ADE20K's at 150
_FIX = "resize and rotate masks with InterpolationMode.NEAREST"


def _resized(mode: str) -> Mapping[str, Any]:
    from torch.nn.functional import interpolate

    drawn = blobs(classes=2, size=48)[:, None].float() * 255
    small = interpolate(drawn, size=(31, 31), mode=mode).round()
    masks = small[:, 0].long()
    return {"loader": masked(masks if mode != "nearest" else (masks > 127).long(), size=31)}


def sick() -> Mapping[str, Any]:
    """Resized with bilinear interpolation."""
    return _resized("bilinear")


def healthy() -> Mapping[str, Any]:
    """With that of the nearest pixel."""
    return _resized("nearest")


@data_rule(
    code="CP822",
    name="interpolated-masks",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def interpolated_masks(data: Data) -> Iterator[Finding]:
    """Masks hold values at edges that lie between those of the two sides, as interpolation does;
    or a smooth interpolation of class numbers was seen while they were read.

    Why it matters: a value between two classes is a third class, which is not there.
    What to do: v2.Resize(size, interpolation=InterpolationMode.NEAREST) for masks, or wrap them as
    tv_tensors.Mask, which the transforms then treat so.
    Known exceptions: a single value between two others may be a class of its own, as the rim of a
    cell; floats from 0 to 1 may be meant so.
    Source: torchvision.transforms.v2.Resize, "NEAREST ... for masks"; tv_tensors.Mask.
    """
    for split in data.splits:
        if (smoothed := split.clues.smoothed) is not None:
            yield Finding(
                message=(
                    f"the masks {smoothed.path} of the {split.name} data are class numbers up to "
                    f"{smoothed.highest:g} that interpolation of mode {smoothed.mode!r} has "
                    "resized: between two classes it makes the number of a third one"
                ),
                fix=f'resize masks with mode="nearest", in place of {smoothed.mode!r}',
                source=smoothed.source,
            )
            continue
        for part in split.of("mask"):
            counts = dict(part.values)
            total = sum(counts.values())
            if not total or not part.whole or not {0, 255} <= set(counts) or min(counts) < 0:
                continue
            others = len(counts) - 2
            filled = {sum(value >= end for end in QUARTERS) for value in counts if 0 < value < 255}
            if (
                others >= OTHERS
                and len(filled) == len(QUARTERS)
                and (counts[0] + counts[255]) / total >= MAJOR
            ):
                yield Finding(
                    message=(
                        f"the masks {part.path} of the {split.name} data hold {others} values "
                        f"between 0 and 255, in {1 - (counts[0] + counts[255]) / total:.1%} of "
                        "the pixels"
                    ),
                    fix=_FIX,
                )
        for masks in split.objects:
            if isinstance(masks, Masks) and _are_between(split, masks):
                yield Finding(
                    message=(
                        f"{masks.between} of {masks.classes} masks {masks.path} of the "
                        f"{split.name} data have values that stand but between two others, where "
                        "these meet: "
                        f"{', '.join(f'{value:g}' for value in masks.between_values)}"
                    ),
                    fix=_FIX,
                )


def _are_between(split: Split, masks: Masks) -> bool:
    part = next((p for p in split.of("mask") if p.path == masks.path), None)
    if part is None or part.numbers is None or part.numbers.high <= 1:
        return False
    black_and_white = {0.0, 255.0} == {part.numbers.low, part.numbers.high}
    return not black_and_white and masks.between >= max(2, SHARE * masks.classes)
