"""Weights of a sampler that are not one per sample, or the wrong way round."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

WORSE = 1.5  # times the ratio of the classes without the sampler


def _weighing(per_class: bool) -> Mapping[str, Any]:
    from torch.utils.data import WeightedRandomSampler

    weights = [0.1, 0.2, 0.3, 0.4]
    drawn = weights if per_class else [weights[label] for label in labels().tolist()]
    return {"loader": loader(images(), labels(), shuffle=False, generator=None,
                             sampler=WeightedRandomSampler(drawn, 32))}  # fmt: skip


def sick() -> Mapping[str, Any]:
    """One weight per class, where one per sample is wanted."""
    return _weighing(per_class=True)


def healthy() -> Mapping[str, Any]:
    """The weight of its class for each sample, all but equal ones."""
    given = dict(_weighing(per_class=False))
    given["loader"].sampler.weights[:] = 1.0
    return given


@data_rule(
    code="CP841", name="sampler-weights", severity=Severity.ERROR, examples=(sick, healthy),
    explains=("single-class-batches", "constant-targets", "duplicate-images", "unseen-classes",
              "constant-labels"),
)  # fmt: skip
def sampler_weights(data: Data) -> Iterator[Finding]:
    """A WeightedRandomSampler has fewer weights than there are samples, or makes the classes more
    unequal.

    Why it matters: it draws the indices of its weights: with one weight per class, the first few
    samples and no others.
    What to do: weights = (1 / counts)[targets], one per sample.
    Known exceptions: it is a warning where there is a weight for each sample and the rare classes
    are drawn more rarely than without them.
    Source: torch.utils.data.WeightedRandomSampler, "a sequence of weights, not necessary summing up
    to one" over [0, .., len(weights) - 1].
    """
    for split in data.splits:
        draws, size = split.loading.draws, split.loading.size
        if draws is None or size is None:
            continue
        weights = draws.weights
        if weights < size:
            yield Finding(
                message=(
                    f"the sampler of the {split.name} data has {weights:,} weights for {size:,} "
                    f"samples: it draws none but the first {weights:,}"
                ),
                fix=(
                    "give one weight per sample: WeightedRandomSampler(class_weights[targets], ...)"
                ),
            )
        elif said := _compare(split):
            yield Finding(
                severity=Severity.WARNING,
                message=f"the sampler of the {split.name} data {said}",
                fix="weigh each sample by 1 / count of its class",
            )


def _compare(split: Split) -> str:
    labels = split.labels
    if labels is None or len(labels.drawn) < 2:
        return ""
    counts = {label: count for label, count, _ in labels.drawn}
    drawn = {label: share for label, _, share in labels.drawn}
    if min(counts.values(), default=0) <= 0 or min(drawn.values()) <= 0:
        return ""
    before = max(counts.values()) / min(counts.values())
    after = max(drawn.values()) / min(drawn.values())
    rare = min(counts, key=lambda k: counts[k])
    if after <= WORSE * before or before <= 1 or drawn[rare] > min(drawn.values()):
        return ""
    return (
        f"draws the most frequent class {after:,.3g} times as often as the rarest; there are "
        f"{before:,.3g} times as many samples of it"
    )
