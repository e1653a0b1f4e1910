"""Labels or masks that say nothing about the images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Masks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

LEVEL = 0.05  # labels without information are taken for informative as often as that
EVEN = 0.8  # of how evenly the classes of the other split are shared: a rare class tells less
SURE = 0.01  # of the other split: the same labels do say something
FITTING = 2.0  # standard errors: masks of other images fit better than others once in 40 times
FITTING_SURELY = 5.0  # those of the other split


def _related(strength: float) -> Mapping[str, Any]:
    import torch

    classes = labels(512)
    pattern = torch.nn.functional.one_hot(classes, 8).float()[:, None, :, None]
    return {"loader": loader(images(512, 1) + strength * pattern, classes)}


def sick() -> Mapping[str, Any]:
    """Labels in another order than the images."""
    return _related(0.0)


def healthy() -> Mapping[str, Any]:
    """One row is a little brighter, another one for each class."""
    return _related(0.25)


@data_rule(
    code="CP831", name="uninformative-labels", severity=Severity.INFO, examples=(sick, healthy)
)
def uninformative_labels(data: Data) -> Iterator[Finding]:
    """Simple models of small copies of the images tell the labels no better than shuffled ones, or
    masks fit their images no better than those of other images.

    Why it matters: it may be a hard task, or the labels belong to other images: a list in another
    order, a shuffle of one of two lists. Where those of the validation do say something, and those
    of the training do not, the task is not the reason: that is a warning, unless the classes of the
    training are much less even, which makes them harder to tell.
    What to do: look at the contact sheet: do the labels fit?
    Known exceptions: classes that differ in fine detail alone; of fewer than 256 images, or 8 a
    class, nothing is said. Labels without information pass once in 20 times. Masks are judged by
    edges and brightness, 24 or more of them: objects that have neither tell nothing.
    Source: Ojala and Garriga 2010, "Permutation Tests for Studying Classifier Performance", JMLR
    11.
    """
    for split in data.splits:
        others = [other for other in data.splits if other is not split]
        if split is data.training or _is_told(others[0]):
            told = [other for other in others if _is_told(other) and _is_as_even(split, other)]
            yield from _judge_labels(split, bool(told))
        yield from _judge_masks(split, others)


def _is_told(split: Split) -> bool:
    chance = split.labels.chance if split.labels is not None else None
    return chance is not None and chance <= SURE


def _is_as_even(split: Split, other: Split) -> bool:
    return _measure_evenness(split) >= EVEN * _measure_evenness(other)


def _measure_evenness(split: Split) -> float:
    """How often two samples are of different classes: 0 of one class, 1/2 of two even ones."""
    counts = [count for _, count in split.labels.counts] if split.labels is not None else []
    return 1 - sum((count / sum(counts)) ** 2 for count in counts)


def _judge_labels(split: Split, told_beside: bool) -> Iterator[Finding]:
    labels = split.labels
    if labels is None or labels.chance is None or labels.chance <= LEVEL:
        return
    beside = "; those of the other data are told" if told_beside else ""
    where = "" if split.name == "training" else f" of the {split.name} data"
    yield Finding(
        severity=Severity.WARNING if told_beside else None,
        message=(
            f"{labels.chance:.0%} of shuffled labels{where} (more than {LEVEL:.0%}) are told as "
            f"well as these by models of small copies, on images that they have not seen{beside}"
        ),
        fix="look at the contact sheet, whether the labels fit the images",
    )


def _judge_masks(split: Split, others: list[Split]) -> Iterator[Finding]:
    fits = {m.path: m.own for other in others for m in _list_masks(other) if m.own is not None}
    for masks in _list_masks(split):
        if masks.own is None or masks.own >= FITTING:
            continue
        sure = fits.get(masks.path, 0.0) > FITTING_SURELY
        beside = f"; in the other data they do, by {fits[masks.path]:.0f}" if sure else ""
        yield Finding(
            severity=Severity.WARNING if sure else None,
            message=(
                f"the masks {masks.path} of the {split.name} data fit their images no better than "
                f"other images, by {masks.own:.1f} standard errors (fewer than {FITTING:g}){beside}"
            ),
            fix="pair images and masks by their names; look at the contact sheet",
        )


def _list_masks(split: Split) -> list[Masks]:
    return [each for each in split.objects if isinstance(each, Masks)]
