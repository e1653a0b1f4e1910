"""Images with the channels blue, green, red."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.expectation import Weights
from cnnprobe.data.facts import Data
from cnnprobe.data.image_facts import Colours
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

REVERSED = -0.8  # Pearson's r with the files; it is near 1 for images as they are
SURE = 5.0  # standard errors by which red and blue differ, in the training and in the validation
# Of the difference of red and blue: the two are each other's mirror image up to that, or four
# standard errors.
MIRRORED = 0.25
ERRORS = 4.0
_FIX = "cv2.cvtColor(image, cv2.COLOR_BGR2RGB), or open the files by Pillow"


def _tinted(tint: float) -> Mapping[str, Any]:
    import torch

    colour = torch.tensor([0.6, 0.5, 0.4])[:, None, None]
    other = torch.tensor([0.5 + tint, 0.5, 0.5 - tint])[:, None, None]
    return {
        "loader": loader(colour + 0.1 * images(64), labels(64)),
        "validation": loader(other + 0.1 * images(64, of=1), labels(64), shuffle=False),
    }


def sick() -> Mapping[str, Any]:
    """The validation is read by OpenCV: as blue as the training is red."""
    return _tinted(-0.1)


def healthy() -> Mapping[str, Any]:
    """The validation is a little blue, from another camera."""
    return _tinted(-0.05)


@data_rule(
    code="CP833",
    name="channel-order",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("splits-differ",),
)
def channel_order(data: Data) -> Iterator[Finding]:
    """Images have their channels in the order blue, green, red: all, or those of one loader.

    Why it matters: weights that were trained on red, green, blue see other colours; the validation
    is judged on colours that were not trained.
    What to do: cv2.cvtColor(image, cv2.COLOR_BGR2RGB) behind cv2.imread, in both loaders alike.
    Known exceptions: recognised by files that the data set names, or where training and validation
    are each other's mirror image; else nothing is said. Where both loaders agree and no published
    weights are used it is info: a model learns either order, and weights from Caffe want B, G, R.
    Source: OpenCV, cv.imread: "the decoded images will have the channels stored in B G R order".
    """
    sides = [split.images.pixels.colours for split in data.splits]
    turned = [c.by_file is not None and c.by_file < REVERSED for c in sides]
    weights = data.expected.weights
    if any(turned):
        where = " and ".join(
            split.name for split, is_turned in zip(data.splits, turned, strict=True) if is_turned
        )
        apart = any(c.by_file is not None and c.by_file > -REVERSED for c in sides)
        wanted = weights is not None and weights.loaded is not False
        yield Finding(
            severity=None if apart or wanted else Severity.INFO,
            message=(
                f"the channels of the {where} images are blue, green, red: they vary with those of "
                f"the files the other way round{_name_wish(weights) if wanted else ''}"
            ),
            fix=_FIX,
        )
    elif len(sides) == 2 and _are_mirrored(*sides):
        yield Finding(
            message=(
                f"the first channel less the last is {sides[0].difference:.3g} on average in "
                f"training and {sides[1].difference:.3g} in validation: one of them has blue, "
                "green, red"
            ),
            fix=_FIX,
        )


def _name_wish(weights: Weights | None) -> str:
    return f"; {weights.name} expects red, green, blue" if weights is not None else ""


def _are_mirrored(a: Colours, b: Colours) -> bool:
    """Whether what is red in one is blue in the other, by as much."""
    if min(a.images, b.images) < 8 or a.difference * b.difference >= 0:
        return False
    if any(abs(c.difference) <= SURE * max(c.error, 1e-9) for c in (a, b)):
        return False
    error = (a.error**2 + b.error**2) ** 0.5
    sizes = abs(a.difference), abs(b.difference)
    allowed = max(MIRRORED * max(sizes), ERRORS * error)
    greens = abs(a.mean[1] - b.mean[1])
    return abs(sizes[0] - sizes[1]) <= allowed and greens <= max(sizes)
