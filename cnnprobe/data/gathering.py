"""Takes in the batches of one split, in memory that does not grow with their number."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations

from torch import Tensor
from torch.utils.data import IterableDataset

from cnnprobe.data.clues import Joined
from cnnprobe.data.columns import BatchColumn, are_equal, move_channels
from cnnprobe.data.datasets import find_file
from cnnprobe.data.images import ImageTally
from cnnprobe.data.joining import compare_joined
from cnnprobe.data.mixing import compare_mixed
from cnnprobe.data.object_rows import BOXES, LABELS, find_object_rows, split_rows
from cnnprobe.data.objects import BoxTally, MaskTally, PointTally, take_objects
from cnnprobe.data.padding import TextTally
from cnnprobe.data.pairs import PairTally, hash_beside
from cnnprobe.data.roles import (
    assign_roles,
    choose_main,
    choose_target,
    count_images,
    find_channels_last,
    find_episode,
    list_shared,
)
from cnnprobe.data.source import Batch, Limits, Source
from cnnprobe.data.spots import Spotted
from cnnprobe.data.tallies import PartTally, number_of
from cnnprobe.data.tokens import TokenTally, hash_texts, is_tokens
from cnnprobe.data.trials import STREAMED, SampleStretch

KEPT = 4  # images of the first batch, for a forward pass
RETRIED = 64  # samples that are read one by one where the loader raised
_TALLIES: dict[str, type[BoxTally | MaskTally | PointTally]] = {
    "boxes": BoxTally, "mask": MaskTally, "points": PointTally,
}  # fmt: skip


@dataclass(slots=True)
class SplitTallies:
    """What was taken in of a split so far."""

    roles: dict[str, str]
    parts: dict[str, PartTally]
    pairs: PairTally
    images: ImageTally = field(default_factory=ImageTally)
    objects: dict[str, BoxTally | MaskTally | PointTally] = field(default_factory=dict)
    labels: Counter[int] = field(default_factory=Counter)
    main: str | None = None  # path of the images
    target: str | None = None  # path of the classes
    uniform: int = 0
    compared: int = 0  # batches of two samples or more
    mixing: list[tuple[int, int]] = field(default_factory=list)  # samples and classes of each
    samples: int = 0
    batches: int = 0
    waited: list[float] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)  # index to label, of the first samples
    inputs: Tensor | None = None
    last: tuple[str, ...] = ()  # paths of images with the channels last
    twins: list[tuple[str, str]] = field(default_factory=list)  # paths of equal images, so far
    stream: list[SampleStretch] = field(default_factory=list)  # the first batches of a stream
    unread: str = ""
    episode: tuple[str, str] | None = None  # paths of support and query
    shared: list[bool] = field(default_factory=list)  # of each episode
    tokens: list[TokenTally] = field(default_factory=list)
    texts: TextTally = field(default_factory=TextTally)
    joined: Joined | None = None
    rows: tuple[str, ...] = ()  # paths of the objects of all images in one tensor


def start_tallies(batch: Batch, limits: Limits) -> SplitTallies:
    """Empty tallies for the parts of a first batch."""
    last = find_channels_last(batch.columns)
    columns = [move_channels(c) if c.path in last else c for c in batch.columns]
    rows = find_object_rows(columns, count_images(columns))
    columns = list(_arrange(columns, rows).values())
    roles = assign_roles(columns)
    for path in rows:
        roles |= {path + BOXES: "boxes", path + LABELS: "classes"}
    parts = {path: PartTally(path, role) for path, role in roles.items()}
    tallies = SplitTallies(roles, parts, PairTally(roles))
    tallies.images = ImageTally(limits.drawn)
    tallies.episode, tallies.rows = find_episode(roles), rows
    tallies.last = tuple(path for path in last if roles[path] in ("image", "mask"))
    for path in tallies.last:
        tallies.parts[path].channels_last = True
    tallies.twins = list(combinations([p for p, role in roles.items() if role == "image"], 2))
    main, target = choose_main(columns, roles), choose_target(columns, roles)
    tallies.main = main.path if main is not None else None
    tallies.target = target.path if target is not None else None
    texts = (c.path for c in columns if roles[c.path] == "other" and is_tokens(c))
    tallies.tokens = [TokenTally(path) for path in texts]
    for path, role in roles.items():
        if role in _TALLIES:
            tallies.objects[path] = _TALLIES[role](path)
    return tallies


def _is_image(tallies: SplitTallies, path: str) -> bool:
    return tallies.roles.get(path) == "image"


def _arrange(columns: Sequence[BatchColumn], rows: tuple[str, ...]) -> dict[str, BatchColumn]:
    """The columns by path, with the objects of each image together."""
    found = {column.path: column for column in columns}
    return split_rows(found, rows, count_images(columns)) if rows else found


def measure_batch(tallies: SplitTallies, batch: Batch, source: Source) -> None:
    """Take in a batch; what cannot be measured is noted."""
    try:
        _add(tallies, batch, source)
    except Exception as error:  # a form of batch that was not thought of: the others are read
        tallies.unread = tallies.unread or f"{type(error).__name__}: {error}"


def _add(tallies: SplitTallies, batch: Batch, source: Source) -> None:
    columns = _arrange(
        [move_channels(c) if c.path in tallies.last else c for c in batch.columns], tallies.rows
    )
    tallies.twins = [pair for pair in tallies.twins if are_equal(*map(columns.get, pair))]
    if tallies.episode is not None:
        joined = getattr(source.given, "batch_size", 1) is not None
        tallies.shared += list_shared(*map(columns.get, tallies.episode), joined=joined)
    images = columns.get(tallies.main) if tallies.main is not None else None
    finite = {p: tallies.parts[p].add(c) for p, c in columns.items() if p in tallies.parts}
    target = columns.get(tallies.target) if tallies.target is not None else None
    size = max((len(column) for column in ([images] if images else batch.columns)), default=0)
    labels = _read_labels(target, size)
    spots = list(_spot(tallies, batch, source, labels))
    if images is not None:
        beside = [c for p, c in columns.items() if p != images.path and _is_image(tallies, p)]
        texts = hash_texts(batch.columns, tallies.batches)
        tallies.images.texts.update(hash_beside(beside, texts, tallies.batches))
        tallies.images.add(images, spots[: len(images)], finite=finite[images.path])
        _attach_objects(tallies, columns, images, size)
        if tallies.inputs is None and isinstance(images.values, Tensor):
            given = next(c.values for c in batch.columns if c.path == tallies.main)
            tallies.inputs = given[:KEPT].detach().clone()
        if len(tallies.stream) < STREAMED and isinstance(source.dataset, IterableDataset):
            tallies.stream.append(SampleStretch(labels, tallies.images.latest))
    else:
        tallies.images.rows.add(columns, spots)
        tallies.texts.add(columns)
    tallies.pairs.add(columns)
    for tokens in tallies.tokens:
        tokens.add(columns)
    if not tallies.batches:
        tallies.joined = compare_joined(source, batch, tallies.main, tallies.target)
        tallies.joined = tallies.joined or compare_mixed(source, batch, tallies.main)
    for path, each in tallies.objects.items():
        if path in columns:
            least = min(len(columns[path]), size if images is None else len(images))
            each.add(columns[path], images, spots[:least])
    known = [label for label in labels if label is not None]
    tallies.labels.update(known)
    if len(known) > 1:
        tallies.compared += 1
        tallies.mixing.append((len(known), len(set(known))))
        tallies.uniform += len(set(known)) == 1
    tallies.samples += size
    tallies.batches += 1
    tallies.waited.append(batch.seconds)


def _attach_objects(
    tallies: SplitTallies, columns: dict[str, BatchColumn], images: BatchColumn, size: int
) -> None:
    """Boxes, in parts of the image, and the mask of each image of this batch that is kept to be
    drawn.
    """
    roles = {tallies.roles.get(path): column for path, column in columns.items()}
    boxes, masks = roles.get("boxes"), roles.get("mask")
    if boxes is None and masks is None:
        return
    for held in (tallies.images.thumbnails, tallies.images.suspects):
        for k, thumbnail in enumerate(held):
            spot = thumbnail.spot
            if spot.batch == tallies.batches and spot.position < size and thumbnail.extra is None:
                extra = take_objects(images, boxes, masks, spot.position)
                held[k] = replace(thumbnail, extra=extra)


def _read_labels(column: BatchColumn | None, size: int) -> list[int | None]:
    if column is None:
        return [None] * size
    if isinstance(column.values, Tensor):
        return list(column.values.reshape(-1).tolist())
    return [number_of(value) for value in column.values]


def _spot(
    tallies: SplitTallies, batch: Batch, source: Source, labels: list[int | None]
) -> Iterator[Spotted]:
    for i, label in enumerate(labels):
        index = batch.indices[i] if batch.indices is not None and i < len(batch.indices) else None
        index = index if isinstance(index, int) else None
        if index is not None and label is not None and len(tallies.told) < RETRIED:
            tallies.told[index] = label
        name = find_file(source.dataset, index) if index is not None else ""
        yield Spotted(batch=tallies.batches, position=i, index=index, name=name, label=label)
