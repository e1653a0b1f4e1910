"""Numbers that stand for a missing one."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.object_facts import Points
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, loader, seed
from cnnprobe.diagnosis import Finding, Severity
from cnnprobe.records.words import format_counted


def _angles(missing: float) -> Mapping[str, Any]:
    import torch

    given = torch.rand(32, 1, generator=seed(3)) * 90 - 45
    given[::8] = missing
    return {"loader": loader(images(), given)}


def sick() -> Mapping[str, Any]:
    """Four of 32 angles are -999."""
    return _angles(-999.0)


def healthy() -> Mapping[str, Any]:
    """Four are 0, in the middle of the others."""
    return _angles(0.0)


@data_rule(
    code="CP852", name="marked-targets", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("unscaled-targets",),
)  # fmt: skip
def marked_targets(data: Data) -> Iterator[Finding]:
    """Among the numbers to be predicted one value stands far from all others, several times, or is
    one coordinate of many key points: a mark for what is missing.

    Why it matters: a squared error is made by the few marks alone, and the model learns to avoid
    them.
    What to do: leave these samples out, or mask them in the loss: loss[targets != -999].mean().
    Known exceptions: reported only where the value is at least twice there, at three times the
    range of all others from them. Of key points it is the least or the greatest coordinate, in x or
    in y alone, at least 10 times and 3 times as often as all of the next tenth of the range; points
    at the border of their image, where a crop cuts them off, are info.
    Source: pandas, read_csv, parameter na_values: "additional strings to recognize as NA".
    """
    for split in data.splits:
        for part in split.of("value"):
            if part.mark is not None and part.numbers is not None:
                value, count = part.mark
                yield Finding(
                    message=(
                        f"{format_counted(count, 'value')} of {part.numbers.count:,} of "
                        f"{part.path} of the {split.name} data {'is' if count == 1 else 'are'} "
                        f"{value:g}, far "
                        "from all others: a mark for what is missing"
                    ),
                    fix="leave these samples out, or mask them in the loss",
                )
        yield from _list_piles(split)


def _list_piles(split: Split) -> Iterator[Finding]:
    """Key points of which one coordinate is the least or the greatest of all."""
    for points in split.objects:
        pile = points.pile if isinstance(points, Points) else None
        if pile is None:
            continue
        where = "on the border of their image" if pile.at_border else "a mark, or a default"
        yield Finding(
            severity=Severity.INFO if pile.at_border else None,
            message=(
                f"{format_counted(pile.points, 'key point')} of {pile.among:,} of {points.path} of "
                f"the {split.name} data {'has' if pile.points == 1 else 'have'} an x or a y of "
                f"exactly {pile.value:g}, and {pile.near:,} coordinates are near to it: {where}"
            ),
            fix="leave these points out of the loss, and look where the value comes from",
        )
