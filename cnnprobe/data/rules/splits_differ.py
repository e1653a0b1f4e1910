"""Images of the validation in another range than those of the training."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Part, Split
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import images, labels, loader
from cnnprobe.diagnosis import Finding, Severity

SHIFT = 1.0  # std: augmentation and another camera move the mean by a fraction of it
RATIO = 2.0  # of the std: that of normalised images is two to four times that of images in [0, 1]
# Where one of the two has negative values and the other has none, half of that is enough: [-1, 1]
# beside [0, 1] is 0.9 std and a factor of 2 apart.
SIGNED_SHIFT, SIGNED_RATIO = 0.5, 1.5
# Of the range, and a factor of the std: light and dark are exchanged.
NEAR, ENDS, EQUAL = 0.1, 0.2, 1.3
VALUES, SCALE = 16, 8.0  # of numbers to be predicted: so many, and so far apart in std
FEWEST = 1000  # values from which on a bound is believed


_SAME = "give both loaders the same conversion and normalisation"
_TURN = (
    "look at both contact sheets; read both in one way: EMNIST's files hold columns first, as "
    "MATLAB's do"
)
_FLIP = (
    "look at both contact sheets; if every training image is flipped, draw it for each, p=0.5; "
    "else read both in one way"
)
_INVERT = (
    "look at both contact sheets; invert one of them: v2.functional.invert(image), before Normalize"
)


def _both(scale: float, shift: float) -> Mapping[str, Any]:
    return {
        "loader": loader(),
        "validation": loader(images(of=5) * scale + shift, labels(), shuffle=False),
    }


def sick() -> Mapping[str, Any]:
    """The validation is in [0, 1] and was not normalised."""
    return _both(0.22, 0.45)


def healthy() -> Mapping[str, Any]:
    """It is a little paler and darker."""
    return _both(0.7, -0.3)


@data_rule(
    code="CP810",
    name="splits-differ",
    severity=Severity.WARNING,
    examples=(sick, healthy),
)
def splits_differ(data: Data) -> Iterator[Finding]:
    """Images or numbers of the validation lie in another range than those of the training, or
    images have other channels or are turned.

    Why it matters: the model is judged on inputs that it was not trained on; its accuracy says
    nothing.
    What to do: give both loaders the same ToDtype and Normalize; only augmentations are left out
    for the validation.
    Known exceptions: means up to 1 std apart and stds up to a factor of 2 apart are no finding; of
    numbers that are asked for, stds up to a factor of 8. Turned images are found by a simple model
    of small copies: it must tell four fifths as many of them as of the training when they are
    turned, and half of that as they are.
    Source: torchvision's reference training script: presets.py builds both transforms with one mean
    and std.
    """
    if data.validation is None:
        return
    if (turned := data.turned) is not None:
        yield Finding(
            message=(
                f"a simple model of the training tells {turned.own:.0%} of the "
                f"{turned.images:,} validation images that were read, and {turned.best:.0%} when "
                f"they are {turned.turn}: the images of one of the two are turned"
            ),
            fix=_FLIP if turned.turn.startswith("flipped") else _TURN,
        )
    steps = [split.images.normalisations for split in data.splits]
    if all(len(each) == 1 for each in steps) and steps[0] != steps[1]:
        (mean, std), (other_mean, other_std) = steps[0][0], steps[1][0]
        yield Finding(
            message=(
                f"the training data is normalised by mean {_list(mean)} and std {_list(std)}, the "
                f"validation data by mean {_list(other_mean)} and std {_list(other_std)}"
            ),
            fix="normalise both by the numbers of the training data",
        )
        return
    yield from _compare_values(data.training, data.validation)
    for a, b in zip(data.training.of("image"), data.validation.of("image"), strict=False):
        if said := _compare(a, b):
            if _is_inverted(a, b):
                said += (
                    "; they are as far from the other end of the range: light and dark exchanged"
                )
            yield Finding(
                message=f"{a.path or 'the images'}: {said}",
                fix=_INVERT if _is_inverted(a, b) else _SAME,
            )


def _is_inverted(a: Part, b: Part) -> bool:
    """Whether the images of one have the bounds of the other's, the same std, and a mean as far
    from the greatest value as that of the other is from the least.
    """
    one, other = a.numbers, b.numbers
    if one is None or other is None or one.std <= 0:
        return False
    width = one.high - one.low
    ends = max(abs(one.high - other.high), abs(one.low - other.low))
    apart = abs(one.mean + other.mean - one.low - one.high)
    same = 1 / EQUAL < other.std / one.std < EQUAL
    return same and ends < ENDS * width and apart < NEAR * width


def _list(numbers: tuple[float, ...]) -> str:
    return "[" + ", ".join(f"{n:.3g}" for n in numbers) + "]"


def _compare(a: Part, b: Part) -> str:
    channels = [{s[0] for s, _ in part.shapes if len(s) == 3} for part in (a, b)]
    if all(len(c) == 1 for c in channels) and channels[0] != channels[1]:
        return f"{channels[0].pop()} channels in training, {channels[1].pop()} in validation"
    if a.numbers is None or b.numbers is None or min(a.numbers.count, b.numbers.count) < FEWEST:
        return ""
    (m, s), (n, t) = ((x.mean, x.std) for x in (a.numbers, b.numbers))
    said = f"mean {m:.3g} and std {s:.3g} in training, mean {n:.3g} and std {t:.3g} in validation"
    if s <= 0 or t <= 0:
        return ""
    if abs(m - n) > SHIFT * max(s, t):
        return f"{said} (more than {SHIFT:g} std apart)"
    if not 1 / RATIO <= s / t <= RATIO:
        return f"{said} (a factor of more than {RATIO:g} apart)"
    signed = (a.numbers.low < 0) != (b.numbers.low < 0)
    far = abs(m - n) > SIGNED_SHIFT * max(s, t) and not 1 / SIGNED_RATIO <= s / t <= SIGNED_RATIO
    return f"{said}, and negative values in one of them alone" if signed and far else ""


def _compare_values(training: Split, validation: Split) -> Iterator[Finding]:
    """Numbers to be predicted that were scaled in one of the two alone."""
    theirs = {part.path: part.numbers for part in validation.of("value")}
    for part in training.of("value"):
        a, b = part.numbers, theirs.get(part.path)
        if a is None or b is None or min(a.count, b.count) < VALUES or min(a.std, b.std) <= 0:
            continue
        if not 1 / SCALE <= a.std / b.std <= SCALE:
            yield Finding(
                message=(
                    f"the values {part.path}: mean {a.mean:.3g} and std {a.std:.3g} in training, "
                    f"mean {b.mean:.3g} and std {b.std:.3g} in validation (a factor of more than "
                    f"{SCALE:g} apart)"
                ),
                fix="scale both by the numbers of the training",
            )
