"""Pictures with a palette, read as numbers of their colours."""

import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import made
from cnnprobe.diagnosis import Finding, Severity

SHARE = 0.7  # of the images that tell
FEWEST = 2


def _opened(mode: str) -> Mapping[str, Any]:
    import numpy as np
    import torch
    from PIL import Image

    folder = tempfile.mkdtemp()
    files = [f"{folder}/{i}.png" for i in range(8)]
    random = np.random.default_rng(0)
    for file in files:
        small = Image.fromarray(random.integers(0, 255, (4, 4, 3), dtype=np.uint8))
        large = small.resize((64, 64), Image.Resampling.BICUBIC)
        large.convert("P", palette=Image.Palette.ADAPTIVE).save(file)

    def make(index: int) -> Any:
        picture: Any = Image.open(files[index])
        pixels = np.asarray(picture.convert(mode) if mode else picture, dtype=np.float32) / 255
        return torch.from_numpy(pixels)[None], index // 2

    return {"loader": made(8, make, folder=folder, files=files)}


def sick() -> Mapping[str, Any]:
    """The numbers that stand for the colours."""
    return _opened("")


def healthy() -> Mapping[str, Any]:
    """Their brightness."""
    return _opened("L")


@data_rule(
    code="CP859", name="palette-indices", severity=Severity.WARNING, examples=(sick, healthy)
)
def palette_indices(data: Data) -> Iterator[Finding]:
    """Images hold the indices of palette colours, as if these were brightness.

    Why it matters: neighbours in a palette are not neighbours in colour, and each file has a
    palette of its own.
    What to do: Image.open(file).convert("RGB").
    Known exceptions: masks, which are such numbers and are meant so (Pascal VOC); palettes in the
    order of brightness.
    Source: Pillow, "Modes": P, 8-bit pixels, mapped to any other mode using a color palette.
    """
    for split in data.splits:
        beside = split.clues.beside
        if beside.indices >= max(FEWEST, SHARE * beside.palettes):
            yield Finding(
                message=(
                    f"{beside.indices} of {beside.palettes} files of the {split.name} data with a "
                    f"palette are read as the numbers of their colours ({beside.example!r})"
                ),
                fix='Image.open(file).convert("RGB")',
            )
