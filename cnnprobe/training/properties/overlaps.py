"""What correct overlaps of masks have in common: a mask and itself, a mask of another size, a class
that is missed.

Each check gives what is expected, what was found and what to do; None where the property holds, or
where the function takes something else than it is tried with.
"""

import contextlib
import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprobe.training.formula_calls import Call, find_pair

NEAR = 0.02  # relative, of numbers that are equal but for rounding, eps and smoothing
APART = 0.1  # of two overlaps that would be the same
FEWEST = 64  # places of a mask; of fewer a smoothing counts
SMOOTHED = 1.0  # the largest smoothing that is judged
MANY = 16  # classes; a missed one of more counts for little
COMMON = 0.7  # of the pixels: a class beside which another one is rare
SHARED = ((1, 8), (4, 8))  # mask and output of this size in 8ths of the places, half of it shared
OTHERS = r"bce|(^|_)ce|cross|combo|hybrid|mix|ssim|cl_?dice|skel|haus|edge"  # sums of several terms
WHERE = "sum over the places of each class: (p * t).sum((0, 2, 3)) of tensors (N, C, H, W)"
Found = tuple[str, str] | tuple[str, str, str] | None


def check_overlap(call: Call) -> Found:
    """Of a mask with itself: 1, or a loss of 0 or -1; the same for masks of any size; and each of
    several classes counts.
    """
    pair = find_pair(call)
    if pair is None:
        return None
    output, target = (call.arguments[name] for name in pair)
    equal = _make_equal(output, target)
    if equal is None:
        return None
    values = dict(_try_kinds(call, pair, equal))
    sums = {1, len(output), output.shape[1] if output.dim() > 1 else 1}
    best = [
        is_logit
        for is_logit, v in values.items()
        if abs(v) < NEAR or any(abs(abs(v) - k) < NEAR * k for k in sums)
    ]
    if not best and values:
        last = list(values.values())[-1]
        return "1, or 0 as a loss, of a mask and the same mask", f"{last:.3g}"
    if not best or re.search(OTHERS, call.name, re.IGNORECASE) or _is_smoothed(call):
        return None
    if output.numel() == target.numel() and not _excludes_others(target):
        return _check_size(call, pair, is_logit=best[0])
    return _check_missed(call, pair, is_logit=best[0])


def _try_kinds(
    call: Call, pair: tuple[str, str], given: tuple[Tensor, Tensor]
) -> Iterator[tuple[bool, float]]:
    """Its values with an output of probabilities, and of logits."""
    for is_logit in (False, True):
        with contextlib.suppress(Exception):  # it does not take this kind
            yield is_logit, _measure(call, pair, given, is_logit=is_logit)


def _measure(
    call: Call, pair: tuple[str, str], given: tuple[Tensor, Tensor], *, is_logit: bool
) -> float:
    output, target = given
    made = 30 * output - 15 if is_logit else output
    return call.number(**{pair[0]: made, pair[1]: target})


def _is_smoothed(call: Call) -> bool:
    return any((call.setting(k) or 0.0) > SMOOTHED for k in ("smooth", "eps", "epsilon"))


def _excludes_others(target: Tensor) -> bool:
    """Whether each place has one class of several, along dim 1."""
    if target.dim() < 2 or target.shape[1] < 2 or not target.is_floating_point():
        return False
    return bool(((target.sum(1) - 1).abs() < NEAR).all())


def _make_equal(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """A mask, and an output that says the same."""
    if output.numel() == target.numel():
        mask = (torch.arange(target.numel()) % 2).reshape(target.shape).to(target)
        same = mask.reshape(output.shape).to(output)
    elif output.dim() == target.dim() + 1 and not target.is_floating_point():
        mask = (torch.arange(target.numel()) % output.shape[1]).reshape(target.shape).to(target)
        same = F.one_hot(mask.long(), output.shape[1]).movedim(-1, 1).to(output)
    else:
        return None
    return same, mask


def _check_size(call: Call, pair: tuple[str, str], *, is_logit: bool) -> Found:
    """Half shared is half shared, whatever size the mask has, along rows and along columns."""
    output, target = (call.arguments[name] for name in pair)
    height, width = target.shape[-2:] if target.dim() > 2 else (0, 0)
    if height * width < FEWEST:
        return None
    for is_turned in (False, True):
        small, large = (
            _measure(
                call, pair, _make_shared(output, target, size, is_turned=is_turned),
                is_logit=is_logit,
            )
            for size, _ in SHARED
        )  # fmt: skip
        if abs(small - large) > APART:
            return (
                "the same for masks of 1/8 and of 4/8 of the places, each half shared",
                f"{small:.3g} and {large:.3g}",
                WHERE,
            )
    return None


def _make_shared(
    output: Tensor, target: Tensor, size: int, *, is_turned: bool
) -> tuple[Tensor, Tensor]:
    """A mask of `size` 8ths of the places, and one of which half lies beside it."""
    height, width = target.shape[-2:]
    place = torch.arange(height * width).reshape(height, width) / (height * width)
    if is_turned:
        place = torch.arange(height * width).reshape(width, height).T / (height * width)
    share = size / 8
    mask, other = place < share, (place >= share / 2) & (place < 1.5 * share)
    mask, other = (m.expand(target.shape) for m in (mask, other))
    return other.reshape(output.shape).to(output), mask.to(target)


def _check_missed(call: Call, pair: tuple[str, str], *, is_logit: bool) -> Found:
    """A class that is missed costs its share of the classes, and not of the places."""
    output, target = (call.arguments[name] for name in pair)
    classes = output.shape[1]
    labels = target.argmax(1) if target.shape == output.shape else target
    most = int(labels.flatten().bincount().max()) / max(labels.numel(), 1)
    if not 2 <= classes <= MANY or most < COMMON or labels[0].numel() < FEWEST:
        return None
    rare = torch.zeros(labels[0].numel(), dtype=torch.long)
    rare[: len(rare) // 32] = 1
    rare = rare.reshape(labels[0].shape).expand(labels.shape)
    wanted = _encode(rare, classes, output)
    wrong = _encode((rare + 1) % classes, classes, output)
    none = _encode(torch.zeros_like(rare), classes, output)
    given = wanted.to(target) if target.shape == output.shape else rare.to(target)
    right, missed, worst = (
        _measure(call, pair, (made, given), is_logit=is_logit) for made in (wanted, none, wrong)
    )
    if abs(missed - right) >= 0.5 / classes * abs(worst - right):
        return None
    return (
        f"{1 / classes:.2g} less where one of {classes} classes is missed",
        f"{abs(missed - right):.2g}, for 1/32 of the places: it sums over the classes as well",
        WHERE,
    )


def _encode(labels: Tensor, classes: int, like: Tensor) -> Tensor:
    return F.one_hot(labels, classes).movedim(-1, 1).to(like).contiguous()
