"""Images of two ranges in one loader."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

# Powers of two just below the greatest value of the small images, and at least below that of the
# large ones: 1 or normalised beside 255; 255 beside 16 bits. Dark images are not so far apart.
GROUPS = (((-1, 0, 1), 5), ((7,), 11))
SHARE = 0.05  # of the images in either group
FEWEST = 4  # images in either group


def _scaled(factor: float) -> Mapping[str, Any]:
    import torch

    given = torch.rand(64, 3, 8, 8, generator=seed(7))
    given[::5] *= factor
    return {"loader": loader(given, labels(64))}


def sick() -> Mapping[str, Any]:
    """Every fifth image was not divided by 255."""
    return _scaled(255)


def healthy() -> Mapping[str, Any]:
    """Every fifth was taken at night."""
    return _scaled(0.15)


@data_rule(
    code="CP850", name="mixed-ranges", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("input-range",),
)  # fmt: skip
def mixed_ranges(data: Data) -> Iterator[Finding]:
    """Some images lie in another range than the others, and none in between.

    Why it matters: the few large ones make the gradient, and the others count for nothing.
    What to do: read all files in one way, and divide by what their type holds: 255 for 8 bits,
    65535 for 16.
    Known exceptions: reported only for images up to 1 or normalised ones beside such up to 255, and
    for 8 beside 16 bits; a few of another range are not.
    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3.
    """
    for split in data.splits:
        peaks = split.images.pixels.peaks
        total = sum(n for _, n in peaks)
        for (below, _), (above, _) in pairwise(peaks):
            low = sum(n for power, n in peaks if power <= below)
            apart = any(below in powers and above >= least for powers, least in GROUPS)
            if apart and min(low, total - low) >= max(FEWEST, SHARE * total):
                yield Finding(
                    message=(
                        f"the greatest value of {low:,} {split.name} images is below "
                        f"{2.0 ** (below + 1):g}, that of {total - low:,} others is "
                        f"{2.0**above:g} or more, and none lies in between"
                    ),
                    fix="scale all images alike: divide by 255 only what was read as 8 bits",
                )
