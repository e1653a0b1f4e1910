"""A validation that augments its images."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader, made
from cnnprobe.diagnosis import Finding, Severity


def _noisy(amount: float) -> Mapping[str, Any]:
    import torch

    def make(i: int) -> Any:
        return images(1, 3, 8, of=100 + i)[0] + amount * torch.rand(()), i % 4

    return {"loader": loader(images(), labels()), "validation": made(16, make)}


def sick() -> Mapping[str, Any]:
    """It has the transform of the training."""
    return _noisy(0.5)


def healthy() -> Mapping[str, Any]:
    """It has none that is random."""
    return _noisy(0.0)


@data_rule(
    code="CP828",
    name="augmented-validation",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def augmented_validation(data: Data) -> Iterator[Finding]:
    """Validation images differ each time they are read.

    Why it matters: its loss is that of distorted images, and differs from run to run, so that
    epochs cannot be compared.
    What to do: give the validation a transform of its own; random_split shares that of the one data
    set.
    Known exceptions: nothing is said of episodes and of samples that are drawn anew with their
    label, nor where the stored image is scaled in place (normalised-twice); it is info where the
    target is no class, mask or box, as in denoising, whose noise is drawn anew.
    Source: torchvision's reference training script: presets.ClassificationPresetEval has no random
    transform.
    """
    split = data.validation
    if split is None or not split.trials.random or split.trials.anew or split.trials.rescaled:
        return
    yield Finding(
        severity=None if split.of("class", "multilabel", "mask", "boxes") else Severity.INFO,
        message="a sample of the validation, read several times, gives other images",
        fix="give the validation a data set with a transform of its own, without the random ones",
    )
