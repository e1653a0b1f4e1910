"""What was taken in of one split, and what its data set tells beside it, as plain data."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace

from cnnprobe.data.beside import add_replaced, compare_sources
from cnnprobe.data.clues import Clues
from cnnprobe.data.columns import join_samples
from cnnprobe.data.copies import shrink
from cnnprobe.data.datasets import (
    find_mispaired,
    list_normalisations,
    list_transforms,
    name_transforms,
)
from cnnprobe.data.facts import Failed, Labels, SampleTrials, Split
from cnnprobe.data.gathering import SplitTallies
from cnnprobe.data.image_facts import Images
from cnnprobe.data.images import Thumbnail
from cnnprobe.data.joining import find_transposed
from cnnprobe.data.keeping import copy_dataset, kept_generators
from cnnprobe.data.labels import describe_labels
from cnnprobe.data.making import find_reseeded, find_smoothed, find_spoiling
from cnnprobe.data.marks import find_marks
from cnnprobe.data.noise import find_noise
from cnnprobe.data.sounds import compare_rates
from cnnprobe.data.source import Source, describe_loading
from cnnprobe.data.spots import Spotted
from cnnprobe.data.stored import find_reshaped, find_wrapped_bytes
from cnnprobe.data.tokens import find_vocabulary
from cnnprobe.data.trials import confirm_pairs, try_again, try_blanks

TOLD = 0.02  # of shuffled labels that are told as well as those that were given
TELLING = ("ToTensor", "ToDtype", "ConvertImageDtype", "ToImageTensor", "PILToTensor")


def describe_split(source: Source, tallies: SplitTallies, failed: Failed | None) -> Split:
    """The facts of a split; `failed` is what its loader raised."""
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
    labels = describe_labels(source, tallies) if tallies.target is not None else None
    return Split(
        name=source.name,
        loading=describe_loading(source, seconds),
        samples=tallies.samples,
        batches=tallies.batches,
        complete=source.complete and failed is None,
        parts=parts,
        images=_describe_images(source, tallies),
        labels=labels,
        objects=tuple(each.describe() for each in tallies.objects.values()),
        trials=SampleTrials() if failed else try_again(source, main, placed, tallies.stream),
        failed=failed,
        unread=tallies.unread,
        overlap=(*tallies.episode, sum(tallies.shared), len(tallies.shared))
        if tallies.episode is not None
        else None,
        mispaired=find_mispaired(source.dataset) if source.dataset is not None else None,
        clues=_find_clues(source, tallies, labels),
    )


def _find_clues(source: Source, tallies: SplitTallies, labels: Labels | None) -> Clues:
    """What the samples show beside something else; nothing where the user's code does not allow
    it.
    """
    found = Clues()
    with contextlib.suppress(Exception):
        found = replace(_compare(source, tallies, labels), transposed=find_transposed(source.first))
    with contextlib.suppress(Exception):
        found = replace(found, reshaped=find_reshaped(source))
    with contextlib.suppress(Exception):
        found = replace(found, wrapped=find_wrapped_bytes(source))
    with contextlib.suppress(Exception):
        found = replace(found, reseeded=find_reseeded(source))
    with contextlib.suppress(Exception):
        mask = next((path for path, role in tallies.roles.items() if role == "mask"), "")
        smoothed = find_smoothed(source, mask) if mask else None
        found = replace(found, smoothed=smoothed, spoiling=find_spoiling(source))
    return found


def _compare(source: Source, tallies: SplitTallies, labels: Labels | None) -> Clues:
    images, rows = tallies.images, tallies.images.rows
    # Labels that say nothing have no noise: the model would be asked in vain.
    told = labels is not None and labels.chance is not None and labels.chance <= TOLD
    noise = find_noise(images.features, images.places) if told else None
    if noise is not None:
        _show(source, tallies, [spot for spot, _ in noise.examples])
    found = Clues(
        marks=find_marks(tallies.images.labelled),
        pairs=tallies.pairs.describe(source),
        noise=noise,
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
        rates=compare_rates(tallies.images.seen, source, tallies.main or ""),
        beside=compare_sources(tallies.images.seen, source),
        joined=tallies.joined,
    )


def _show(source: Source, tallies: SplitTallies, spots: Sequence[Spotted]) -> None:
    """Read samples again, to be drawn among the suspicious ones."""
    known = [(spot, spot.index) for spot in spots if spot.index is not None]
    if not known or not source.is_indexed or tallies.last or not tallies.images.draws:
        return
    with contextlib.suppress(Exception), kept_generators(source.given):
        dataset = copy_dataset(source.dataset)
        columns = join_samples([dataset[index] for _, index in known])
        images = next(c.values for c in columns if c.path == tallies.main)
        for image, (spot, _) in zip(images, known, strict=True):
            tallies.images.suspects.append(Thumbnail(shrink(image), spot))


def _describe_images(source: Source, tallies: SplitTallies) -> Images:
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
