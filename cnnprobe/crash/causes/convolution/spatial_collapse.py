"""A map that has become smaller than the kernel that is to look at it."""

from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure, resize_input
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.facts.windows import (
    LARGEST_INPUT,
    Window,
    apply_windows,
    get_call_window,
    list_steps,
)
from cnnprobe.crash.facts.words import count_elements, quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.crash.trials import Trials

_RESERVE = 10  # forwards that are left for the candidates

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
            self.pool = nn.MaxPool2d(2)

        def forward(self, x):
            for conv in self.convs:
                x = self.pool(F.relu(conv(x)))
            return x.mean((2, 3))


    model, args = Net(), (torch.randn(2, 3, 8, 8),)
    """,
    old="torch.randn(2, 3, 8, 8)",
    new="torch.randn(2, 3, 16, 16)",
    blames="pool",
    repair="at least 16 x 16",
)


@cause(code="CP021", name="spatial-collapse", prior=680, examples=EXAMPLE)
def spatial_collapse(crash: Crash) -> Iterator[Suspect]:
    """The map has become smaller than the kernel that is to look at it.

    Why it happens: every pooling and every stride of 2 halves the map. A network for images of 224
    pixels has nothing left of an image of 32.
    What to do: give larger images, take a pooling out, or pad the convolution.
    Known exceptions: the adaptive poolings take a map of any size.
    Source: the shape formulas of https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
    """
    call = crash.call
    window = get_call_window(crash, call) if call is not None else None
    if crash.trials is None or call is None or window is None or not call.inputs:
        return
    shape, n = call.inputs[0].shape, len(window.kernel)
    if not n or len(shape) < n + 1 or _is_padding_wrong(window):
        return
    sizes = shape[-n:]
    if min(window.output(sizes)) < 1:
        yield _suspect_size(crash, crash.trials, window, sizes)


def _is_padding_wrong(window: Window) -> bool:
    pairs = zip(window.padding, window.kernel, strict=True)
    return window.is_pool and any(p > k for p, k in pairs)


def _suspect_size(crash: Crash, trials: Trials, window: Window, sizes: tuple[int, ...]) -> Suspect:
    call = crash.call
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    least = _find_least(crash, trials, len(sizes))
    valid = f"; the least valid input is {_join(least)}" if least else ""
    what = crash.describe_call(call) if call is not None else "the call"
    fqn = call.fqn if call is not None else None
    return Suspect(
        module=fqn if fqn is not None else crash.owner,
        message=f"the map is smaller than the kernel: {what} needs {_join(reach)} but got "
        f"{_join(sizes)}{valid}",
        arithmetic="; ".join(_write_formula(window, i, n) for i, n in enumerate(sizes)),
        candidates=(*_enlarge_input(crash, trials, least), *_change_layer(fqn, window, crash)),
        weight=STRONG,
    )


def _write_formula(window: Window, i: int, n: int) -> str:
    reach, out = window.dilation[i] * (window.kernel[i] - 1), window.output((n,) * (i + 1))[i]
    return f"floor(({n} + {window.padding[i]} - {reach} - 1)/{window.stride[i]} + 1) = {out}"


def _join(sizes: tuple[int, ...]) -> str:
    """4 x 4."""
    return " x ".join(map(str, sizes))


def _enlarge_input(
    crash: Crash, trials: Trials, least: tuple[int, ...] | None
) -> Iterator[Candidate]:
    if not least:
        return
    # What is large enough stays: a clip of 8 x 64 x 64 may be too short, and is not too small.
    kept = tuple(map(max, least, crash.root_inputs[0].shape[-len(least) :]))
    yield propose(resize_input(kept), weight=STRONG)
    if kept != least:
        yield propose(resize_input(least), weight=USUAL)
    for size in _fit_linear(trials, least):
        yield propose(resize_input(size), weight=USUAL)


def _change_layer(fqn: str | None, window: Window, crash: Crash) -> Iterator[Candidate]:
    if fqn is not None and window.is_pool:
        edit = Remove(title=f"take the pooling {quote(fqn)} out", module=fqn)
        yield propose(edit, weight=POSSIBLE)
    elif fqn is not None and all(k % 2 for k in window.kernel):
        padding = tuple(k // 2 for k in window.kernel)
        yield propose(configure(crash, fqn, padding=padding), weight=POSSIBLE)


# -- the least input -------------------------------------------------------------------------------


def _find_least(crash: Crash, trials: Trials, n: int) -> tuple[int, ...] | None:
    """The least input for which no window is larger than its map.

    It is found by arithmetic where the path is known, else by trial.
    """
    if not crash.root_inputs or len(crash.root_inputs[0].shape) < n + 1:
        return None
    given = crash.root_inputs[0].shape[-n:]
    low = _compute_least(crash, given) or max(given) + 1
    high = low
    while high <= LARGEST_INPUT and (fits := _fits(trials, high, given)) is not None:
        if fits:
            break
        low, high = high + 1, high * 2
    else:
        return None
    while low < high and trials.left > _RESERVE:
        middle = (low + high) // 2
        if _fits(trials, middle, given):
            high = middle
        else:
            low = middle + 1
    return (max(high, 1),) * n


def _compute_least(crash: Crash, given: tuple[int, ...]) -> int | None:
    call = crash.call
    window = get_call_window(crash, call) if call is not None else None
    if call is None or window is None:
        return None
    steps = list_steps(crash, call.inputs[0])
    if steps and steps[0].before != given:
        return None
    chain = [*(step.window for step in steps), window]
    sizes = range(min(given) + 1, LARGEST_INPUT + 1)
    return next((n for n in sizes if min(apply_windows(chain, (n,) * len(given))) >= 1), None)


def _fits(trials: Trials, pixels: int, given: tuple[int, ...]) -> bool | None:
    """Whether no window is larger than its map with this input; None where it was not tried."""
    outcome = trials.run([resize_input((pixels,) * len(given))])
    if outcome is None:
        return None
    failure = outcome.trace.failure
    if failure is None or failure.call is None:
        return failure is None
    call = outcome.trace.calls[failure.call]
    tried = Crash(error=trials.crash.error, trace=outcome.trace, model=trials.crash.model)
    window = get_call_window(tried, call)
    if window is None or window.adaptive or not call.inputs:
        return True
    return min(window.output(call.inputs[0].shape[-len(window.kernel) :])) >= 1


def _fit_linear(trials: Trials, least: tuple[int, ...]) -> list[tuple[int, ...]]:
    """A larger input with which the first Linear fits as well, by arithmetic."""
    outcome = trials.run([resize_input(least)])
    if outcome is None or outcome.works or outcome.trace.failure is None:
        return []
    crash = Crash(error=trials.crash.error, trace=outcome.trace, model=trials.crash.model)
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
