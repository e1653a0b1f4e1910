"""Branches that are joined and differ in size: which one layer would have to be another."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import configure, configure_alike
from cnnprobe.crash.edits.layers import Reconfigure
from cnnprobe.crash.facts.windows import (
    Window,
    apply_windows,
    get_window,
    list_steps,
    list_variants,
)
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, blame, propose
from cnnprobe.records.trace import TensorInfo

_STRIDES = (1, 2, 3, 4)
_Variant = tuple[Window, dict[str, Any], int]  # with the settings that make it, and its weight


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Other settings of one layer that make a branch fit, and how well that is founded."""

    fqn: str
    settings: dict[str, Any]
    weight: int

    @property
    def text(self) -> str:
        """padding=1, stride=2."""
        return ", ".join(f"{name}={value!r}" for name, value in self.settings.items())

    def to_edit(self, crash: Crash) -> Reconfigure:
        """The edit that sets them."""
        return configure(crash, self.fqn, **self.settings)

    def to_candidates(self, crash: Crash) -> tuple[Candidate, ...]:
        """That edit, and with it the same one in the later blocks of its class."""
        every = configure_alike(crash, self.fqn, **self.settings)
        sets = (every[:1], every) if len(every) > 1 else (every,)
        return tuple(propose(*edits, weight=self.weight) for edits in sets)


def find_fork(crash: Crash, parts: Sequence[TensorInfo]) -> int:
    """Index of the latest call that all the parts come from; -1 where there is none."""
    ways = [{i for i, _ in crash.walk_back(t)} for t in parts]
    return max(set.intersection(*ways), default=-1) if ways else -1


def refit_parts(crash: Crash, parts: Sequence[TensorInfo]) -> list[Refit]:
    """The layers that alone make the sizes of the parts differ, the best founded first."""
    fork, sizes = find_fork(crash, parts), [t.shape[2:] for t in parts]
    (first, count), *rest = Counter(sizes).most_common(2)
    has_usual = len(parts) > 2 and (not rest or count > rest[0][1])
    targets = [first] if has_usual else list(dict.fromkeys(sizes))
    found: list[Refit] = []
    for info in parts:
        for target in targets:
            if info.shape[2:] != target:
                found += refit_size(crash, info, target, fork=fork)
                found += _refit_upsample(crash, info, target, fork)
    return sorted(found, key=lambda one: (-one.weight, len(one.settings)))


def suspect_layers(
    crash: Crash, parts: Sequence[TensorInfo], message: str, arithmetic: str
) -> Iterator[Suspect]:
    """A suspect for each layer that alone makes the sizes of the parts differ."""
    for one in refit_parts(crash, parts):
        yield blame(
            one.fqn,
            f"{message}; with {one.text} in {crash.describe_module(one.fqn)} they fit",
            *one.to_candidates(crash),
            arithmetic=arithmetic,
            weight=one.weight,
        )


def _refit_upsample(
    crash: Crash, info: TensorInfo, target: tuple[int, ...], fork: int
) -> Iterator[Refit]:
    """The last nn.Upsample of a branch with the factor that brings it to the target's size."""
    for index, row in crash.walk_back(info):
        layer = crash.modules.get(row.fqn or "") if row.fqn else None
        if index <= fork or not row.outputs or row.outputs[0].shape[2:] != info.shape[2:]:
            return
        if isinstance(layer, nn.Upsample) and layer.scale_factor is not None and row.inputs:
            pairs = list(zip(row.inputs[0].shape[2:], target, strict=False))
            factors = {b / a for a, b in pairs if a}
            factor = factors.pop() if len(factors) == 1 else 0
            if factor and factor == int(factor):
                settings = {"scale_factor": int(factor)}
                yield Refit(fqn=row.fqn or "", settings=settings, weight=STRONG)
            return


