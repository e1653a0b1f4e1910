"""Pixels from 0 to 255 that were normalised as if they went from 0 to 1."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import labels, made, seed
from cnnprobe.diagnosis import Finding, Severity

LARGE = 100.0  # (255 - mean) / std is above 400 for the usual numbers; (1 - mean) / std is below 4
STILL = 0.02  # std of each channel, over the size of its mean
TINY = 0.5 / 255  # no channel of images in [0, 1] varies so little, and those of [0, 1/255] do
UNIT = 1.0  # a mean and a std up to it are those of images in [0, 1]


def _normalised(scale: float) -> Mapping[str, Any]:
    import torch
    from torch.utils.data import DataLoader
    from torchvision.transforms import v2

    transform = v2.Normalize([0.5], [0.25])

    def make(i: int) -> Any:
        pixels = torch.randint(0, 256, (1, 8, 8), generator=seed(i)).float()
        return transform(pixels * scale), int(labels()[i])

    return {"loader": DataLoader(made(32, make, transform=transform), batch_size=8, shuffle=True)}


def sick() -> Mapping[str, Any]:
    """The pixels were not divided by 255."""
    return _normalised(1.0)


def healthy() -> Mapping[str, Any]:
    """They were."""
    return _normalised(1 / 255)


@data_rule(
    code="CP809",
    name="normalised-unscaled",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("input-range", "loss-at-init", "exploding-activation"),
)
def normalised_unscaled(data: Data) -> Iterator[Finding]:
    """Pixels from 0 to 255 went through a Normalize for values from 0 to 1, or the other way round.
    So do those in [0, 1] where the mean and the std were divided by 255 once too often.

    Why it matters: the model gets values up to a thousand where it expects up to three.
    What to do: v2.ToDtype(torch.float32, scale=True) before v2.Normalize; without scale=True it
    only changes the type.
    Known exceptions: a Normalize whose mean is above 1 is made for pixels.
    Source: torchvision.transforms.v2.ToDtype, "scale (bool, optional): Whether to scale the
    values".
    """
    for split in data.splits:
        steps = split.images.normalisations
        for part in split.of("image")[:1]:
            numbers = part.numbers
            if _is_still(part):
                shown = ", ".join(f"{c.mean:.4g} (std {c.std:.2g})" for c in part.channels)
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data hardly vary: the "
                        f"means of the channels are {shown}, as where values from 0 to 1 are "
                        "normalised by the mean and std of values from 0 to 255"
                    ),
                    fix="divide the mean and the std of Normalize by 255",
                )
            if numbers is None or len(steps) != 1 or numbers.high <= LARGE:
                continue
            if max((*steps[0][0], *steps[0][1])) <= UNIT:
                yield Finding(
                    message=(
                        f"{part.path or 'the images'} of the {split.name} data go from "
                        f"{numbers.low:.3g} to {numbers.high:.4g} (more than {LARGE:g}) after "
                        f"Normalize with mean {steps[0][0][0]:.3g} and std {steps[0][1][0]:.3g}, "
                        f"which are those of values from 0 to {_say_top(steps[0][1])}"
                    ),
                    fix=_choose_fix(steps[0][1], split.images.scaled),
                )


def _say_top(std: tuple[float, ...]) -> str:
    return "1/255" if max(std) < TINY else "1"


def _choose_fix(std: tuple[float, ...], scaled: bool | None) -> str:
    """A std this small is one of pixels that was divided by 255 once too often."""
    if scaled and max(std) < TINY:
        return "the images are in [0, 1] already: multiply the mean and the std of Normalize by 255"
    return "put v2.ToDtype(torch.float32, scale=True) before v2.Normalize"


def _is_still(part: Part) -> bool:
    """Whether all channels vary by far less than the size of their mean, above 1 in all."""
    return bool(part.channels) and all(
        abs(c.mean) > UNIT and c.std < STILL * abs(c.mean) for c in part.channels
    )
