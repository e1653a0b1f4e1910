"""What correct formulas of pictures and boxes have in common: mixtures, overlaps, variation, Gram
matrices, similarity.

Each check gives what is expected and what was found; None where the property holds, or where the
function takes something else than it is tried with.
"""

import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.recorder.values import leaves
from cnnprobe.training.formula_calls import Call, find_pair, first_tensor
from cnnprobe.training.properties.overlaps import Found, check_overlap

NEAR = 0.02  # relative, of numbers that are equal but for rounding and eps
MOST = 4.0  # of a loss that is the overlap alone, or minus its logarithm
FAR = 0.2  # of the sum of two squares that is to be 1; it is 0.5 where both shares are 0.5
OTHER = ("giou", "diou", "ciou", "eiou", "siou")  # take something off the overlap
Box = list[float]


def check_mixture(call: Call) -> Found:
    """A mixture of equal images is that image."""
    images = [k for k, v in call.tensors().items() if v.is_floating_point() and v.dim() > 1]
    if not images:
        return None
    same = torch.ones_like(call.arguments[images[0]])
    made = [
        t
        for _, t in leaves(call.again(**{images[0]: same}))
        if isinstance(t, Tensor) and t.shape == same.shape and t.is_floating_point()
    ]
    if not made or float((made[0] - 1).abs().max()) < 1e-3:
        return None
    low, high = float(made[0].min()), float(made[0].max())
    return "images of ones stay images of ones", f"values from {low:.3g} to {high:.3g}"


def check_iou(call: Call) -> Found:
    """The overlap of a box with itself, and of two boxes with a shared ninth of their hull."""
    pair = find_pair(call)
    tensors = [] if pair is None else [call.arguments[name] for name in pair]
    if pair is None or any(t.dim() != 2 or t.shape[1] != 4 for t in tensors):
        return check_overlap(call)
    a, b = torch.tensor([[10.0, 10, 40, 30]]), torch.tensor([[25.0, 20, 55, 40]])
    same = call.number(**{pair[0]: a, pair[1]: a.clone()})
    if abs(same - 1) > NEAR and abs(same) > NEAR:
        return "1, or 0 as a loss, of a box and the same box", f"{same:.3g}"
    if any(mark in call.name.lower() for mark in OTHER):
        return None
    apart = call.number(**{pair[0]: a, pair[1]: b})
    if "loss" in call.name.lower() and apart > MOST:
        return None  # with further terms, as a distance of the corners
    wanted = [v for corners in _list_corners(a, b) for v in _list_overlaps(*corners)]
    if any(abs(apart - v) < 2e-3 for w in wanted for v in (w, 1 - w, -math.log(w))):
        return None
    return f"{wanted[0]:.3g} of the boxes 10, 10, 40, 30 and 25, 20, 55, 40", f"{apart:.3g}"


def _list_corners(a: Tensor, b: Tensor) -> Iterator[tuple[Box, Box]]:
    """Two boxes as corners: given so, as the first corner and the size, as the center and the
    size.
    """
    for start in (None, 0.0, -0.5):
        boxes = []
        for x, y, w, h in (a[0].tolist(), b[0].tolist()):
            low = (x, y) if start is None else (x + start * w, y + start * h)
            high = (w, h) if start is None else (low[0] + w, low[1] + h)
            boxes.append([*low, *high])
        yield boxes[0], boxes[1]


def _list_overlaps(a: Box, b: Box) -> Iterator[float]:
    """The overlap over the union; also with pixels, whose last counts."""
    for more in (0.0, 1.0):
        sides = [max(0.0, min(a[k + 2], b[k + 2]) - max(a[k], b[k]) + more) for k in (0, 1)]
        areas = [(box[2] - box[0] + more) * (box[3] - box[1] + more) for box in (a, b)]
        shared = sides[0] * sides[1]
        yield max(shared / (sum(areas) - shared), 1e-9)


def check_variation(call: Call) -> Found:
    """Nothing of an even picture; something of stripes in either direction."""
    name = next((k for k, v in call.tensors().items() if v.dim() >= 3), None)
    if name is None:
        return None
    picture = call.arguments[name]
    stripes = (torch.arange(picture.shape[-1]) % 2).to(picture).expand_as(picture)
    even = call.number(**{name: torch.full_like(picture, 0.3)})
    across = call.number(**{name: stripes})
    if abs(even) > 1e-3:
        return "0 of an even picture", f"{even:.3g}"
    if picture.shape[-1] == picture.shape[-2]:
        down = call.number(**{name: stripes.transpose(-1, -2)})
        if min(abs(across), abs(down)) < 1e-6 < max(abs(across), abs(down)):
            return "more than 0 of stripes in either direction", f"{across:.3g} and {down:.3g}"
    return None


