"""A validation that is not judged on all of its samples, each once."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, LoaderSettings
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

LEFT_OUT = 0.1  # of the samples, by drop_last


def _dropping(size: int) -> Mapping[str, Any]:
    given = images(22, of=1), labels(22)
    options = {"batch_size": size, "shuffle": False, "drop_last": True}
    return {"loader": loader(images(), labels()), "validation": loader(*given, **options)}


def sick() -> Mapping[str, Any]:
    """drop_last=True leaves 6 of 22 samples out."""
    return _dropping(16)


def healthy() -> Mapping[str, Any]:
    """It leaves two out."""
    return _dropping(4)


@data_rule(
    code="CP849", name="partial-validation", severity=Severity.WARNING, examples=(sick, healthy)
)
def partial_validation(data: Data) -> Iterator[Finding]:
    """The validation draws its samples by chance, or leaves a good part of them out.

    Why it matters: the accuracy is that of another set each time, or of the samples that come
    first.
    What to do: DataLoader(dataset, batch_size) without sampler and drop_last.
    Known exceptions: up to a tenth that drop_last leaves out.
    Source: torchvision's reference training script: the test loader has a SequentialSampler and no
    drop_last.
    """
    loading = data.validation.loading if data.validation is not None else None
    if loading is None:
        return
    if loading.draws is not None:
        yield Finding(
            message=f"the validation draws {loading.samples or 0:,} samples by weight, some of "
            "them several times and others not at all",
            fix="leave the sampler to the training",
        )
    left = _count_dropped(loading)
    if loading.samples and left > LEFT_OUT * loading.samples:
        yield Finding(
            message=(
                f"drop_last=True leaves {left:,} of {loading.samples:,} validation samples out "
                f"(more than {LEFT_OUT:.0%})"
            ),
            fix="drop_last=False for the validation",
        )


def _count_dropped(loading: LoaderSettings) -> int:
    """Samples behind the last whole batch that are left out."""
    samples, size, batches = loading.samples, loading.batch_size, loading.batches
    if not samples or not size or not batches or loading.last_batch is None:
        return 0
    return max(0, samples - size * batches)
