"""Holds the backward of the user's own autograd functions against differences of their forward."""

import contextlib
import functools
import inspect
import os
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnprobe.diagnosis.evidence import WrongDerivative
from cnnprobe.recorder.sources import is_users
from cnnprobe.recorder.values import EXACT, leaves

CHECKED = 24  # elements of each argument
LARGE = 1 << 20  # elements; of a larger argument fewer are checked
FEW = 4
WIDTH = 1e-5  # of a central difference in float64: its error is 1e-10 and less
WRONG = 1e-3  # of the derivative; a central difference is exact to 1e-5 and better
KINKED = 1e-2  # by which two widths may differ
MOST_RIGHT = 0.5  # of the elements, where some are wrong on purpose or lie at a kink
# What says that a derivative is another one on purpose.
_ON_PURPOSE = re.compile(
    r"straight|(?<![a-z])ste(?![a-z])|surrogate|revers|(?<![a-z])grl|guided|approx|estimat|spik"
    r"|quant|pseudo|deliberate|on purpose",
    re.IGNORECASE,
)
# What a function that reverses gradients is called.
_REVERSING = re.compile(r"revers|(?<![a-z])grl(?![a-z])|rev_?grad|grad_?rev", re.IGNORECASE)
EVEN = 0.999  # cosine of two gradients of which one is a multiple of the other
ROUNDED = 4  # values that become one level, on average
Function = type[torch.autograd.Function]


def list_functions() -> list[Function]:
    """The autograd functions that the user's own files define."""
    found: list[Function] = []
    stack: list[Any] = [*torch.autograd.Function.__subclasses__()]
    while stack:
        kind = stack.pop()
        stack.extend(kind.__subclasses__())
        code = _code_of_backward(kind)
        is_example = kind.__module__.startswith("cnnprobe.rulebook.")
        if code is None or kind in found:
            continue
        if is_example or _is_own_file(code.co_filename):
            found.append(kind)
    return found


def _code_of_backward(kind: Any) -> types.CodeType | None:
    function = inspect.unwrap(vars(kind).get("backward", kind.backward))
    function = getattr(function, "__func__", function)
    return getattr(inspect.unwrap(function), "__code__", None)


def _is_own_file(filename: str) -> bool:
    return is_users(filename) and f"{os.sep}site-packages{os.sep}" not in filename


@contextlib.contextmanager
def watch_functions() -> Iterator[dict[Function, tuple[Any, ...]]]:
    """The arguments of the first call of each of the user's functions in this block."""
    seen: dict[Function, tuple[Any, ...]] = {}
    with contextlib.ExitStack() as stack:
        for kind in list_functions():
            stack.enter_context(_watched(kind, seen))
        yield seen


@contextlib.contextmanager
def _watched(kind: Any, seen: dict[Function, tuple[Any, ...]]) -> Iterator[None]:
    original, own = kind.forward, vars(kind).get("forward")
    first = 0 if kind.setup_context is not torch.autograd.Function.setup_context else 1

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        if kind not in seen and not kwargs:
            seen[kind] = tuple(_keep(value) for value in args[first:])
        return original(*args, **kwargs)

    kind.forward = staticmethod(forward)
    try:
        yield
    finally:
        if own is None:
            del kind.forward
        else:
            kind.forward = own


