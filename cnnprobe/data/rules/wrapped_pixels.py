"""Images whose values wrapped around at the end of a byte."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.data.words import name_samples
from cnnprobe.diagnosis import Finding, Severity

SHARE = 0.1  # of the images that were looked at; two at least. Of 320 crops of photos none is so


def _scans(top: int) -> Mapping[str, Any]:
    import torch

    x = torch.linspace(0, 1, 32)
    waves = torch.rand(32, 3, generator=seed(5)) * 6
    made = torch.stack([torch.sin(a + b * x + c * x[:, None]) for a, b, c in waves]) / 2 + 0.5
    noise = torch.randn(32, 32, 32, generator=seed(6)) * 3
    given = (made * top + noise).round().clamp(0, 65535).long() % 256
    return {"loader": loader(given[:, None].float() / 255, labels())}


def sick() -> Mapping[str, Any]:
    """Scans of 12 bits cast to uint8."""
    return _scans(1200)


def healthy() -> Mapping[str, Any]:
    """Scans of which the brightest pixels are just below 255."""
    return _scans(240)


@data_rule(
    code="CP837", name="wrapped-pixels", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("uninformative-labels",),
)  # fmt: skip
def wrapped_pixels(data: Data) -> Iterator[Finding]:
    """Images jump from white to black and go on from there: numbers above 255 were cast to a byte;
    or samples are computed in the bytes that the data set keeps, and come out otherwise in wider
    numbers.

    Why it matters: only the remainder by 256 is left; bright and dark cannot be told apart.
    What to do: scale before the cast: (image / image.max() * 255).astype(np.uint8); or keep
    float32.
    Known exceptions: images with steep slopes, of 16 bits say, look like noise afterwards and are
    not reported; nor are those resized afterwards. Hue and phase wrap around by nature. Padding and
    the corners of a rotation are no wrapped values.
    Source: NumPy, "Casting: integers that do not fit wrap around" (numpy.ndarray.astype,
    casting="unsafe").
    """
    for split in data.splits:
        pixels, wrapped = split.images.pixels, split.clues.wrapped
        if wrapped is not None:
            yield Finding(
                message=(
                    f"the {split.name} samples are computed in the bytes of the data set's "
                    f"{wrapped.name}, and {wrapped.share:.0%} of their values come out otherwise "
                    "in wider numbers: a product, a sum or a difference beyond 0 ... 255 wraps "
                    "around"
                ),
                fix=f"cast before the arithmetic: {wrapped.name}[i].astype(np.float32), or "
                ".float() of a tensor",
            )
            continue
        if pixels.wraps >= max(2, SHARE * pixels.images):
            yield Finding(
                message=(
                    f"{pixels.wraps} of {pixels.images} {split.name} images that were looked at "
                    "jump from their greatest value to their least and go on from there: "
                    f"{name_samples(pixels.wrapped, pixels.wraps)}"
                ),
                fix="scale the values to 0 ... 255 before they are cast to uint8, or keep float32",
            )
