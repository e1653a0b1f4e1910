"""Images that were scaled or normalised twice."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cnnprobe.data.facts import Data, Numbers, Part, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, made, seed
from cnnprobe.diagnosis import Finding, Severity

SLACK = 0.02  # of the range: what resizing adds at sharp edges
PerChannel = tuple[float, ...]  # a number for each channel
Step = tuple[PerChannel, PerChannel]  # mean and std
IMAGENET: Step = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DARK = 1 / 255  # the greatest value of images that were divided by 255 twice


def _normalised(times: int) -> Mapping[str, Any]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    steps = [v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]) for _ in range(times)]
    transform = v2.Compose(steps)

    def make(i: int) -> Any:
        return transform(torch.rand(3, 8, 8, generator=seed(i))), int(labels()[i])

    return {"loader": DataLoader(made(32, make, transform=transform), batch_size=8, shuffle=True)}


def sick() -> Mapping[str, Any]:
    """Normalize stands in the transform twice."""
    return _normalised(2)


def healthy() -> Mapping[str, Any]:
    """It stands there once."""
    return _normalised(1)


@data_rule(
    code="CP808",
    name="normalised-twice",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("input-range",),
)
def normalised_twice(data: Data) -> Iterator[Finding]:
    """Images were normalised twice, or divided by 255 twice.

    Why it matters: a pretrained model gets values that it has never seen; twice divided images are
    all but black.
    What to do: leave one of the two out: ToTensor divides by 255 already, and weights.transforms()
    normalises already.
    Known exceptions: none known; two parts of a dict with a normalisation each count once each.
    Source: torchvision.transforms.ToTensor, "in the range [0.0, 1.0]".
    """
    for split in data.splits:
        if split.trials.rescaled:
            yield Finding(
                message=(
                    f"a sample of the {split.name} data is scaled once more each time that it is "
                    "read: what the data set keeps is changed in place"
                ),
                fix="make a new array: image = (image - mean) / std, and not -= and /=",
            )
        steps = split.images.normalisations
        if len(steps) > 1 and len(split.of("image")) == 1:
            yield Finding(
                message=(
                    f"the transform of the {split.name} data normalises {len(steps)} times: by "
                    f"mean {_list(steps[0][0])}, then by mean {_list(steps[1][0])}"
                ),
                fix="leave one Normalize out",
            )
            continue
        for part in split.of("image"):
            numbers = part.numbers
            if (step := _find_repeated(part, steps, data)) is not None and numbers is not None:
                lows, highs = _bound(*step)
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data go from "
                        f"{numbers.low:.3g} to {numbers.high:.3g}: normalised by mean "
                        f"{_list(step[0])}, images of [0, 1] lie between {min(lows):.3g} and "
                        f"{max(highs):.3g}, and normalised twice they lie where these do"
                    ),
                    fix="leave one Normalize out: where the data set wraps another, both have one",
                )
            if numbers is not None and _is_divided_twice(numbers, split):
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data go from 0 to "
                        f"{numbers.high:.3g} (1/255 is {DARK:.3g}): they were divided by 255 "
                        "twice"
                    ),
                    fix="divide once: ToTensor and ToDtype(scale=True) do so already",
                )


def _bound(mean: PerChannel, std: PerChannel) -> tuple[list[float], list[float]]:
    """What 0 and 1 become in each channel."""
    pairs = list(zip(mean, std, strict=True))
    return [(0 - m) / s for m, s in pairs], [(1 - m) / s for m, s in pairs]


def _find_repeated(part: Part, steps: Sequence[Step], data: Data) -> Step | None:
    """The mean and std by which images were normalised twice: those of the data set's transform,
    of the model's weights, or the usual ones.
    """
    weights = data.expected.weights
    known = [*steps, *(weights.normalisations if weights is not None else ()), IMAGENET]
    return next((step for step in known if _is_normalised_again(part, *step)), None)


def _is_normalised_again(part: Part, mean: PerChannel, std: PerChannel) -> bool:
    """Whether a channel is spread wider than any image of [0, 1] after a Normalize, whose std is at
    most half of its range, and the values end where a second Normalize brings black or white.
    """
    numbers = part.numbers
    if numbers is None or len(part.channels) != len(mean) or not all(s > 0 for s in std):
        return False
    lows, highs = _bound(mean, std)
    ends = zip(part.channels, lows, highs, strict=True)
    wide = any(c.std > (high - low) / 2 for c, low, high in ends)
    least = min((low - m) / s for low, m, s in zip(lows, mean, std, strict=True))
    most = max((high - m) / s for high, m, s in zip(highs, mean, std, strict=True))
    slack = SLACK * (most - least)
    above, below = numbers.low - least, most - numbers.high
    return wide and min(above, below) >= -slack and min(abs(above), abs(below)) <= slack


def _list(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{n:.3g}" for n in numbers) + "]"


def _is_divided_twice(numbers: Numbers, split: Split) -> bool:
    if numbers.low < 0 or split.samples < 2:
        return False
    # Some picture is bright: half of 1/255 is reached, and no more than that.
    return DARK / 2 < numbers.high <= DARK * 1.001
