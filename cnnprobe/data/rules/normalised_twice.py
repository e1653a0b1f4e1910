"""Images that were scaled or normalised twice."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Numbers, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, made, seed
from cnnprobe.diagnosis import Finding, Severity

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
            if numbers is not None and _is_divided_twice(numbers, split):
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data go from 0 to "
                        f"{numbers.high:.3g} (1/255 is {DARK:.3g}): they were divided by 255 "
                        "twice"
                    ),
                    fix="divide once: ToTensor and ToDtype(scale=True) do so already",
                )


def _list(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{n:.3g}" for n in numbers) + "]"


def _is_divided_twice(numbers: Numbers, split: Split) -> bool:
    if numbers.low < 0 or split.samples < 2:
        return False
    # Some picture is bright: half of 1/255 is reached, and no more than that.
    return DARK / 2 < numbers.high <= DARK * 1.001
