"""A channel of the images that holds a single value."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

STILL = 1e-6  # std of the channel over that of the whole
FEWEST = 8  # samples
SLICES = 8  # channels from which on they may be slices
ALPHA = 4  # channels, of which the last is how opaque a pixel is


def _with_channel(scale: float) -> Mapping[str, Any]:
    given = images()
    given[:, 2] *= scale
    return {"loader": loader(given, labels())}


def sick() -> Mapping[str, Any]:
    """The blue channel was lost."""
    return _with_channel(0.0)


def healthy() -> Mapping[str, Any]:
    """It is weak."""
    return _with_channel(0.001)


@data_rule(code="CP844", name="dead-channel", severity=Severity.WARNING, examples=(sick, healthy))
def dead_channel(data: Data) -> Iterator[Finding]:
    """One channel has the same value in all images, and the others have not.

    Why it matters: what that channel showed is lost, and its weights learn nothing.
    What to do: look where the channels are put together: an index too few, a file that was not
    read.
    Known exceptions: it is info for the fourth of four channels, which is how opaque a pixel is:
    convert("RGB") leaves it out; slices at the ends of a volume may be empty, and so may channels
    of a target.
    Source: Pillow, "Modes": RGBA, 4x8-bit pixels, true colour with transparency mask.
    """
    for split in data.splits:
        for part in split.of("image")[:1] if split.samples >= FEWEST else ():
            still = _list_still(part)
            for index in still if not _are_slices(part, still) else ():
                is_alpha = index == ALPHA - 1 and len(part.channels) == ALPHA
                value = part.channels[index].mean
                yield Finding(
                    severity=Severity.INFO if is_alpha else None,
                    message=(
                        f"channel {index} of {part.path or 'the images'} of the {split.name} data "
                        f"is {value:.3g} in all of {split.samples:,} images"
                    ),
                    fix='image.convert("RGB")' if is_alpha else "look where that channel is read",
                )


def _are_slices(part: Part, still: list[int]) -> bool:
    """Whether the channels are slices of a volume, of which the outer ones are empty."""
    last = len(part.channels) - 1
    inner = [i for i in still if i - 1 not in still and i and i + 1 not in still and i != last]
    return len(part.channels) >= SLICES and len(still) > 1 and not inner


def _list_still(part: Part) -> list[int]:
    stds = [channel.std for channel in part.channels]
    most = max(stds, default=0.0)
    still = [i for i, std in enumerate(stds) if std <= STILL * most]
    return still if most > 0 and len(still) < len(stds) else []
