"""Frames of one video, slices of one scan, on both sides of a split: neighbours in the list that
are far more alike than other samples.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cnnprobe.data.datasets import find_root
from cnnprobe.data.facts import Leak
from cnnprobe.data.source import Source
from cnnprobe.data.spots import SamePicture, Spotted

REACH = 3  # places in the list
APART = 20  # places: what is farther is another scene, or a later part of this one
FEWEST, FEWEST_OTHERS = 16, 20  # samples of the validation that are compared, and with how many
MOST = 256  # samples of the validation
CLOSER = 0.02  # of the others, that may be closer than the neighbour
NEARER = 0.5  # of the median distance to the others
SHARE = 0.6  # of the validation: by chance a neighbour is the closest of 20 once in five times
Sketch = tuple[Spotted, NDArray[np.float32]]
Place = tuple[Any, int]  # a list, and the place in it


def find_by_sequence(
    ours: Sequence[Sketch], theirs: Sequence[Sketch], training: Source, validation: Source
) -> Leak | None:
    """Samples of the validation whose neighbours in the list are in the training and nearly equal
    to them; None where most have none.

    Args:
        ours: samples of the training, with their sketches, (F,).
        theirs: those of the validation.
        training: where ours come from.
        validation: where theirs come from.
    """
    places = [_place(spot, training) for spot, _ in ours]
    known = {place: i for i, place in enumerate(places) if place is not None}
    asked = ((sample, _place(sample[0], validation)) for sample in theirs)
    near = [(s, place, _list_near(place, known)) for s, place in asked if place is not None]
    pairs = [each for each in near if each[2]][:MOST]
    if len(pairs) < FEWEST:
        return None
    rows = torch.from_numpy(np.stack([sketch for _, sketch in ours]))
    apart = torch.cdist(torch.from_numpy(np.stack([each[0][1] for each in pairs])), rows).numpy()
    lists = np.array([hash(place[0]) if place is not None else 0 for place in places])
    ranks = np.array([place[1] if place is not None else 0 for place in places])
    labels = np.array([-1 if spot.label is None else spot.label for spot, _ in ours])
    found, compared = [], 0
    for ((spot, _), place, neighbours), row in zip(pairs, apart, strict=True):
        far = (lists != hash(place[0])) | (np.abs(ranks - place[1]) > APART)
        others = row[far & (labels == (-1 if spot.label is None else spot.label))]
        if len(others) < FEWEST_OTHERS:
            continue
        compared += 1
        best = min(neighbours, key=lambda k: float(row[k]))
        if _is_close(float(row[best]), others):
            found.append(SamePicture(first=ours[best][0], second=spot, exact=False))
    if compared < FEWEST or len(found) < SHARE * compared:
        return None
    return Leak(
        pairs=tuple(found[:8]), count=len(found), among=compared, by="sequence",
        share=len(found) / compared,
    )  # fmt: skip


def _is_close(own: float, others: NDArray[np.float32]) -> bool:
    closer = float((others < own).mean())
    return closer <= CLOSER and own < NEARER * float(np.median(others))


def _list_near(place: Place, known: dict[Place, int]) -> list[int]:
    steps = [step for step in range(-REACH, REACH + 1) if step]
    return [known[near] for step in steps if (near := (place[0], place[1] + step)) in known]


def _place(spot: Spotted, source: Source) -> Place | None:
    """Where a sample stands: by the number in the name of its file, else in the user's data set."""
    if spot.name and (numbered := re.match(r"(.*?)(\d+)\D*$", Path(spot.name).stem)):
        return f"{Path(spot.name).parent.name}/{numbered[1]}", int(numbered[2])
    if spot.index is None or not source.is_indexed:
        return None
    given = source.given.dataset if source.loader is not None else source.given
    root, index = find_root(given, spot.index)
    return id(root), index
