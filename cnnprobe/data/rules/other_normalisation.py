"""Images that are not normalised as those that the weights were trained on."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.expectation import Weights
from cnnprobe.data.facts import Data, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, loader, seed
from cnnprobe.data.words import shape
from cnnprobe.diagnosis import Finding, Severity

CLOSE = 0.03  # of mean and std: what a data set of photos gives by itself
SHIFT = 0.5  # in units of the image: means that are farther apart are a warning
RATIO = 3.0  # and stds; 0.5 in place of 0.229 is 2.2
SMALL = 0.5  # of the least side that the weights were trained on
FEWEST = 8  # samples
HALF = 0.5  # the greatest value of images from 0 to 1 lies above
_Step = tuple[tuple[float, ...], tuple[float, ...]]


def _images(scale: float, shift: float) -> Mapping[str, Any]:
    import torch
    from torchvision import models

    model = models.resnet18()
    model.bn1.running_mean += 0.1  # as trained ones have it
    given = torch.rand(32, 3, 160, 160, generator=seed(9))
    given[:, :, 0, 0], given[:, :, 0, 1] = 0, 1
    return {"loader": loader(given * scale + shift, labels()), "model": model}


def sick() -> Mapping[str, Any]:
    """Images in [0, 1] for a trained resnet18."""
    return _images(1, 0)


def healthy() -> Mapping[str, Any]:
    """They were normalised, with other numbers that the loader does not tell."""
    return _images(2, -1)


@data_rule(
    code="CP843", name="other-normalisation", severity=Severity.WARNING, examples=(sick, healthy),
    explains=("input-range",),
)  # fmt: skip
def other_normalisation(data: Data) -> Iterator[Finding]:
    """Images are not normalised as those that the weights of a published model were trained on, or
    far smaller.

    Why it matters: the first layers get values that they were not trained for, and the accuracy
    falls by some percent to all.
    What to do: use the transforms of the weights: weights.transforms() of torchvision,
    timm.data.create_transform(**timm.data.resolve_model_data_config(model)).
    Known exceptions: a model at its initialisation; one that you trained yourself on these images.
    Other means and stds are info up to 0.5 and a factor of 3, as is a small size.
    Source: torchvision, "Using the pre-trained models": "each model has its own unique
    preprocessing", weights.transforms(); timm, model.pretrained_cfg.
    """
    weights = data.expected.weights
    if weights is None or weights.loaded is False:
        return
    for split in data.splits:
        said, severity = _judge(split, weights)
        if said:
            mean, std = weights.normalisations[0]
            yield Finding(
                severity=severity if weights.loaded else Severity.INFO,
                message=(
                    f"the {split.name} images {said}; the weights of {weights.name} expect mean "
                    f"{_list(mean)} and std {_list(std)}"
                ),
                fix=(
                    f"v2.Normalize({_list(mean)}, {_list(std)}), as in the transforms of the "
                    "weights"
                ),
            )
            break
    yield from _judge_size(data.training, weights)


def _judge(split: Split, weights: Weights) -> tuple[str, Severity | None]:
    """How the images differ from what is wanted, and how grave that is."""
    steps = split.images.normalisations
    if len(steps) == 1:
        if min(_measure(steps[0], wanted) for wanted in weights.normalisations) <= CLOSE:
            return "", None
        said = f"are normalised by mean {_list(steps[0][0])} and std {_list(steps[0][1])}"
        grave = all(_is_far(steps[0], wanted) for wanted in weights.normalisations)
        return said, None if grave else Severity.INFO
    part = next(iter(split.of("image")), None)
    numbers = part.numbers if part is not None and part.dtype != "uint8" else None
    if numbers is None or steps or split.samples < FEWEST:
        return "", None
    if numbers.low >= 0 and HALF < numbers.high <= 1:
        return f"go from {numbers.low:.3g} to {numbers.high:.3g}, not normalised", None
    return "", None


def _measure(a: _Step, b: _Step) -> float:
    """The greatest difference of the numbers; one number stands for all channels."""
    pairs = zip(
        (*_widen(a[0], 3), *_widen(a[1], 3)), (*_widen(b[0], 3), *_widen(b[1], 3)), strict=False
    )
    return max(abs(x - y) for x, y in pairs)


def _is_far(a: _Step, b: _Step) -> bool:
    means = zip(_widen(a[0], 3), _widen(b[0], 3), strict=False)
    ratios = [x / y for x, y in zip(_widen(a[1], 3), _widen(b[1], 3), strict=False) if y]
    return any(abs(x - y) > SHIFT for x, y in means) or any(
        not 1 / RATIO <= ratio <= RATIO for ratio in ratios
    )


def _widen(numbers: tuple[float, ...], count: int) -> tuple[float, ...]:
    return numbers * count if len(numbers) == 1 else numbers


def _judge_size(split: Split, weights: Weights) -> Iterator[Finding]:
    part = next(iter(split.of("image")), None)
    if part is None or not part.shapes or not weights.sides:
        return
    sides = part.shapes[0][0][-2:]
    if max(sides) < SMALL * weights.sides[0]:
        yield Finding(
            severity=Severity.INFO,
            message=(
                f"the images are {shape(sides)}; the weights of {weights.name} were trained on "
                f"{weights.sides[0]} pixels a side and more"
            ),
            fix=(
                f"v2.Resize({weights.sides[0]}), or train from scratch with a first layer of "
                "stride 1"
            ),
        )


def _list(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{n:.3g}" for n in numbers) + "]"
