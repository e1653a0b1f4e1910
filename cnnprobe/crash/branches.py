"""Branches that are joined and differ: which one convolution or pooling on their ways would have to be another for them to fit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash.adapting import configured, resized
from cnnprobe.crash.case import Case, named, operation, size
from cnnprobe.crash.edits import Edit
from cnnprobe.crash.geometry import LARGEST_INPUT, Window, steps_to, through, variants, window_of, window_of_call
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Suspicion, candidate
from cnnprobe.trace import TensorInfo

_STRIDES = (1, 2, 3, 4)
_MOST_TOKENS = 2  # before the patches: a class token, and that of a distillation as in DeiT


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A layer whose change makes a branch fit, and how well that is founded."""

    fqn: str
    settings: dict[str, Any]
    weight: int


def odd_windows(case: Case, parts: Sequence[TensorInfo], mould: Suspicion) -> Iterator[Suspicion]:
    """One suspicion for each layer that alone makes the sizes of the parts differ."""
    since = _parting(case, parts)
    sizes = [t.shape[2:] for t in parts]
    counted = Counter(sizes).most_common(2)
    usual = counted[0][0] if len(parts) > 2 and (len(counted) < 2 or counted[0][1] > counted[1][1]) else None
    found: list[Odd] = []
    for info in parts:
        others = [s for s in dict.fromkeys(sizes) if s != info.shape[2:]] if usual is None else [usual]
        for target in others:
            if info.shape[2:] != target:
                found += fitting(case, info, target, since=since)
    for odd in sorted(found, key=lambda one: (-one.weight, len(one.settings))):
        texts = ", ".join(f"{name}={value!r}" for name, value in odd.settings.items())
        yield replace(
            mould,
            module=odd.fqn,
            message=f"{mould.message}; with {texts} in {named(case, odd.fqn)} they would",
            candidates=(candidate(configured(case, odd.fqn, **odd.settings), weight=odd.weight),),
            weight=odd.weight,
        )


def _parting(case: Case, parts: Sequence[TensorInfo]) -> int:
    """Index of the latest call that all the parts come from; -1 where there is none."""
    ways = [{i for i, _ in case.lineage(t)} for t in parts]
    return max(set.intersection(*ways), default=-1) if ways else -1


def fitting(case: Case, info: TensorInfo, target: tuple[int, ...], *, since: int = -1) -> Iterator[Odd]:
    """The single changes of a layer after the parting that bring a branch to the target's size."""
    rows = {id(call): i for i, call in enumerate(case.trace.calls)}
    steps = [s for s in steps_to(case, info) if s.window is not None and rows.get(id(s.call), -1) > since]
    windows = [s.window for s in steps]
    if not steps or len(steps[0].before) != len(target):
        return
    for i, step in enumerate(steps):
        window = step.window
        if window is None or window.adaptive or step.call.fqn is None:
            continue
        siblings = [w for j, w in enumerate(windows) if j != i and w is not None]
        for changed, settings, weight in _changes(window, siblings):
            if through([*windows[:i], changed, *windows[i + 1 :]], steps[0].before) == target:
                yield Odd(fqn=step.call.fqn, settings=settings, weight=weight)


def _changes(window: Window, siblings: list[Window]) -> Iterator[tuple[Window, dict[str, Any], int]]:
    for changed, settings in variants(window, siblings):
        yield changed, settings, USUAL if "stride" in settings else STRONG
    if window.transposed:
        for extra in range(1, max(window.stride)):
            added = (extra,) * len(window.kernel)
            yield replace(window, extra=added), {"output_padding": extra}, STRONG if added == window.lacking else POSSIBLE
        return
    for stride in _STRIDES:
        if (stride,) * len(window.kernel) != window.stride:
            # A projection of 1x1 has no other way to change the size; a stride elsewhere is as likely to be meant.
            weight = STRONG if all(k == 1 for k in window.kernel) else USUAL
            yield replace(window, stride=(stride,) * len(window.kernel)), {"stride": stride}, weight


def lacking_padding(case: Case, info: TensorInfo, target: tuple[int, ...]) -> list[Odd]:
    """The transposed convolutions on the way to a tensor that do not multiply their input exactly, where all of them together make the difference."""
    steps = [s for s in steps_to(case, info) if s.window is not None]
    windows = [s.window for s in steps if s.window is not None]
    odd = [i for i, w in enumerate(windows) if w.lacking and len(set(w.lacking)) == 1 and steps[i].call.fqn is not None]
    changed = [replace(w, extra=w.lacking) if i in odd else w for i, w in enumerate(windows)]
    if not odd or len(steps[0].before) != len(target) or through(changed, steps[0].before) != target:
        return []
    return [Odd(fqn=steps[i].call.fqn or "", settings={"output_padding": windows[i].lacking[0]}, weight=STRONG) for i in odd]


def input_for_places(case: Case, x: TensorInfo, wanted: int) -> Edit | None:
    """The square input whose map has so many places that, with the tokens put before them, they fit a table of `wanted` of them."""
    producer = case.producer(x)
    patches = max(producer.inputs, key=lambda t: size(t.shape)) if producer is not None and operation(producer) in ("cat", "concat") else x
    way = [patches, *(t for _, call in case.lineage(patches) for t in call.inputs)]  # the map before it was flattened and turned
    patches = next((t for t in way if (made := case.producer(t)) is not None and window_of_call(case, made) is not None), patches)
    steps = [s for s in steps_to(case, patches) if s.window is not None]
    if len(x.shape) != 3 or not steps or not case.root_inputs or steps[0].before != case.root_inputs[0].shape[2:]:
        return None
    windows, n, places = [s.window for s in steps], len(steps[0].before), size(steps[-1].after)
    extra = x.shape[1] - places
    if not 0 <= extra <= _MOST_TOKENS:
        return None
    pixels = next((p for p in range(1, LARGEST_INPUT + 1) if size(through(windows, (p,) * n)) == wanted - extra), None)
    return resized((pixels,) * n, exact=True) if pixels is not None else None


def odd_channels(case: Case, shortcut: TensorInfo, branch: TensorInfo, mould: Suspicion) -> Iterator[Suspicion]:
    """The last layer of a branch that could give as many channels as the other has."""
    if shortcut.shape[1:2] == branch.shape[1:2] or shortcut.shape[2:] != branch.shape[2:]:
        return
    since = _parting(case, (shortcut, branch))
    for info, wanted, weight in ((shortcut, branch.shape[1], STRONG), (branch, shortcut.shape[1], POSSIBLE)):
        for index, row in case.lineage(info):
            layer = case.modules.get(row.fqn) if row.fqn is not None else None
            if index <= since or layer is None:
                break
            is_conv = isinstance(layer, nn.modules.conv._ConvNd) and window_of(layer) is not None
            if is_conv or isinstance(layer, nn.Linear):
                edit = configured(case, row.fqn or "", **{"out_channels" if is_conv else "out_features": wanted})
                yield replace(mould, module=row.fqn, candidates=(candidate(edit, weight=weight),), weight=weight)
                break
            if layer._modules or row.outputs[0].shape[1:2] != info.shape[1:2]:
                break
