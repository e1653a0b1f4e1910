"""Masks or labels that belong to other images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Mispaired, Split
from cnnprobe.data.object_facts import Fit
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, made, seed
from cnnprobe.diagnosis import Finding, Severity

SURE = 5.0  # standard errors: six places are tried, and chance gives that once in a million
# Correlation of a picture with a smaller one of it, and of one with another crop of its scene.
SURELY, LOOSE = 0.93, 0.8
SAME, OTHER = 0.8, 0.5  # correlations of pictures of one scene, and of two
LEVEL = 0.05  # of shuffled labels that are told as well: lists of files that may be any are judged
BETTER = 1.2  # times as strong edges as those of the own image


def _scenes(shift: int) -> Mapping[str, Any]:
    import torch

    places = torch.randint(0, 16, (40, 2), generator=seed(8))
    masks = torch.zeros(40, 32, 32, dtype=torch.int64)
    for i, (y, x) in enumerate(places.tolist()):
        masks[i, y : y + 12, x : x + 14] = 1

    def make(i: int) -> Any:
        return images(1, 3, 32, of=i)[0] * 0.3 + masks[i], masks[(i + shift) % 40]

    return {"loader": made(40, make)}


def sick() -> Mapping[str, Any]:
    """Each image has the mask of the one behind it in the list."""
    return _scenes(1)


def healthy() -> Mapping[str, Any]:
    """Each has its own."""
    return _scenes(0)


@data_rule(
    code="CP839", name="mispaired-files", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("uninformative-labels", "loss-not-decreasing"),
)  # fmt: skip
def mispaired_files(data: Data) -> Iterator[Finding]:
    """Masks, labels or target images stand beside other images than their own.

    Why it matters: nothing can be learned from them, and the loss still falls to that of the mean
    mask.
    What to do: sort both lists of files, and compare their names; os.listdir and glob have no
    order.
    Known exceptions: recognised by names where two lists of the data set have the same numbers
    or stems in other places, and one is of masks or labels by its name or folder, or the labels say
    nothing about the images; else by the edges of 32 samples in a row, where a neighbour's image
    fits better. Lists mixed up without such names are not found.
    Source: os.listdir, "The list is in arbitrary order".
    """
    yield from _compare(data)
    for split in data.splits:
        found = split.mispaired
        if found is not None and (found.is_target or _is_untold(split)):
            yield _by_name(split.name, found)
        elif (fit := split.trials.fit) is not None and fit.pictures:
            if fit.z > SURE and fit.best > SAME and fit.own < OTHER:
                yield _by_picture(split.name, fit)
        elif fit is not None and is_better(fit):
            places = "place" if abs(fit.shift) == 1 else "places"
            yield Finding(
                message=(
                    f"the edges of {fit.pairs} masks of the {split.name} data lie on those of the "
                    f"image {abs(fit.shift)} {places} {'on' if fit.shift > 0 else 'back'} in the "
                    f"list, {fit.best:.2g} times its mean, and not on their own, {fit.own:.2g} "
                    f"times ({fit.z:.0f} standard errors apart)"
                ),
                fix="pair images and masks by their names",
            )


def _compare(data: Data) -> Iterator[Finding]:
    """Target images that show what their images show in one of the two alone."""
    measured = (split.trials.alike for split in data.splits)
    alike = [each for each in measured if each is not None]
    if len(alike) < 2:
        return
    if min(alike) < LOOSE and max(alike) > SURELY:
        where = "training" if alike[0] < alike[1] else "validation"
        yield Finding(
            message=(
                f"images and target images show one thing in one of the two alone: correlation "
                f"{alike[0]:.2f} in training, {alike[1]:.2f} in validation"
            ),
            fix=f"look whether both are cropped at one place in the {where} data: draw it once",
        )


def _by_picture(name: str, fit: Fit) -> Finding:
    places = "place" if abs(fit.shift) == 1 else "places"
    return Finding(
        message=(
            f"the targets of {fit.pairs} images of the {name} data show what the image "
            f"{abs(fit.shift)} {places} {'back' if fit.shift > 0 else 'on'} in the list shows "
            f"(correlation {fit.best:.2f}), and not what their own shows ({fit.own:.2f})"
        ),
        fix="pair images and targets by their names",
    )


def _is_untold(split: Split) -> bool:
    """Whether labels say nothing about the images."""
    chance = split.labels.chance if split.labels is not None else None
    return chance is not None and chance > LEVEL


def _by_name(name: str, found: Mispaired) -> Finding:
    beside = "" if found.is_target else "; and the labels say nothing about the images"
    return Finding(
        message=(
            f"the {name} data has {found.second!r} at the place of {found.first!r}, and so "
            f"at {found.count:,} of {found.places:,} places{beside}"
        ),
        fix="sort both lists of files, or pair them by their names",
    )


def is_better(fit: Fit) -> bool:
    """Whether other images, or masks that are turned, fit better by more than chance."""
    return fit.z > SURE and fit.best > BETTER * fit.own
