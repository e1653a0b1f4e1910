"""Reads a bounded sample of the training data, and of the validation data, into facts; the user's
loaders are left as they were.
"""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

from torch import Tensor
from torch.utils.data import IterableDataset

from cnnprobe.data.beside import add_replaced, compare_sources
from cnnprobe.data.clues import Clues, Joined
from cnnprobe.data.columns import BatchColumn, are_equal, join_samples, move_channels
from cnnprobe.data.datasets import (
    find_file,
    find_mispaired,
    list_normalisations,
    list_transforms,
    name_transforms,
)
from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data, Failed, Images, SampleTrials, Split, Spotted
from cnnprobe.data.images import NAMED, ImageTally
from cnnprobe.data.information import find_exchange
from cnnprobe.data.joining import compare_joined, find_transposed
from cnnprobe.data.keeping import kept_generators
from cnnprobe.data.labels import describe_labels, find_moved
from cnnprobe.data.leaks import find_leaks
from cnnprobe.data.marks import find_marks
from cnnprobe.data.objects import BoxTally, MaskTally, PointTally, take_objects
from cnnprobe.data.padding import TextTally
from cnnprobe.data.roles import (
    assign_roles,
    choose_main,
    choose_target,
    find_channels_last,
    find_episode,
    list_shared,
)
from cnnprobe.data.source import (
    Batch,
    Limits,
    LoaderError,
    Source,
    describe_loading,
    open_source,
    read_batches,
    spread,
)
from cnnprobe.data.tallies import PartTally, number_of
from cnnprobe.data.tokens import TokenTally, find_vocabulary, hash_texts, is_tokens
from cnnprobe.data.trials import STREAMED, SampleStretch, confirm_pairs, try_again, try_blanks
from cnnprobe.data.turns import find_turned

KEPT = 4  # images of the first batch, for a forward pass
RETRIED = 64  # samples that are read one by one where the loader raised
TELLING = ("ToTensor", "ToDtype", "ConvertImageDtype", "ToImageTensor", "PILToTensor")
_TALLIES: dict[str, type[BoxTally | MaskTally | PointTally]] = {
    "boxes": BoxTally, "mask": MaskTally, "points": PointTally,
}  # fmt: skip
Tell = Callable[[str, int], None]


@dataclass(slots=True)
class LoaderReading:
    """What was read of one split, with what is needed to compare it and to draw it."""

    split: Split
    source: Source
    images: ImageTally
    inputs: Tensor | None = None  # the first images of the first batch
    error: Exception | None = None  # what the loader raised


@dataclass(slots=True)
class _Tallies:
    roles: dict[str, str]
    parts: dict[str, PartTally]
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


def read_data(
    training: Any,
    validation: Any = None,
    *,
    limits: Limits,
    expected: Expectation | None = None,
    tell: Tell | None = None,
) -> tuple[Data, list[LoaderReading]]:
    """The facts of both, and what is needed to draw them.

    Args:
        training: a DataLoader, a Dataset, or any iterable of batches.
        validation: the same; None where there is none.
        limits: how much is read of each.
        expected: what the model expects, where there is one.
        tell: called with the name of what is read and the number of samples so far.

    Raises:
        UsageError: what is given can be read only once.
        TargetError: it gives no batches.
    """
    given = {"training": training} | ({} if validation is None else {"validation": validation})
    sources = [open_source(each, name) for name, each in given.items()]
    readings = []
    with kept_generators(*given.values()):
        readings = [_read_split(source, limits, tell) for source in sources]
    splits = [reading.split for reading in readings]
    data = Data(
        training=splits[0],
        validation=splits[1] if len(splits) > 1 else None,
        expected=expected or Expectation(),
        leaks=find_leaks(*readings) if len(readings) > 1 else (),
        moved=find_moved(splits),
        exchange=find_exchange(*(reading.images.features for reading in readings)),
        turned=find_turned(*(reading.images.labelled for reading in readings)),
    )
    return data, readings


def _read_split(source: Source, limits: Limits, tell: Tell | None) -> LoaderReading:
    tallies: _Tallies | None = None
    failed = cause = None
    try:
        for batch in read_batches(source, limits):
            tallies = tallies or _start(batch, limits)
            _measure(tallies, batch, source)
            if tell is not None:
                tell(source.name, tallies.samples)
    except LoaderError as error:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        failed, tallies = _read_singly(source, cause, tallies, limits)
    tallies = tallies or _Tallies({}, {})
    split = _describe(source, tallies, failed)
    return LoaderReading(split, source, tallies.images, tallies.inputs, cause)


def _start(batch: Batch, limits: Limits) -> _Tallies:
    last = find_channels_last(batch.columns)
    columns = [move_channels(c) if c.path in last else c for c in batch.columns]
    roles = assign_roles(columns)
    tallies = _Tallies(roles, {path: PartTally(path, role) for path, role in roles.items()})
    tallies.images = ImageTally(limits.drawn)
    tallies.episode = find_episode(roles)
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


def _measure(tallies: _Tallies, batch: Batch, source: Source) -> None:
    try:
        _add(tallies, batch, source)
    except Exception as error:  # a form of batch that was not thought of: the others are read
        tallies.unread = tallies.unread or f"{type(error).__name__}: {error}"