def check_gram(call: Call) -> Found:
    """The positions of a picture may be exchanged, and the pictures of a batch stay apart."""
    name = next((k for k, v in call.tensors().items() if v.dim() == 4), None)
    if name is None:
        return None
    picture = torch.randn(call.arguments[name].shape)
    order = torch.randperm(picture[0, 0].numel())
    other = picture.flatten(2)[..., order].reshape(picture.shape)
    before, after = (first_tensor(call.again(**{name: each})) for each in (picture, other))
    if before is None or after is None or before.shape != after.shape or before.dim() < 2:
        return None
    n, channels = picture.shape[:2]
    if n > 1 and before.shape == (n * channels, n * channels):
        return (
            f"a matrix of the {channels} channels for each of {n} pictures",
            f"one of shape {tuple(before.shape)}, which multiplies the pictures with each other",
        )
    apart = float((before - after).abs().max() / before.abs().max())
    if apart < 1e-3:
        return None
    return "the same where the positions are exchanged", f"it differs by {apart:.0%}"


def check_similarity_of_pictures(call: Call) -> Found:
    """A picture and itself: 1, or a loss of 0."""
    pair = find_pair(call)
    if pair is None or call.arguments[pair[0]].shape != call.arguments[pair[1]].shape:
        return None
    picture = torch.rand(call.arguments[pair[0]].shape)
    same = call.number(**{pair[0]: picture, pair[1]: picture.clone()})
    if abs(same - 1) < NEAR or abs(same) < NEAR or abs(same + 1) < NEAR:
        return None
    return "1, or 0 as a loss, of a picture and the same picture", f"{same:.3g}"


def check_noise_ratio(call: Call) -> Found:
    """A loss of it grows with the error: it is minus the ratio, or what the ratio falls with."""
    pair = find_pair(call)
    if pair is None or "loss" not in call.name.lower():
        return None
    output, target = pair
    truth = torch.rand(call.arguments[target].shape)
    noise = torch.randn(truth.shape)
    near, far = (
        call.number(**{output: truth + size * noise, target: truth}) for size in (0.02, 0.2)
    )
    if far > near:
        return None
    return "a loss that grows with the error", f"{near:.3g}, and {far:.3g} for 10 times the error"


def check_noising(call: Call) -> Found:
    """A mixture of unit variance stays one: the squares of the shares of image and noise sum to
    1.
    """
    images = [k for k, v in call.tensors().items() if v.is_floating_point() and v.dim() > 1]
    times = [k for k, v in call.tensors().items() if not v.is_floating_point() and v.dim() == 1]
    names = call.function.__code__.co_names + call.function.__code__.co_freevars
    is_product = any(re.search(r"alphas?_?(bar|hat|cum|prod)|a_?bar|cumprod", n) for n in names)
    if not images or len(times) != 1 or not is_product:
        return None
    image, others = images[0], {k: torch.zeros_like(call.arguments[k]) for k in images[1:]}
    zero = torch.zeros_like(call.arguments[image])
    drawn = _noised(call, **{image: zero}, **{k: torch.ones_like(v) for k, v in others.items()})
    kept = _noised(call, **{image: torch.ones_like(zero)}, **others)
    if drawn is None or kept is None or drawn.shape != zero.shape:
        return None
    if not others:
        kept = kept - drawn
    each = [t.double().flatten(1).square().mean(1).sqrt() for t in (kept, drawn)]
    total, plain = each[0].square() + each[1].square(), each[0] + each[1]
    near = NEAR if others else FAR  # of a deviation that is measured
    if float((plain - 1).abs().max()) > near or float((total - 1).abs().max()) < FAR:
        return None
    k = int(total.argmin())
    return (
        "squares of both shares that sum to 1",
        f"{float(each[0][k]):.2g} of the image and {float(each[1][k]):.2g} of the noise",
    )


def _noised(call: Call, **given: Tensor) -> Tensor | None:
    torch.manual_seed(0)  # of noise that the function draws
    return first_tensor(call.again(**given))