def _keep(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(value.requires_grad)


def find_wrong_derivatives(
    calls: dict[Function, tuple[Any, ...]],
) -> tuple[WrongDerivative, ...]:
    """The functions whose backward gives other derivatives than their forward has."""
    found = []
    for kind, args in calls.items():
        with contextlib.suppress(Exception):  # a forward that takes no float64 is not judged
            with torch.random.fork_rng(devices=[]), torch.enable_grad():
                wrong = _check(kind, args)
            if wrong is not None:
                found.append(wrong)
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Compared:
    """Derivatives by one argument, at the same elements."""

    analytic: Tensor
    numeric: Tensor


def _check(kind: Any, args: tuple[Any, ...]) -> WrongDerivative | None:
    wide = [_widen(value) for value in args]
    chosen = [i for i, v in enumerate(wide) if isinstance(v, Tensor) and v.requires_grad]
    first, again = _run(kind, wide), _run(kind, wide)
    if not chosen or not first:
        return None
    if any(out.numel() > 1 for out in first) and (deaf := _find_deaf(kind, first, wide, chosen)):
        return deaf
    if any(t.dtype != torch.float64 for t in first):
        return None
    if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
        return None
    if any(torch.equal(out, wide[i]) for out in first for i in chosen):
        if _REVERSING.search(kind.__name__):
            return _judge_reversal(kind, wide[chosen[0]], first[0])
        return None  # it changes nothing: its backward is what it is for
    if any(_is_rounded(out, wide[i]) for out in first for i in chosen):
        return None  # to a few levels, as ternary weights are: its backward is an estimate
    weights = [torch.randn_like(out) for out in first]
    whole = _weigh(first, weights)
    gradients = torch.autograd.grad(whole, [wide[i] for i in chosen], allow_unused=True)
    compared = {
        i: _compare(kind, wide, i, (gradient, weights))
        for i, gradient in zip(chosen, gradients, strict=True)
        if gradient is not None
    }
    if any(not c.numeric.any() and c.analytic.any() for c in compared.values()):
        return None  # a step function: no derivative of it would be of use
    return next((w for i, c in compared.items() if (w := _judge(kind, i, c)) is not None), None)


def _find_deaf(
    kind: Any, outputs: list[Tensor], args: list[Any], chosen: list[int]
) -> WrongDerivative | None:
    """A function whose backward gives the same gradient whatever comes in, and not 0. That of a
    single number may leave it out: it is 1 where this is the loss.
    """
    for i in chosen:
        gradients = [
            torch.autograd.grad(
                _weigh(outputs, [torch.randn_like(out) for out in outputs]),
                args[i],
                retain_graph=True,
                allow_unused=True,
            )[0]
            for _ in range(2)
        ]
        one, other = gradients
        if one is not None and other is not None and one.any() and torch.equal(one, other):
            return WrongDerivative(
                name=kind.__name__,
                qualified=f"{kind.__module__}.{kind.__qualname__}",
                source=_find_source(kind),
                argument=i,
                checked=one.numel(),
                wrong=one.numel(),
                analytic=float(one.norm()),
                numeric=float(one.norm()),
                factor=None,
                on_purpose=False,
                is_deaf=True,
            )
    return None


def _is_rounded(made: Tensor, given: Tensor) -> bool:
    """Whether many values become few; a zero is none, as most of what a ReLU gives is one."""
    levels, values = (len(torch.unique(t.detach()[t.detach() != 0])) for t in (made, given))
    return made.shape == given.shape and ROUNDED * levels <= values


def _widen(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_floating_point() or type(value) not in EXACT:
        return value
    return value.detach().double().requires_grad_(value.requires_grad)


def _run(kind: Any, args: Iterable[Any]) -> list[Tensor]:
    torch.manual_seed(0)
    output = kind.apply(*args)
    return [t for _, t in leaves(output) if isinstance(t, Tensor) and t.is_floating_point()]


def _weigh(outputs: list[Tensor], weights: list[Tensor]) -> Tensor:
    return torch.stack([(o * w).sum() for o, w in zip(outputs, weights, strict=True)]).sum()


def _compare(
    kind: Any, args: list[Any], index: int, given: tuple[Tensor, list[Tensor]]
) -> _Compared:
    """The derivatives by some elements, and their differences where two widths agree."""
    gradient, weights = given
    size = gradient.numel()
    count = CHECKED if size <= LARGE else FEW
    places = torch.randperm(size)[:count] if size <= LARGE else torch.randint(size, (count,))
    analytic, numeric = [], []
    for place in places.tolist():
        narrow, wide = (
            _differ(kind, args, (index, place, width), weights) for width in (WIDTH, 2 * WIDTH)
        )
        if abs(narrow - wide) <= KINKED * max(abs(narrow), abs(wide)):
            analytic.append(float(gradient.reshape(-1)[place]))
            numeric.append(narrow)
    return _Compared(
        analytic=torch.tensor(analytic, dtype=torch.float64),
        numeric=torch.tensor(numeric, dtype=torch.float64),
    )


def _differ(kind: Any, args: list[Any], at: tuple[int, int, float], weights: list[Tensor]) -> float:
    index, place, width = at
    values = []
    for step in (width, -width):
        moved = args[index].detach().clone()
        moved.reshape(-1)[place] += step
        given = [moved if i == index else a for i, a in enumerate(args)]
        with torch.no_grad():
            values.append(float(_weigh(_run(kind, given), weights)))
    return (values[0] - values[1]) / (2 * width)


def _judge(kind: Any, index: int, compared: _Compared) -> WrongDerivative | None:
    analytic, numeric = compared.analytic, compared.numeric
    scale = numeric.abs().max() if numeric.numel() else torch.zeros(())
    # Where the forward is flat, or the backward lets nothing through, that may be meant.
    both = (numeric.abs() > 1e-6 * scale) & (analytic != 0)
    analytic, numeric = analytic[both], numeric[both]
    gap = (analytic - numeric).abs()
    wrong = gap > WRONG * torch.maximum(analytic.abs(), numeric.abs())
    if not numeric.numel() or int(wrong.sum()) <= MOST_RIGHT * numeric.numel():
        return None
    worst = int(gap.argmax())
    ratios = analytic / numeric
    is_even = bool((ratios - ratios.mean()).abs().max() < WRONG * ratios.mean().abs())
    return WrongDerivative(
        name=kind.__name__,
        qualified=f"{kind.__module__}.{kind.__qualname__}",
        source=_find_source(kind),
        argument=index,
        checked=int(numeric.numel()),
        wrong=int(wrong.sum()),
        analytic=float(analytic[worst]),
        numeric=float(numeric[worst]),
        factor=float(ratios.mean()) if is_even else None,
        on_purpose=_is_on_purpose(kind),
    )


def _is_on_purpose(kind: Any) -> bool:
    texts = [kind.__name__, kind.__doc__ or ""]
    with contextlib.suppress(OSError, TypeError):
        texts.append(inspect.getsource(kind.backward))
    return any(_ON_PURPOSE.search(text) for text in texts)


def _judge_reversal(kind: Any, given: Tensor, made: Tensor) -> WrongDerivative | None:
    """A function that is to reverse gradients and hands them on with their sign."""
    weights = torch.randn_like(made)
    gradient = torch.autograd.grad((made * weights).sum(), given)[0]
    size = float(gradient.norm() * weights.norm())
    product = float((gradient * weights).sum()) if gradient.shape == weights.shape else 0.0
    if not size or product < EVEN * size:
        return None
    factor = product / float(weights.square().sum())
    return WrongDerivative(
        name=kind.__name__,
        qualified=f"{kind.__module__}.{kind.__qualname__}",
        source=_find_source(kind),
        argument=0,
        checked=gradient.numel(),
        wrong=gradient.numel(),
        analytic=factor,
        numeric=-factor,
        factor=factor,
        on_purpose=False,
        is_upright=True,
    )


def _find_source(kind: Any) -> str:
    code = _code_of_backward(kind)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""
