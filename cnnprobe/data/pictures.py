"""Pictures of the data through Pillow and torchvision: contact sheets as the model gets the images,
and histograms.

Without Pillow or torchvision there are no pictures; nothing else is lost.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from cnnprobe.data.facts import Data
from cnnprobe.data.images import Thumbnail
from cnnprobe.data.reading import LoaderReading
from cnnprobe.data.sheets import ContactSheet
from cnnprobe.data.spots import Spotted
from cnnprobe.records.words import format_counted

COLUMNS = 8
CELL = 96  # pixels
CAPTION = 26  # pixels: two lines of Pillow's own letters
GAP = 6
BARS = 40  # classes of which a bar is drawn
BINS = 48
# Bytes of a picture; a PNG that has more becomes a JPEG. A page holds each twice, to be seen and to
# be read back: six of them stay below 2 MB.
LARGEST = 120_000
QUALITIES = (88, 75, 60, 45, 30)
_INK, _PAPER, _ALARM = (40, 44, 52), (255, 255, 255), (200, 30, 30)
_COLOURS = ((200, 60, 50), (40, 150, 70), (50, 90, 200), (130, 130, 130))
_MASKS = ["red", "cyan", "yellow", "lime", "magenta", "orange", "blue", "white"]
_SPLITS = ((60, 100, 170), (225, 150, 60))


def draw_sheets(data: Data, readings: Sequence[LoaderReading]) -> tuple[ContactSheet, ...]:
    """The suspicious images, then a contact sheet of each split, then the histograms; () without
    Pillow and torchvision.
    """
    try:
        import PIL.ImageDraw
        import torchvision.utils

        del PIL, torchvision
    except ImportError:
        return ()
    sheets = []
    for reading in readings:
        name = reading.split.name
        tally = reading.images
        for kind, held in (("suspicious", tally.suspects), ("", sort_by_class(tally.thumbnails))):
            if held:
                sheets.append(_draw_contacts(reading, held[:48], kind, name))
    sheets.sort(key=lambda sheet: "suspicious" not in sheet.name)
    return (*sheets, *_draw_histograms(data, readings))


def sort_by_class(held: Sequence[Thumbnail]) -> list[Thumbnail]:
    """Those of a class together, in the order of the labels."""
    return sorted(held, key=lambda t: (t.spot.label is None, t.spot.label or 0))


# ---------------------------------------------------------------- contact sheets


def _draw_contacts(
    reading: LoaderReading, held: Sequence[Thumbnail], kind: str, name: str
) -> ContactSheet:
    from PIL import Image, ImageDraw

    show, how = choose_scale(reading, held)
    colours = choose_colours(held)
    columns = min(COLUMNS, len(held))
    rows = -(-len(held) // columns)
    width = columns * (CELL + GAP) + GAP
    height = rows * (CELL + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (max(width, CELL * 2), height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, thumbnail in enumerate(held):
        x = GAP + (i % columns) * (CELL + GAP)
        y = GAP + (i // columns) * (CELL + CAPTION + GAP)
        picture = Image.fromarray(_compose(thumbnail, show, colours))
        sheet.paste(picture, (x + (CELL - picture.width) // 2, y))
        if kind:
            draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=_ALARM, width=2)
        for line, text in enumerate(_caption(thumbnail.spot, reading)):
            draw.text((x, y + CELL + 1 + 12 * line), _cut(draw, text), fill=_INK)
    what = f"{format_counted(len(held), f'{kind} image'.strip())} of the {name} data"
    return _pack(sheet, f"{name}-{kind or 'images'}", f"{what}, {how}", what)


def choose_scale(reading: LoaderReading, held: Sequence[Thumbnail]) -> tuple[Any, str]:
    """How numbers become grey values from 0 to 255, and that in words."""
    steps = reading.split.images.normalisations
    part = next(iter(reading.split.of("image")), None)
    low, high = (part.numbers.low, part.numbers.high) if part and part.numbers else (0.0, 1.0)
    if len(steps) == 1 and high <= 30:
        mean, std = (np.array(each, dtype=np.float32)[:, None, None] for each in steps[0])
        return (
            lambda x: (x * std + mean) * 255 if len(x) in (len(mean), 1) or len(mean) == 1 else x
        ), "without its normalisation"
    if part is not None and (
        part.dtype == "uint8" or (part.whole and 0 <= low <= high <= 255 and high > 1)
    ):
        return (lambda x: x), "as they are"
    if low >= 0 and 0.5 <= high <= 1:
        return (lambda x: x * 255), "as they are"
    values = np.concatenate([t.pixels.reshape(-1) for t in held])
    values = values[np.isfinite(values)]
    low, high = (np.percentile(values, q) for q in (0.5, 99.5)) if len(values) else (0.0, 1.0)
    spread = max(float(high - low), 1e-12)
    return (lambda x: (x - low) / spread * 255), f"scaled from {low:.3g} ... {high:.3g}"


def choose_colours(held: Sequence[Thumbnail]) -> dict[float, str]:
    """The colour of each value but zero of the masks, the same in all images."""
    masks = [each.extra[1] for each in held if each.extra is not None]
    values = {v for mask in masks if mask is not None for v in torch.unique(mask.float()).tolist()}
    return {v: _MASKS[k % len(_MASKS)] for k, v in enumerate(sorted(values - {0.0}))}


def _compose(thumbnail: Thumbnail, show: Any, colours: Mapping[float, str]) -> NDArray[np.uint8]:
    """The image with what is drawn on it, (H, W, 3), at most CELL pixels a side."""
    from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

    numbers = np.nan_to_num(show(thumbnail.pixels), nan=255.0, posinf=255.0, neginf=0.0)
    image = torch.from_numpy(np.clip(numbers, 0, 255).astype(np.uint8))
    image = image[:1].expand(3, -1, -1) if len(image) < 3 else image[:3]
    factor = CELL / max(image.shape[-2:])
    size = [max(1, round(side * factor)) for side in image.shape[-2:]]
    image = interpolate(image[None], size=size, mode="nearest")[0]
    boxes, mask = thumbnail.extra if thumbnail.extra is not None else (None, None)
    if mask is not None:
        parts = _split_mask(mask, size)
        areas = torch.stack(list(parts.values())) if parts else torch.zeros(0, *size).bool()
        own = [colours[value] for value in parts]
        image = draw_segmentation_masks(image, areas, alpha=0.5, colors=own or None)
    if boxes is not None and len(boxes):
        scale = torch.tensor([size[1], size[0], size[1], size[0]])
        drawn = (boxes * scale).clamp(min=0)
        good = (drawn[:, 2:] >= drawn[:, :2]).all(1)
        image = draw_bounding_boxes(image, drawn[good], colors="red") if bool(good.any()) else image
    return np.asarray(image.permute(1, 2, 0).numpy())


def _split_mask(mask: Tensor, size: Sequence[int]) -> dict[float, Tensor]:
    """The area of each value but zero, at most eight."""
    small = interpolate(mask[None, None].float(), size=list(size), mode="nearest")[0, 0]
    values = [v for v in torch.unique(small).tolist() if v != 0][:8]
    return {v: small == v for v in values}


def _caption(spot: Spotted, reading: LoaderReading) -> tuple[str, str]:
    labels = reading.split.labels
    names = labels.names if labels is not None else ()
    said = "" if spot.label is None else str(spot.label)
    if spot.label is not None and 0 <= spot.label < len(names):
        said = f"{spot.label} {names[spot.label]}"
    file = spot.name.replace("\\", "/").rpartition("/")[2]
    where = file or (
        f"#{spot.index}" if spot.index is not None else f"batch {spot.batch}:{spot.position}"
    )
    return said, where


def _cut(draw: Any, text: str) -> str:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's own letters have
    while text and draw.textlength(text) > CELL:
        text = text[:-2] + "." if len(text) > 2 else ""
    return text


# ---------------------------------------------------------------- histograms


def _draw_histograms(data: Data, readings: Sequence[LoaderReading]) -> list[ContactSheet]:
    drawn = [_draw_classes(data), *(_draw_channels(reading) for reading in readings)]
    return [sheet for sheet in drawn if sheet is not None]


def _draw_classes(data: Data) -> ContactSheet | None:
    from PIL import Image, ImageDraw

    known = [split for split in data.splits if split.labels is not None and split.labels.counts]
    if not known or not known[0].labels:
        return None
    counts = [dict(split.labels.counts) for split in known if split.labels]
    labels = sorted({label for each in counts for label in each})[:BARS]
    names = max((split.labels.names for split in known if split.labels), key=len)
    height = 20 + len(labels) * (12 * len(counts) + 6)
    sheet = Image.new("RGB", (560, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    # Each split by its own largest class, so that a small validation can be seen too.
    most = [max(each.values()) for each in counts]
    for i, label in enumerate(labels):
        y = 14 + i * (12 * len(counts) + 6)
        name = f"{label} {names[label]}" if 0 <= label < len(names) else str(label)
        draw.text((4, y), _cut(draw, name), fill=_INK)
        for k, each in enumerate(counts):
            number = each.get(label, 0)
            wide = round(360 * number / most[k])
            draw.rectangle((110, y + 12 * k, 110 + wide, y + 12 * k + 9), fill=_SPLITS[k])
            draw.text((116 + wide, y + 12 * k), f"{number:,}", fill=_INK)
    legend = " and ".join(
        f"{split.name} ({colour})" for split, colour in zip(known, ("blue", "orange"), strict=False)
    )
    title = f"samples of each class: {legend}"
    return _pack(sheet, "classes", title, title)


def _draw_channels(reading: LoaderReading) -> ContactSheet | None:
    """The values of each channel of the images that are kept, as lines."""
    from PIL import Image, ImageDraw

    held = [t.pixels for t in reading.images.thumbnails if np.isfinite(t.pixels).all()]
    channels = min((len(pixels) for pixels in held), default=0)
    if not channels:
        return None
    values = [np.concatenate([pixels[c].reshape(-1) for pixels in held]) for c in range(channels)]
    low, high = min(v.min() for v in values), max(v.max() for v in values)
    if not high > low:
        return None
    counts = [np.histogram(v, bins=BINS, range=(low, high))[0] for v in values]
    most = max(int(c.max()) for c in counts)
    sheet = Image.new("RGB", (420, 150), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for c, each in enumerate(counts):
        points = [
            (10 + 400 * i / (BINS - 1), 125 - 115 * int(n) / most) for i, n in enumerate(each)
        ]
        draw.line(points, fill=_COLOURS[c] if channels > 1 else _INK, width=2)
    draw.line((10, 126, 410, 126), fill=_INK)
    draw.text((10, 130), f"{low:.4g}", fill=_INK)
    right = f"{high:.4g}"
    draw.text((410 - draw.textlength(right), 130), right, fill=_INK)
    name = reading.split.name
    title = f"values of each channel, {format_counted(len(held), 'image')} of the {name} data"
    return _pack(sheet, f"{name}-channels", title, title)


def _pack(picture: Any, name: str, title: str, alt: str) -> ContactSheet:
    data, mime = _write(picture, "PNG"), "image/png"
    if len(data) > LARGEST:
        found = (_write(picture, "JPEG", quality=each) for each in QUALITIES)
        data, mime = next((d for d in found if len(d) <= LARGEST), b""), "image/jpeg"
    if not data:
        return _pack(picture.resize((picture.width // 2, picture.height // 2)), name, title, alt)
    return ContactSheet(
        name=name, title=title, alt=alt, mime=mime, width=picture.width, height=picture.height,
        data=base64.b64encode(data).decode(),
    )  # fmt: skip


def _write(picture: Any, form: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **settings)
    return buffer.getvalue()
