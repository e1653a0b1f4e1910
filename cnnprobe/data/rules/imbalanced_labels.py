"""A class that is far rarer than another."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Labels
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.diagnosis import Finding, Severity

# Samples of the most frequent class over those of the rarest. ImageNet-LT has 256 (Liu et al.
# 2019),
# iNaturalist 2018 has 500: people train on these knowingly.
RATIO = 1000.0
NOTED = 20.0  # from here on it is info
FEWEST = 1000  # samples, where not all are known


def _with(rare: int) -> Mapping[str, Any]:
    import torch

    given = labels(2600, 2)
    given[:] = 0
    given[:rare] = 1
    return {"loader": loader(torch.randn(2600, 1, 2, 2, generator=seed()), given, batch_size=64)}


def sick() -> Mapping[str, Any]:
    """2 of 2600."""
    return _with(2)


def healthy() -> Mapping[str, Any]:
    """3 of 2600."""
    return _with(3)


@data_rule(
    code="CP815",
    name="imbalanced-labels",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("constant-output",),
)
def imbalanced_labels(data: Data) -> Iterator[Finding]:
    """One class has more than a thousand times as many samples as another.

    Why it matters: the loss is lowest for a model that never names the rare class, and its accuracy
    looks good.
    What to do: look at the accuracy of each class; a WeightedRandomSampler or the weight of
    CrossEntropyLoss make the rare one count.
    Known exceptions: a sampler that weighs; a ratio from 20 to 1000 is info.
    Source: Liu et al. 2019, "Large-Scale Long-Tailed Recognition in an Open World",
    arXiv:1904.05160 (ImageNet-LT: 256).
    """
    split = data.training
    labels = split.labels
    if labels is None or split.loading.draws is not None or not _is_known(labels):
        return
    counts = {label: n for label, n in labels.counts if label >= 0}
    if len(counts) < 2:
        return
    most, least = (choose(counts, key=lambda k: counts[k]) for choose in (max, min))
    ratio = counts[most] / counts[least]
    if ratio > NOTED:
        yield Finding(
            severity=None if ratio > RATIO else Severity.INFO,
            message=(
                f"class {_name(labels, most)} has {counts[most]:,} samples, class "
                f"{_name(labels, least)} {counts[least]:,}: a ratio of {ratio:,.0f} "
                f"({'more' if ratio > RATIO else 'not more'} than {RATIO:,.0f})"
            ),
            fix=(
                "judge each class by itself; weigh the rare ones by CrossEntropyLoss(weight=...) "
                "or a WeightedRandomSampler"
            ),
        )


def _is_known(labels: Labels) -> bool:
    return labels.complete or sum(n for _, n in labels.counts) >= FEWEST


def _name(labels: Labels, label: int) -> str:
    return repr(labels.names[label]) if label < len(labels.names) else str(label)
