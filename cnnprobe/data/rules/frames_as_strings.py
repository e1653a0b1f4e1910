"""Frames of a clip in the order of their names as strings."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

FEWEST = 4  # clips
EACH = 1.1  # times: so much more each clip changes where strings jump
SMOOTHER = 1.25  # times: the median


def _clips(as_strings: bool) -> Mapping[str, Any]:
    import torch

    start = torch.rand(12, 1, 3, 8, 8, generator=seed(1))
    clips = start + 0.1 * torch.arange(14.0)[:, None, None, None]
    order = sorted(range(14), key=str) if as_strings else list(range(14))
    return {"loader": loader(clips[:, order], labels(12), batch_size=4)}


def sick() -> Mapping[str, Any]:
    """0, 1, 10, 11, 12, 13, 2, 3, ..."""
    return _clips(as_strings=True)


def healthy() -> Mapping[str, Any]:
    """0, 1, 2, 3, ..."""
    return _clips(as_strings=False)


@data_rule(
    code="CP853", name="frames-as-strings", severity=Severity.WARNING, examples=(sick, healthy)
)
def frames_as_strings(data: Data) -> Iterator[Finding]:
    r"""The frames of clips stand in the order of their names: frame 10 before frame 2.

    Why it matters: motion jumps back and forth, and the model learns the jumps.
    What to do: sorted(files, key=lambda file: int(re.search(r"\d+", file.stem)[0])), or names with
    leading zeros.
    Known exceptions: reported only for clips of 11 frames or more that change steadily.
    Source: Python, sorted: strings are compared character by character.
    """
    for split in data.splits:
        pixels = split.images.pixels
        least, median = pixels.jumps
        if pixels.clips >= FEWEST and least > EACH and median > SMOOTHER:
            yield Finding(
                message=(
                    f"{pixels.clips} {split.name} clips change {median:.2g} times as much where "
                    "the order of strings (1, 10, 11, ..., 2) jumps as between the numbers that it "
                    "takes apart"
                ),
                fix="sort the files by the number in their names",
            )
