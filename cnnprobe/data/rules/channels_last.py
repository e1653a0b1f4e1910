"""Images whose channels come last."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.data.words import shape
from cnnprobe.diagnosis import Finding, Severity


def _arrays(last: bool) -> Mapping[str, Any]:
    given = images(32, 3, 12)
    return {"loader": loader(given.movedim(1, -1).contiguous() if last else given, labels())}


def sick() -> Mapping[str, Any]:
    """Arrays of NumPy, as Pillow and OpenCV give them."""
    return _arrays(last=True)


def healthy() -> Mapping[str, Any]:
    """Of the same images, with the channels first."""
    return _arrays(last=False)


@data_rule(
    code="CP834", name="channels-last", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("sizes-differ",),
)  # fmt: skip
def channels_last(data: Data) -> Iterator[Finding]:
    """Images come as (H, W, C); torch's convolutions take (C, H, W).

    Why it matters: the first convolution raises, or takes the rows for channels.
    What to do: v2.ToImage() on the array, or torch.from_numpy(array).permute(2, 0, 1); not reshape,
    which mixes up the pixels.
    Known exceptions: it is info for a data set without a loader, and where the model took a batch,
    as one that permutes by itself. torch.channels_last is a layout in memory and no other shape.
    Source: torch.nn.Conv2d, "Input: (N, C_in, H_in, W_in)".
    """
    for split in data.splits:
        bare = not split.loading.sampler and split.loading.size is None
        mild = data.expected.accepted or (bare and split.loading.batches is None)
        for part in split.of("image"):
            if part.channels_last and part.shapes:
                first = part.shapes[0][0]
                yield Finding(
                    severity=Severity.INFO if mild else None,
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data "
                        f"have the channels last: {shape((*first[:-3], *first[-2:], first[-3]))}"
                        + (", which the model takes" if data.expected.accepted else "")
                    ),
                    fix="v2.ToImage() in the transform, or image.permute(2, 0, 1)",
                )