def _add(tallies: _Tallies, batch: Batch, source: Source) -> None:
    columns = {
        column.path: move_channels(column) if column.path in tallies.last else column
        for column in batch.columns
    }
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
        tallies.images.texts.update(hash_texts(batch.columns, tallies.batches))
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
    for tokens in tallies.tokens:
        tokens.add(columns)
    if not tallies.batches:
        tallies.joined = compare_joined(source, batch, tallies.main, tallies.target)
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
    tallies: _Tallies, columns: dict[str, BatchColumn], images: BatchColumn, size: int
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
    tallies: _Tallies, batch: Batch, source: Source, labels: list[int | None]
) -> Iterator[Spotted]:
    for i, label in enumerate(labels):
        index = batch.indices[i] if batch.indices is not None and i < len(batch.indices) else None
        index = index if isinstance(index, int) else None
        if index is not None and label is not None and len(tallies.told) < RETRIED:
            tallies.told[index] = label
        name = find_file(source.dataset, index) if index is not None else ""
        yield Spotted(batch=tallies.batches, position=i, index=index, name=name, label=label)


def _read_singly(
    source: Source, error: Exception, tallies: _Tallies | None, limits: Limits
) -> tuple[Failed, _Tallies | None]:
    """What raised, and samples that are read one by one to see which of them do."""
    collating = any("collate" in frame.name for frame in traceback.extract_tb(error.__traceback__))
    collating = collating or "collate" in str(error)
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    failed = Failed(
        kind=type(error).__name__, message=lines[-1].strip() if lines else "", collating=collating
    )
    if not source.is_indexed:
        return failed, tallies
    good, indices, unreadable = [], [], []
    chosen = spread(len(source.dataset), RETRIED)
    for index in chosen:
        try:
            good.append(source.dataset[index])
            indices.append(index)
        except Exception:
            name = find_file(source.dataset, index)
            unreadable.append(Spotted(batch=0, position=0, index=index, name=name))
    failed = replace(
        failed, unreadable=tuple(unreadable[:NAMED]), count=len(unreadable), tried=len(chosen)
    )
    if good:
        batch = Batch(join_samples(good), indices, 0.0)
        # The paths of single samples are those of a batch; what was read before is read again.
        tallies = _start(batch, limits)
        _measure(tallies, batch, source)
        tallies.compared = tallies.uniform = 0
        tallies.mixing = []
    return failed, tallies


def _describe(source: Source, tallies: _Tallies, failed: Failed | None) -> Split:
    waited = tallies.waited[1:]
    seconds = sum(waited) / len(waited) if waited else 0.0
    for path, twin in tallies.twins if tallies.samples > 1 else ():
        tallies.parts[twin].same_as = path
    parts = tuple(tally.describe() for tally in tallies.parts.values())
    placed = {p: role for p, role in tallies.roles.items() if role in ("mask", "boxes", "points")}
    placed |= {tallies.target: "class"} if tallies.target is not None else {}
    main = tallies.main if tallies.main is not None else tuple(tallies.parts)
    pictures = [path for path, role in tallies.roles.items() if role == "image"]
    if len(pictures) == 2 and tallies.main == pictures[0]:
        placed[pictures[1]] = "image"
    return Split(
        name=source.name,
        loading=describe_loading(source, seconds),
        samples=tallies.samples,
        batches=tallies.batches,
        complete=source.complete and failed is None,
        parts=parts,
        images=_describe_images(source, tallies),
        labels=describe_labels(source, tallies) if tallies.target is not None else None,
        objects=tuple(each.describe() for each in tallies.objects.values()),
        trials=SampleTrials() if failed else try_again(source, main, placed, tallies.stream),
        failed=failed,
        unread=tallies.unread,
        overlap=(*tallies.episode, sum(tallies.shared), len(tallies.shared))
        if tallies.episode is not None
        else None,
        mispaired=find_mispaired(source.dataset) if source.dataset is not None else None,
        clues=_find_clues(source, tallies),
    )


def _find_clues(source: Source, tallies: _Tallies) -> Clues:
    """What the samples show beside something else; nothing where the user's code does not allow
    it.
    """
    try:
        return replace(_compare(source, tallies), transposed=find_transposed(source.first))
    except Exception:
        return Clues()


def _compare(source: Source, tallies: _Tallies) -> Clues:
    rows = tallies.images.rows
    found = Clues(
        marks=find_marks(tallies.images.labelled),
        texts=tallies.texts.describe(),
        features=(rows.path, rows.find_given_away()),
    )
    if source.dataset is None:
        return found
    vocabulary = find_vocabulary(source.given) if tallies.tokens else None
    tokens = (each.describe(vocabulary) for each in tallies.tokens if vocabulary is not None)
    return replace(
        found,
        tokens=tuple(each for each in tokens if each is not None),
        beside=compare_sources(tallies.images.seen, source),
        joined=tallies.joined,
    )


def _describe_images(source: Source, tallies: _Tallies) -> Images:
    if source.dataset is None:
        return tallies.images.describe(pixels=tallies.images.pixels.describe())
    steps = list_normalisations(source.dataset)
    known = [type(each).__name__ for each in list_transforms(source.dataset)]
    scaled = None
    if known:
        scaled = any(name in TELLING[:3] for name in known)
    found = tallies.images.describe(
        transforms=tuple(sorted(name_transforms(source.dataset))),
        normalisations=steps,
        scaled=scaled,
        pixels=tallies.images.pixels.describe(steps),
    )
    if tallies.main is None:
        return found
    if found.duplicates and not confirm_pairs(source, tallies.main, found.duplicates):
        found = replace(found, duplicates=(), repeated=0, similar=0, contradicting=0)
    found = replace(found, repeats=add_replaced(found.repeats, found.duplicates))
    if not found.constants:
        return found
    tried, unsteady = try_blanks(source, tallies.main, found.constant)
    return replace(found, blanks=replace(found.blanks, tried=tried, unsteady=unsteady))