def refit_size(
    crash: Crash, info: TensorInfo, target: tuple[int, ...], *, fork: int = -1
) -> Iterator[Refit]:
    """The single changes of a layer after the fork that bring a branch to the target's size."""
    rows = {id(call): i for i, call in enumerate(crash.trace.calls)}
    steps = [s for s in list_steps(crash, info) if rows.get(id(s.call), -1) > fork]
    windows = [s.window for s in steps]
    if not steps or len(steps[0].before) != len(target):
        return
    for i, step in enumerate(steps):
        if (window := step.window).adaptive or step.call.fqn is None:
            continue
        others = [*windows[:i], *windows[i + 1 :]]
        siblings = [w for w in others if w.is_pool == window.is_pool]
        siblings += _list_transposed(crash) if window.transposed else []
        seen: list[dict[str, Any]] = []
        for changed, settings, weight in _vary(window, siblings):
            chain = [*windows[:i], changed, *windows[i + 1 :]]
            if settings not in seen and apply_windows(chain, steps[0].before) == target:
                seen.append(settings)
                yield Refit(fqn=step.call.fqn, settings=settings, weight=weight)


def _vary(window: Window, siblings: list[Window]) -> Iterator[_Variant]:
    """Single changes of a window, each with the layer's settings."""
    for changed, settings in list_variants(window, siblings):
        yield changed, settings, USUAL if "stride" in settings and not window.transposed else STRONG
    if window.transposed:
        yield from _vary_transposed(window)
        return
    is_overlapping = all(k > s for k, s in zip(window.kernel, window.stride, strict=True))
    if window.is_pool and is_overlapping and not any(window.padding):
        # One that halves needs its padding, or a kernel that is no larger than its step.
        half, step = tuple(k // 2 for k in window.kernel), window.stride
        padded = replace(window, padding=tuple(2 * n for n in half))
        yield padded, {"padding": _shorten(half)}, STRONG
        if max(step) > 1:  # a window of 1 would pool nothing
            yield replace(window, kernel=step), {"kernel_size": _shorten(step)}, STRONG
    for stride in _STRIDES:
        strides = (stride,) * len(window.kernel)
        if strides != window.stride:
            # A projection of 1x1 has no other way to change the size.
            weight = STRONG if all(k == 1 for k in window.kernel) else USUAL
            yield replace(window, stride=strides), {"stride": stride}, weight


def _shorten(sizes: tuple[int, ...]) -> Any:
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _list_transposed(crash: Crash) -> list[Window]:
    """The windows of all transposed convolutions: a decoder's are alike as a rule."""
    found = [get_window(m) for m in crash.modules.values() if not m._modules]
    return [w for w in found if w is not None and w.transposed]


def _vary_transposed(window: Window) -> Iterator[_Variant]:
    """First the changes after which it gives exactly its stride times its input."""
    n = len(window.kernel)
    for extra in range(1, max(window.stride)):
        weight = STRONG if (extra,) * n == window.lacking else POSSIBLE
        yield replace(window, extra=(extra,) * n), {"output_padding": extra}, weight
    per_dim = (window.kernel, window.stride, window.padding, window.extra)
    if any(len(set(one)) > 1 for one in per_dim) or set(window.dilation) != {1}:
        return
    kernel, stride, padding, extra = (one[0] for one in per_dim)
    both = kernel - stride + extra  # the padding on both sides together
    if both >= 0 and both % 2 == 0 and both != padding:
        yield replace(window, padding=(both,) * n), {"padding": both // 2}, STRONG
    if 0 < (wanted := stride + padding - extra) != kernel:
        yield replace(window, kernel=(wanted,) * n), {"kernel_size": wanted}, STRONG
    if (wanted := kernel - padding + extra) > stride:
        yield replace(window, stride=(wanted,) * n), {"stride": wanted}, STRONG


def refit_every_upsampling(crash: Crash, info: TensorInfo, target: tuple[int, ...]) -> list[Refit]:
    """The output_padding of all transposed convolutions that do not multiply their input exactly.

    Nothing, where the tensor would not have the target's size with it.
    """
    steps = [(s, s.window) for s in list_steps(crash, info)]
    odd = [(s, w) for s, w in steps if len(set(w.lacking)) == 1 and s.call.fqn is not None]
    changed = [replace(w, extra=w.lacking) if (s, w) in odd else w for s, w in steps]
    before = steps[0][0].before if steps else ()
    if not odd or len(before) != len(target) or apply_windows(changed, before) != target:
        return []
    return [
        Refit(fqn=s.call.fqn or "", settings={"output_padding": w.lacking[0]}, weight=STRONG)
        for s, w in odd
    ]
