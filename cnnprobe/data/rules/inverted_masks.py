"""Masks whose object and background are exchanged."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Masks
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import blobs, masked
from cnnprobe.diagnosis import Finding, Severity

FEWEST = 8  # masks of two values
SHARE = 0.1  # of the masks: so many are the other way round
CLOSED = 0.8  # of the masks: so many have one value all along their border


def _exchanged(every: int) -> Mapping[str, Any]:
    masks = blobs(24, classes=2, size=20)
    masks[::every] = 1 - masks[::every]
    masks[1, 0, 0] = 1  # one object reaches the border
    return {"loader": masked(masks, size=20)}


def sick() -> Mapping[str, Any]:
    """Every third is 1 where it should be 0, and 0 where it should be 1."""
    return _exchanged(3)


def healthy() -> Mapping[str, Any]:
    """One is so: an object that fills its image but for a hole."""
    return _exchanged(24)


@data_rule(code="CP847", name="inverted-masks", severity=Severity.WARNING, examples=(sick, healthy))
def inverted_masks(data: Data) -> Iterator[Finding]:
    """In some masks the object has the greater value, in others the background has it.

    Why it matters: the model is asked for the object in some masks and for the background in
    others, and learns neither.
    What to do: look at the contact sheet; exchange the two values of the masks that are the other
    way round: mask = 1 - mask.
    Known exceptions: reported only for masks of two values where at least 80% have one value all
    along the border; objects that reach the border tell nothing.
    Source: a report on a public set of tongue images, "Incorrect foreground and background in some
    masks" (BioHit/TongeImageDataset, issue 1, 2026).
    """
    for split in data.splits:
        for masks in _list_closed(split):
            least, what = min((masks.inside, "inside"), (masks.around, "around"))
            total = masks.inside + masks.around + masks.across
            if least > SHARE * total:
                where = "inside" if what == "inside" else "all along the border"
                other = "inside" if what == "around" else "all along the border"
                yield Finding(
                    message=(
                        f"the greater value of the masks {masks.path} of the {split.name} data "
                        f"lies {where} in {least} of {total} masks, and {other} in "
                        f"{masks.inside + masks.around - least}"
                    ),
                    fix="exchange the two values of those that are the other way round: 1 - mask",
                )
    yield from _compare(data)


def _list_closed(split: Split) -> list[Masks]:
    masks = [each for each in split.objects if isinstance(each, Masks)]
    return [m for m in masks if m.inside + m.around >= max(FEWEST, CLOSED * _count(m))]


def _count(masks: Masks) -> int:
    return masks.inside + masks.around + masks.across


def _compare(data: Data) -> Iterator[Finding]:
    """All masks of one of the two loaders are the other way round."""
    if data.validation is None:
        return
    theirs = {each.path: each for each in _list_closed(data.validation)}
    for a in _list_closed(data.training):
        b = theirs.get(a.path)
        shares = [m.around / (m.inside + m.around) for m in (a, b) if m is not None]
        if len(shares) == 2 and min(shares) < SHARE and max(shares) > 1 - SHARE:
            names = ["training", "validation"]
            second, first = names if shares[0] < SHARE else names[::-1]
            yield Finding(
                message=(
                    f"the greater value of the masks {a.path} lies inside in the {second} data, "
                    f"and all along the border in the {first} data"
                ),
                fix="exchange the two values of one of them: 1 - mask",
            )
