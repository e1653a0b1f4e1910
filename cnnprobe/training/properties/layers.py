"""What correct layers, distances and errors have in common.

Each check gives what is expected and what was found; None where the property holds, or where the
function takes something else than it is tried with.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.training.formula_calls import Call, find_pair, first_tensor

NEAR = 0.02  # relative, of numbers that are equal but for rounding and eps
FEWEST, DOUBTLESS = 8, 4.0  # pairs of a label, and standard errors between two means
DRAWS = 20_000  # of a mean
ROLES = (
    r"^x?q(uer(y|ies))?(_states?)?s?$",
    r"^x?k(eys?)?(_states?)?s?$",
    r"^x?v(alues?)?(_states?)?s?$",
)
PLACES = (r"^a(nc.*)?$", r"^p(os.*)?$", r"^n(eg.*)?$")
ALIKE = 0.3  # how much more alike the codes of two views are than others, about their mean
Found = tuple[str, str] | None
Put = Callable[[Any, Any], dict[str, Any]]


def check_attention(call: Call) -> Found:
    """Its weights sum to 1: of values that are all 1 it makes 1."""
    names = [next((n for n in call.tensors() if re.search(p, n.lower())), None) for p in ROLES]
    chosen = [n for n in names if n is not None]
    if len(set(chosen)) != 3 or call.owner:
        return None
    value = chosen[2]
    given = {name: torch.randn(call.arguments[name].shape) for name in chosen}
    given[value] = torch.ones(call.arguments[value].shape)
    torch.manual_seed(0)
    first = first_tensor(call.again(**given))
    torch.manual_seed(1)
    again = first_tensor(call.again(**given))
    if first is None or again is None or not torch.equal(first, again):
        return None  # dropout, or a row that sees nothing
    if first.shape[-1] != given[value].shape[-1] or float((first - 1).abs().max()) < NEAR:
        return None
    return "1 of values that are all 1", f"{float(first.min()):.3g} to {float(first.max()):.3g}"


def check_norm(call: Call) -> Found:
    """What comes out does not depend on the scale of what goes in."""
    name = next((k for k, v in call.tensors().items() if v.dim() >= 2), None)
    if name is None or len(call.tensors()) > 1:
        return None
    x = torch.randn(call.arguments[name].shape)
    before, after = (first_tensor(call.again(**{name: x * k})) for k in (1.0, 4.0))
    if before is None or after is None or before.shape != x.shape:
        return None
    apart = float((before - after).abs().max() / before.abs().max().clamp(min=1e-9))
    if apart < 0.05:
        return None
    return "the same where the input is 4 times as large", f"it differs by {apart:.0%}"


def check_dropped_paths(call: Call) -> Found:
    """The mean stays: what is kept is divided by the share that is kept."""
    name = next((k for k, v in call.tensors().items() if v.is_floating_point()), None)
    if name is None:
        return None
    shape = call.arguments[name].shape
    made = first_tensor(call.again(**{name: torch.ones(DRAWS, *[1] * (len(shape) - 1))}))
    if made is None or made.shape[:1] != (DRAWS,):
        return None
    mean = float(made.mean())
    if abs(mean - 1) < 0.1:
        return None
    return "a mean of 1 of ones", f"{mean:.3g}"


def check_triplet(call: Call) -> Found:
    """Less where the positive is the anchor and the negative is far, than the other way round."""
    found = [next((n for n in call.tensors() if re.search(p, n.lower())), None) for p in PLACES]
    names = [n for n in found if n is not None]
    if len(set(names)) != 3:
        return None
    shape = call.arguments[names[0]].shape
    near, far = torch.randn(shape), torch.randn(shape)
    good = call.number(**dict(zip(names, (near, near + 0.01, far), strict=True)))
    bad = call.number(**dict(zip(names, (near, far, near + 0.01), strict=True)))
    if good <= bad:
        return None
    return "less where the positive is near and the negative far", f"{good:.3g} and {bad:.3g}"


def check_error(call: Call) -> Found:
    """Smallest where both are the same, and never less for a larger error."""
    pair = find_pair(call)
    if pair is None or call.arguments[pair[0]].shape != call.arguments[pair[1]].shape:
        return None
    shape = call.arguments[pair[0]].shape
    sizes = [0.0, 0.25, 0.5, 0.75, 0.98, 1.02, 1.5, 2.0, 3.0]
    for sign in (1.0, -1.0):
        values = [
            call.number(**{pair[0]: torch.full(shape, 1.0 + sign * e), pair[1]: torch.ones(shape)})
            for e in sizes
        ]
        for k, (before, after) in enumerate(itertools.pairwise(values)):
            if after < before - 1e-6:
                return (
                    "a larger value for a larger error",
                    f"{before:.3g} at {sizes[k]:g}, {after:.3g} at {sizes[k + 1]:g}",
                )
    return None


def check_pairs(call: Call) -> Found | tuple[str, str, str]:
    """Less where the pairs belong together than where they are exchanged."""
    names = [k for k, v in call.tensors().items() if v.is_floating_point()]
    codes = [k for k in names if call.arguments[k].dim() == 2]
    if len(codes) == 1:
        return _check_views(call, codes[0])
    pair = find_pair(call)
    if pair is None or len(names) != 2 or len(call.tensors()) > 2:
        return None
    shape = call.arguments[pair[0]].shape
    if len(shape) != 2 or shape != call.arguments[pair[1]].shape or shape[0] < 4:
        return None
    made = torch.nn.functional.normalize(torch.randn(shape), dim=1)
    good, bad = (call.number(**{pair[0]: made, pair[1]: made.roll(k, 0)}) for k in (0, 1))
    if good <= bad:
        return None
    return "less for pairs that are the same than for others", f"{good:.3g} and {bad:.3g}"


def _check_views(call: Call, name: str) -> tuple[str, str, str] | None:
    """The positives of a stack of two views are those that look alike in the batch."""
    codes = call.arguments[name].float()
    n = len(codes) // 2
    if len(codes) % 2 or n < 4:
        return None
    apart = torch.nn.functional.normalize(codes - codes.mean(0), dim=1)
    stacked = float((apart[:n] * apart[n:]).sum(1).mean())
    mixed = float((apart[::2] * apart[1::2]).sum(1).mean())
    made = torch.nn.functional.normalize(torch.randn(n, codes.shape[1]), dim=1)
    of_stacked, of_mixed = (
        call.number(**{name: both.to(codes)})
        for both in (torch.cat([made, made]), made.repeat_interleave(2, 0))
    )
    rows = ("i and i + n", "2 * i and 2 * i + 1")
    if stacked < mixed:
        rows = (rows[1], rows[0])
    is_other = (stacked > mixed) == (of_stacked > of_mixed)
    if abs(stacked - mixed) < ALIKE or of_stacked == of_mixed or not is_other:
        return None
    return (
        f"the positives at the rows {rows[0]}, which are alike in this batch of 2 * n",
        f"the rows {rows[1]}",
        f"take the rows {rows[0]} as the positives, or stack the views in the other way",
    )


def check_signed_pairs(call: Call) -> Found:
    """A distance is pulled for one label and pushed for the other; it is the smaller one that is
    pulled.
    """
    found = _find_embeddings(call) or _find_distances(call)
    if found is None:
        return None
    shape, put, actual = found
    label = next((k for k in call.tensors() if k not in put(0, 0)), None)
    if label is None or len(call.arguments[label]) != shape[0]:
        return None
    kinds = torch.unique(call.arguments[label])
    if len(kinds) != 2:
        return None
    one = torch.randn(shape) if len(shape) > 1 else torch.zeros(shape)
    for distance in (1.0, 10.0):  # a margin may be larger than the first
        signs = []
        for kind in kinds:
            wanted = {label: torch.full_like(call.arguments[label], float(kind))}
            near, far = (call.number(**wanted, **put(one, one + d)) for d in (1e-3, distance))
            signs.append(far - near)
        if signs[0] * signs[1] > 0:
            return (
                "a value that grows with the distance for one label and not for the other",
                f"changes of {signs[0]:.3g} and {signs[1]:.3g}",
            )
    pulled, pushed = (kinds[signs.index(extreme(signs))] for extreme in (max, min))
    return _compare_distances(actual, call.arguments[label], float(pulled), float(pushed))


def _compare_distances(actual: Tensor, label: Tensor, pulled: float, pushed: float) -> Found:
    """That the pairs which are pulled together are, beyond doubt, those that are farther apart."""
    label = label.reshape(len(label), -1)[:, 0]
    near, far = actual[label == pulled].double(), actual[label == pushed].double()
    if min(len(near), len(far)) < FEWEST:
        return None
    error = (near.var() / len(near) + far.var() / len(far)).sqrt()
    if float(near.mean() - far.mean()) < DOUBTLESS * float(error):
        return None
    found = f"mean distances of {float(near.mean()):.3g}, and {float(far.mean()):.3g} for label"
    return (
        f"the pairs of label {pulled:g}, which it pulls together, to be the nearer ones",
        f"{found} {pushed:g}: the labels mean the opposite",
    )


def _find_embeddings(call: Call) -> tuple[torch.Size, Put, Tensor] | None:
    """The shape of two tensors of embeddings, what gives others in their places, and the distances
    of the pairs: two arguments, or one that is a pair.
    """
    names = [k for k, v in call.tensors().items() if v.is_floating_point() and v.dim() == 2][:2]
    if len(names) == 2 and _is_pair([call.arguments[name] for name in names]):
        first, second = names
        one, other = (call.arguments[name] for name in names)
        return one.shape, lambda a, b: {first: a, second: b}, (one - other).norm(dim=1)
    for name, value in call.arguments.items():
        if isinstance(value, tuple | list) and _is_pair(value):
            apart = (value[0] - value[1]).norm(dim=1)
            return value[0].shape, lambda a, b, name=name: {name: (a, b)}, apart
    return None


def _find_distances(call: Call) -> tuple[torch.Size, Put, Tensor] | None:
    """The same of an argument that holds the distances themselves."""
    found = [
        k
        for k, v in call.tensors().items()
        if v.is_floating_point() and re.search(r"dist|^d$|^euc", k.lower())
    ]
    if len(found) != 1 or len(call.tensors()) != 2:
        return None
    value = call.arguments[found[0]]
    if value.numel() != len(value) or float(value.min()) < 0:
        return None

    def put(a: Any, b: Any) -> dict[str, Any]:
        return {found[0]: (b - a + torch.zeros(len(value))).reshape(value.shape)}

    return value.shape[:1], put, value.flatten()


def _is_pair(values: Sequence[Any]) -> bool:
    return len(values) == 2 and all(
        isinstance(v, Tensor) and v.dim() == 2 and v.shape == values[0].shape for v in values
    )


def check_returns(call: Call) -> Found:
    """What is discounted: a reward counts for the steps before it, and most for its own."""
    name = next((k for k in call.arguments if re.search(r"rew|^rs?$", k)), None)
    steps = len(call.arguments[name]) if name is not None else 0
    if name is None or steps < 3:
        return None
    given = {
        k: _fill(v, 1.0 if re.search("not_?done|mask|non_?term", k) else 0.0)
        for k, v in call.arguments.items()
        if re.search("done|mask|term|val|next|boot", k)
    }
    made = []
    for place in (steps - 1, 0):
        rewards = _fill(call.arguments[name], 0.0)
        rewards[place] = rewards[place] + 1.0
        values = first_series(call.again(**given, **{name: rewards}))
        if values is None or len(values) != steps:
            return None
        made.append(values)
    last, first = made
    if last != sorted(last):
        shown = ", ".join(f"{v:.2g}" for v in last[:3])
        return "values that grow towards a reward at the end", f"{shown}, ... from the start"
    if first[0] <= first[1] or max(first[1:]) - min(first[1:]) > NEAR:
        return "nothing after a reward at the start", f"{first[1]:.2g} one step later"
    return None


def _fill(value: Any, number: float) -> Any:
    """The same kind of thing, with one number everywhere."""
    if isinstance(value, Tensor):
        return torch.full_like(value, number)
    return [_fill(v, number) for v in value] if isinstance(value, list | tuple) else number


def first_series(result: Any) -> list[float] | None:
    """The first tensor or list of numbers that a function gives, over its first dim."""
    if isinstance(result, tuple) and result:
        result = result[0]
    if isinstance(result, list):
        result = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in result])
    if not isinstance(result, Tensor) or not result.dim():
        return None
    values: list[float] = result.double().reshape(len(result), -1).mean(1).tolist()
    return [round(v, 6) for v in values]


def check_positions(call: Call) -> Found:
    """A sine and a cosine of each angle: the squares of a position sum to half of its size."""
    owner = next(iter(call.owner.values()), None)
    if isinstance(owner, nn.Module) and next(owner.parameters(), None) is not None:
        return None  # learned
    inputs = [k for k, v in call.tensors().items() if v.is_floating_point() and v.dim() == 3]
    given = {k: torch.zeros_like(call.arguments[k]) for k in inputs}
    made, again = first_tensor(call.again(**given)), first_tensor(call.again(**given))
    if (
        made is None
        or again is None
        or not torch.equal(made, again)
        or not made.is_floating_point()
    ):
        return None
    size = made.shape[-1]
    if (
        made.dim() not in (2, 3)
        or size % 2
        or size < 4
        or not 0.5 < float(made.abs().max()) < 1.001
    ):
        return None
    squares = made.square().sum(-1)
    if float((squares - size / 2).abs().max()) < NEAR * size:
        return None
    low, high = float(squares.min()), float(squares.max())
    return f"squares that sum to {size / 2:g} at each position", f"{low:.3g} to {high:.3g}"
