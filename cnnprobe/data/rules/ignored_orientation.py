"""Photos that lie on their side."""

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Boxes
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import made
from cnnprobe.diagnosis import Finding, Severity

SHARE = 0.7  # of the images that tell: some are cropped by chance
FEWEST = 2


def _taken(upright: bool) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    folder = tempfile.mkdtemp()
    files = [f"{folder}/{i}.jpg" for i in range(16)]
    random = np.random.default_rng(0)
    for i, file in enumerate(files):
        small = Image.fromarray(random.integers(0, 255, (4, 6, 3), dtype=np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if i % 2 else 1
        small.resize((96, 64), Image.Resampling.BICUBIC).save(file, exif=exif)

    def make(index: int) -> Any:
        picture: Any = Image.open(files[index])
        picture = ImageOps.exif_transpose(picture) if upright else picture
        pixels = np.asarray(picture.convert("RGB").resize((32, 32)), dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1), index // 4

    return {"loader": made(16, make, folder=folder, files=files)}


def sick() -> Mapping[str, Any]:
    """Photos of a phone, read as they are stored."""
    return _taken(upright=False)


def healthy() -> Mapping[str, Any]:
    """The same, turned upright."""
    return _taken(upright=True)


@data_rule(
    code="CP858", name="ignored-orientation", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("impossible-boxes",),
)  # fmt: skip
def ignored_orientation(data: Data) -> Iterator[Finding]:
    """The EXIF orientation of the files is ignored, so that photos lie on their side.

    Why it matters: phone photos lie on their side or upside down, though every viewer shows them
    upright; boxes and masks that were drawn in a viewer lie elsewhere.
    What to do: PIL.ImageOps.exif_transpose(Image.open(file)), or
    torchvision.io.decode_image(file, apply_exif_orientation=True).
    Known exceptions: with boxes, masks or key points it is info, if no box lies outside of its
    image: they may be in the pixels as they are stored. Up to 8 such files, of 32 that are looked
    at, are compared with their images.
    Source: Pillow, ImageOps.exif_transpose; Exif 2.32, tag 0x0112.
    """
    for split in data.splits:
        beside = split.clues.beside
        if beside.unturned >= max(FEWEST, SHARE * beside.turned):
            yield Finding(
                severity=Severity.INFO if _may_be_stored(split) else None,
                message=(
                    f"{beside.unturned} of {beside.turned} photos of the {split.name} data with an "
                    f"orientation in their file are read as they are stored ({beside.example!r})"
                ),
                fix="PIL.ImageOps.exif_transpose(picture), where the file is opened",
            )


def _may_be_stored(split: Split) -> bool:
    """Whether boxes, masks or key points may be in the pixels as they are stored: no box lies
    outside of its image.
    """
    boxes = [each for each in split.objects if isinstance(each, Boxes)]
    return bool(split.of("boxes", "mask", "points")) and not any(each.outside for each in boxes)
