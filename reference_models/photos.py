"""32x32 colour images that need no download: crops of scikit-image's photos, written once as an
image folder.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from cnnprobe.errors import TargetError

# Photos inside scikit-image's own wheel, as functions of `skimage.data`; most others there need the
# network.
# Brick and grass are grey photos. Left out are astronaut and motorcycle: half of their cells are
# plain wall or floor,
# which could be of either.
PHOTOS = {
    "brick": "brick",
    "cat": "chelsea",
    "coffee": "coffee",
    "galaxies": "hubble_deep_field",
    "grass": "grass",
    "retina": "retina",
    "rocket": "rocket",
    "tissue": "immunohistochemistry",
}
# count up with any change below, so that an old folder is never taken for a new one
FOLDER = "photos-32px-v2"
# pixels of a photo's shorter side before it is cut: a crop then shows a part, not one texture
SHORT_SIDE = 320
# pixels; a photo is cut into cells of this size, and each belongs to one split as a whole
CELL = 40
CROP = 32  # pixels
OFFSETS = (0, CELL - CROP)  # four crops of each cell, at its corners
PER_CLASS = {"train": 192, "val": 48}
CONTRAST = (
    8  # of 255 in any channel; the corners of retina are plain black, the same crop in both splits
)


def offline_photos(root: str | Path) -> Path:
    """Folder with `train/` and `val/`, one folder a photo in each, of 32x32 PNG crops; made on the
    first call.

    8 classes of 192 + 48 images. The validation crops are of cells that no training crop touches.
    The folder appears complete or not at all, also when several processes make it at once.

    Args:
        root: where it is kept; made if missing.

    Raises:
        TargetError: scikit-image is missing, or `root` cannot be written.
    """
    target = Path(root) / FOLDER
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".photos-") as scratch:
            made = Path(scratch) / FOLDER
            for name in PHOTOS:
                _write_crops(_photo(name), made, name)
            _publish(made, target)
    except OSError as error:
        raise TargetError(
            f"the offline images cannot be written: {error}",
            where=str(root),
            fix="name a folder that you may write to",
        ) from error
    return target


def _publish(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        # Another process was faster; its folder holds the same images.
        if not target.is_dir():
            raise


def _photo(name: str) -> Image.Image:
    try:
        from skimage import data
    except ImportError as error:
        raise TargetError(
            "the offline images are cut from scikit-image's photos, "
            "and scikit-image is not installed",
            where="reference_models.photos.offline_photos",
            fix="pip install scikit-image, or name your own images with --data DIR",
        ) from error
    photo = Image.fromarray(getattr(data, PHOTOS[name])()).convert("RGB")
    scale = SHORT_SIDE / min(photo.size)
    return photo.resize(
        (round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS
    )


def _write_crops(photo: Image.Image, folder: Path, name: str) -> None:
    boxes: dict[str, list[tuple[int, int]]] = {"train": [], "val": []}
    for split, left, top in _boxes(photo.width // CELL, photo.height // CELL):
        crop = photo.crop((left, top, left + CROP, top + CROP))
        if max(high - low for low, high in crop.getextrema()) >= CONTRAST:
            boxes[split].append((left, top))
    order = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        into = folder / split / name
        into.mkdir(parents=True)
        for k in sorted(order.permutation(len(boxes[split]))[:count]):
            left, top = boxes[split][k]
            photo.crop((left, top, left + CROP, top + CROP)).save(
                into / f"{left:04d}-{top:04d}.png"
            )


def _boxes(columns: int, rows: int) -> Iterator[tuple[str, int, int]]:
    """Split, left and top of each crop; a fifth of the cells, a knight's move apart, is for
    validation.
    """
    for row in range(rows):
        for column in range(columns):
            split = "val" if (column + 2 * row) % 5 == 0 else "train"
            for dy in OFFSETS:
                for dx in OFFSETS:
                    yield split, column * CELL + dx, row * CELL + dy
