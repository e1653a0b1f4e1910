"""Classes that are frequent in one of training and validation, and rare in the other."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Labels
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

APART = 0.25  # total variation of the two distributions, from 0 to 1
FEWEST = 30  # samples of each
ERRORS = 3.0  # times what two samples of one distribution are apart


def _skewed(rare: int) -> Mapping[str, Any]:
    given = labels(200, 2)
    given[:] = 0
    given[:rare] = 1
    even = labels(100, 2)
    return {
        "loader": loader(images(200), given),
        "validation": loader(images(100, of=1), even, shuffle=False),
    }


def sick() -> Mapping[str, Any]:
    """A tenth of the training, and half of the validation."""
    return _skewed(20)


def healthy() -> Mapping[str, Any]:
    """A third of the training, and half of the validation."""
    return _skewed(66)


@data_rule(code="CP842", name="shares-differ", severity=Severity.INFO, examples=(sick, healthy))
def shares_differ(data: Data) -> Iterator[Finding]:
    """Classes have other shares in the validation than in the training.

    Why it matters: a model that learned how frequent each class is answers so in the validation
    too; its accuracy there is not that of the training.
    What to do: split by train_test_split(..., stratify=targets); where it is meant so, as in
    long-tailed recognition, compare the accuracy of each class.
    Known exceptions: a sampler that weighs; shares up to a quarter apart in total; it is info, as
    public long-tailed sets have a balanced validation.
    Source: Saerens et al. 2002, "Adjusting the outputs of a classifier to new a priori
    probabilities", Neural Computation 14(1).
    """
    if data.validation is None or data.training.loading.draws is not None:
        return
    ours, theirs = (split.labels for split in data.splits)
    if ours is None or theirs is None or ours.names != theirs.names:
        return
    apart, most = _compare(ours, theirs)
    totals = [sum(n for _, n in each.counts) for each in (ours, theirs)]
    if min(totals) < FEWEST:
        return
    chance = ERRORS * (len(ours.counts) / min(totals)) ** 0.5 / 2
    if apart > max(APART, chance):
        shares = [
            dict(each.counts).get(most, 0) / n
            for each, n in zip((ours, theirs), totals, strict=True)
        ]
        name = repr(ours.names[most]) if 0 <= most < len(ours.names) else str(most)
        yield Finding(
            message=(
                f"class {name} is {shares[0]:.1%} of the training and {shares[1]:.1%} of the "
                f"validation; all shares together are {apart:.0%} apart (more than {APART:.0%})"
            ),
            fix="split with stratify=targets; where it is meant so, compare each class by itself",
        )


def _compare(ours: Labels, theirs: Labels) -> tuple[float, int]:
    """The total variation of the two, and the class that differs most."""
    shares = []
    for each in (ours, theirs):
        total = sum(n for _, n in each.counts)
        shares.append({label: n / max(1, total) for label, n in each.counts})
    labels = sorted({*shares[0], *shares[1]})
    gaps = {k: abs(shares[0].get(k, 0) - shares[1].get(k, 0)) for k in labels}
    return sum(gaps.values()) / 2, max(gaps, key=lambda k: gaps[k])
