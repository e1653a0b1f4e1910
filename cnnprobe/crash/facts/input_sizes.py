"""The least input with which no window is larger than its map, found by arithmetic and trials."""

from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.facts.windows import LARGEST_INPUT, apply_windows, get_least, list_steps
from cnnprobe.crash.facts.words import count_elements
from cnnprobe.crash.model_copy import ShadowRun
from cnnprobe.crash.trials import Trials

_RESERVE = 10  # forwards that are left for the candidates


@dataclass(frozen=True, kw_only=True)
class LeastInput:
    """Sizes of an input, all alike; () where none is known."""

    sizes: tuple[int, ...] = ()
    passes: bool = False  # the whole forward does with it
    multiple: int = 1  # sizes that are no multiples of it do not pass


def find_least_input(crash: Crash, trials: Trials, n: int) -> LeastInput:
    """The least sizes of the input's last `n` dims that leave nothing too small."""
    if not crash.root_inputs or len(crash.root_inputs[0].shape) < n + 1:
        return LeastInput()
    given = crash.root_inputs[0].shape[-n:]
    low = _compute_least(crash, given) or max(given) + 1
    high, tried = low, _try(trials, low, n)
    while tried is not None and not _fits(trials, tried):
        low, high = high + 1, high * 2
        tried = _try(trials, high, n) if high <= LARGEST_INPUT else None
    if tried is None:
        return LeastInput()
    while low < high and trials.left > _RESERVE:
        middle = (low + high) // 2
        other = _try(trials, middle, n)
        if other is not None and _fits(trials, other):
            high, tried = middle, other
        else:
            low = middle + 1
    if tried.works:
        return LeastInput(sizes=(high,) * n, passes=True, multiple=_find_multiple(trials, high, n))
    double = _try(trials, 2 * high, n)  # a BatchNorm over one value, a map that is joined later
    if double is not None and double.works:
        return LeastInput(sizes=(2 * high,) * n, multiple=_find_multiple(trials, 2 * high, n))
    return LeastInput(sizes=(high,) * n)


def _find_multiple(trials: Trials, size: int, n: int) -> int:
    """The least power of two whose multiples alone pass; 1 where every size from here on does."""
    step = 1
    while size % step == 0 and trials.left > _RESERVE:
        if (outcome := _try(trials, size + step, n)) is None or outcome.works:
            return step if outcome is not None else 1
        step *= 2
    return 1


def _try(trials: Trials, size: int, n: int) -> ShadowRun | None:
    return trials.run([resize_input((size,) * n)])


def _follow(trials: Trials, outcome: ShadowRun) -> Crash:
    """The crash of a trial."""
    error = outcome.error or trials.crash.error
    return Crash(error=error, trace=outcome.trace, model=trials.crash.model)


def _fits(trials: Trials, outcome: ShadowRun) -> bool:
    """Whether no map was too small, whatever else may have failed."""
    crash = _follow(trials, outcome)
    if (call := crash.call) is None or not call.inputs:
        return outcome.trace.failure is None or call is not None
    least = get_least(crash, call)
    sizes = call.inputs[0].shape[len(call.inputs[0].shape) - len(least) :]
    return all(size >= wanted for size, wanted in zip(sizes, least, strict=False))


def _compute_least(crash: Crash, given: tuple[int, ...]) -> int | None:
    if (call := crash.call) is None:
        return None
    least, steps = get_least(crash, call), list_steps(crash, call.inputs[0])
    if steps and steps[0].before != given:
        return None
    windows, n = [step.window for step in steps], len(given)
    for size in range(min(given) + 1, LARGEST_INPUT + 1):
        sizes = apply_windows(windows, (size,) * n)
        if all(one >= wanted for one, wanted in zip(sizes, least, strict=False)):
            return size
    return None


def fit_linear(trials: Trials, least: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A larger input with which the first Linear fits as well, by arithmetic."""
    if (outcome := _try(trials, least[0], len(least))) is None or outcome.works:
        return []
    crash = _follow(trials, outcome)
    layer, steps = crash.leaf, list_steps(crash, crash.inputs[0]) if crash.inputs else []
    if not isinstance(layer, nn.Linear) or not steps:
        return []
    channels = crash.inputs[0].shape[-1] // max(count_elements(steps[-1].after), 1)
    windows = [step.window for step in steps]
    for pixels in range(least[0], LARGEST_INPUT + 1):
        sizes = (pixels,) * len(least)
        if channels * count_elements(apply_windows(windows, sizes)) == layer.in_features:
            return [sizes]
    return []
