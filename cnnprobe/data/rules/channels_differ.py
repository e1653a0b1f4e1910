"""Grey images among the colour ones."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted

COLOURS = (1, 2, 3, 4)  # channels of an image file: grey, grey + alpha, RGB, RGBA or CMYK


def _photos(grey: int) -> Mapping[str, Any]:
    from torch.utils.data import DataLoader

    def make(i: int) -> Any:
        return images(1, 1 if i == grey else 3, 8, of=i)[0], i % 4

    return {"loader": DataLoader(made(16, make), batch_size=4)}


def sick() -> Mapping[str, Any]:
    """One grey image among 16."""
    return _photos(grey=5)


def healthy() -> Mapping[str, Any]:
    """All have three channels."""
    return _photos(grey=-1)


@data_rule(code="CP802", name="channels-differ", severity=Severity.ERROR, examples=(sick, healthy))
def channels_differ(data: Data) -> Iterator[Finding]:
    """Images with other numbers of channels than the rest: grey or transparent ones among the
    colour ones.

    Why it matters: the first such image stops the loader, or the first convolution.
    What to do: Image.convert("RGB") when the file is opened, or v2.RGB() as the first transform.
    Known exceptions: data whose first dim is a number of frames or slices.
    Source: torchvision.datasets.folder.pil_loader converts each image to RGB for this reason.
    """
    for split in data.splits:
        for part in split.of("image"):
            channels = _count_channels(part)
            if len(channels) > 1 and set(channels) <= set(COLOURS):
                usual = max(channels, key=lambda c: channels[c])
                shown = ", ".join(
                    f"{format_counted(n, 'image')} with {format_counted(c, 'channel')}"
                    for c, n in sorted(channels.items(), key=lambda item: -item[1])
                )
                yield Finding(
                    message=f"{part.path or 'the images'} of the {split.name} data: {shown}",
                    fix='open the files by Image.open(path).convert("RGB")'
                    if usual == 3
                    else "bring all images to one number of channels before they are joined",
                )


def _count_channels(part: Part) -> dict[int, int]:
    found: dict[int, int] = {}
    for sizes, n in part.shapes:
        if len(sizes) == 3:
            found[sizes[0]] = found.get(sizes[0], 0) + n
    return found
