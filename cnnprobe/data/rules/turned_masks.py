"""Masks that are turned beside their images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.object_facts import Masks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, made
from cnnprobe.data.rules.material import images as noise
from cnnprobe.data.rules.mispaired_files import is_better
from cnnprobe.diagnosis import Finding, Severity


def _drawn(turned: bool) -> Mapping[str, Any]:
    masks = blobs(32, classes=2, size=24)
    images = masks.float()[:, None] + 0.1 * noise(32, 3, 24)
    given = masks.flip(1) if turned else masks
    return {"loader": made(32, lambda i: (images[i], given[i]))}


def sick() -> Mapping[str, Any]:
    """The first row of the masks is the last one of the images."""
    return _drawn(turned=True)


def healthy() -> Mapping[str, Any]:
    """Both begin with the upper row."""
    return _drawn(turned=False)


@data_rule(
    code="CP851", name="turned-masks", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("loss-not-decreasing",),
)  # fmt: skip
def turned_masks(data: Data) -> Iterator[Finding]:
    """All masks are flipped or turned, and their images are not.

    Why it matters: each pixel gets the class of another; the loss falls to that of the mean mask.
    What to do: look at the contact sheet. A volume of (z, y, x) with a mask of (x, y, z), as
    nibabel gives it: transpose it. A mask made by x and y exchanged, a map whose first row is
    the south, a photo whose EXIF orientation was applied to one of the two:
    PIL.ImageOps.exif_transpose(image).
    Known exceptions: recognised by the edges of up to 64 masks; objects without edges tell
    nothing.
    Source: Pillow, ImageOps.exif_transpose; NumPy arrays are indexed by row, then column.
    """
    for split in data.splits:
        for masks in split.objects:
            fit = masks.turned if isinstance(masks, Masks) else None
            if fit is None or not is_better(fit):
                continue
            yield Finding(
                message=(
                    f"the edges of {fit.pairs} masks {masks.path} of the {split.name} data lie on "
                    f"those of their images when they are {_word(fit.turn)}: {fit.best:.2g} times "
                    "the mean "
                    f"of the image, and {fit.own:.2g} times as they are ({fit.z:.0f} standard "
                    "errors apart)"
                ),
                fix="look where the masks are made: rows before columns, EXIF orientation for both",
            )


def _word(turn: str) -> str:
    return turn if not turn.startswith("with") else f"read {turn}"
