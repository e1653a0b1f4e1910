"""Branches that are joined and differ: which one convolution or pooling on their ways would have to be another for them to fit."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.windows import (
    Window,
    apply_windows,
    get_window,
    list_steps,
    list_variants,
)
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Suspect, propose
from cnnprobe.trace import TensorInfo

_STRIDES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Odd:
    """A layer whose change makes a branch fit, and how well that is founded."""

    fqn: str
    settings: dict[str, Any]
    weight: int


def odd_windows(crash: Crash, parts: Sequence[TensorInfo], mould: Suspect) -> Iterator[Suspect]:
    """One suspicion for each layer that alone makes the sizes of the parts differ."""
    since = _parting(crash, parts)
    sizes = [t.shape[2:] for t in parts]
    counted = Counter(sizes).most_common(2)
    usual = (
        counted[0][0]
        if len(parts) > 2 and (len(counted) < 2 or counted[0][1] > counted[1][1])
        else None
    )
    found: list[Odd] = []
    for info in parts:
        others = (
            [s for s in dict.fromkeys(sizes) if s != info.shape[2:]] if usual is None else [usual]
        )
        for target in others:
            if info.shape[2:] != target:
                found += [
                    *fitting(crash, info, target, since=since),
                    *_rescaled(crash, info, target, since),
                ]
    for odd in sorted(found, key=lambda one: (-one.weight, len(one.settings))):
        texts = ", ".join(f"{name}={value!r}" for name, value in odd.settings.items())
        yield replace(
            mould,
            module=odd.fqn,
            message=f"{mould.message}; with {texts} in {describe_module(crash, odd.fqn)} they would",
            candidates=(propose(configure(crash, odd.fqn, **odd.settings), weight=odd.weight),),
            weight=odd.weight,
        )


def _rescaled(crash: Crash, info: TensorInfo, target: tuple[int, ...], since: int) -> Iterator[Odd]:
    """The nn.Upsample of a branch with the factor that brings it to the target's size, where nothing after it changes the size."""
    for index, row in crash.walk_back(info):
        layer = crash.modules.get(row.fqn or "") if row.fqn else None
        if index <= since or not row.outputs or row.outputs[0].shape[2:] != info.shape[2:]:
            return
        if isinstance(layer, nn.Upsample) and layer.scale_factor is not None and row.inputs:
            before = row.inputs[0].shape[2:]
            factors = {b // a for a, b in zip(before, target, strict=True) if a and b % a == 0}
            exact = len(factors) == 1 and all(
                b % a == 0 for a, b in zip(before, target, strict=True)
            )
            if exact and len(before) == len(target):
                yield Odd(
                    fqn=row.fqn or "", settings={"scale_factor": factors.pop()}, weight=STRONG
                )
            return


def _parting(crash: Crash, parts: Sequence[TensorInfo]) -> int:
    """Index of the latest call that all the parts come from; -1 where there is none."""
    ways = [{i for i, _ in crash.walk_back(t)} for t in parts]
    return max(set.intersection(*ways), default=-1) if ways else -1


def fitting(
    crash: Crash, info: TensorInfo, target: tuple[int, ...], *, since: int = -1
) -> Iterator[Odd]:
    """The single changes of a layer after the parting that bring a branch to the target's size."""
    rows = {id(call): i for i, call in enumerate(crash.trace.calls)}
    steps = [
        s
        for s in list_steps(crash, info)
        if s.window is not None and rows.get(id(s.call), -1) > since
    ]
    windows = [s.window for s in steps]
    if not steps or len(steps[0].before) != len(target):
        return
    for i, step in enumerate(steps):
        window = step.window
        if window is None or window.adaptive or step.call.fqn is None:
            continue
        siblings = [w for j, w in enumerate(windows) if j != i and w is not None]
        siblings += _transposed(crash) if window.transposed else []
        seen: list[dict[str, Any]] = []
        for changed, settings, weight in _changes(window, siblings):
            if (
                settings not in seen
                and apply_windows([*windows[:i], changed, *windows[i + 1 :]], steps[0].before)
                == target
            ):
                seen.append(settings)
                yield Odd(fqn=step.call.fqn, settings=settings, weight=weight)


def _changes(
    window: Window, siblings: list[Window]
) -> Iterator[tuple[Window, dict[str, Any], int]]:
    for changed, settings in list_variants(window, siblings):
        yield changed, settings, USUAL if "stride" in settings and not window.transposed else STRONG
    if window.transposed:
        yield from _multiplying(window)
        return
    if (
        window.is_pool
        and all(k > s for k, s in zip(window.kernel, window.stride, strict=True))
        and not any(window.padding)
    ):
        # One that halves needs its padding, or a kernel that is no larger than its step.
        half = tuple(k // 2 for k in window.kernel)
        yield (
            replace(window, padding=tuple(2 * n for n in half)),
            {"padding": half[0] if len(set(half)) == 1 else half},
            STRONG,
        )
        step = window.stride
        yield (
            replace(window, kernel=step),
            {"kernel_size": step[0] if len(set(step)) == 1 else step},
            STRONG,
        )
    for stride in _STRIDES:
        if (stride,) * len(window.kernel) != window.stride:
            # A projection of 1x1 has no other way to change the size; a stride elsewhere is as likely to be meant.
            weight = STRONG if all(k == 1 for k in window.kernel) else USUAL
            yield replace(window, stride=(stride,) * len(window.kernel)), {"stride": stride}, weight


def _transposed(crash: Crash) -> list[Window]:
    """The geometry of every transposed convolution of the model: a decoder's are alike as a rule, and those after a crash did not run."""
    return [
        w
        for m in crash.modules.values()
        if not m._modules and (w := get_window(m)) is not None and w.transposed
    ]


def _multiplying(window: Window) -> Iterator[tuple[Window, dict[str, Any], int]]:
    """Single changes of a transposed convolution: first those after which it gives exactly its stride times its input."""
    n = len(window.kernel)
    for extra in range(1, max(window.stride)):
        added = (extra,) * n
        yield (
            replace(window, extra=added),
            {"output_padding": extra},
            STRONG if added == window.lacking else POSSIBLE,
        )
    if any(
        len(set(one)) > 1 for one in (window.kernel, window.stride, window.padding, window.extra)
    ) or set(window.dilation) != {1}:
        return
    kernel, stride, padding, extra = (
        window.kernel[0],
        window.stride[0],
        window.padding[0],
        window.extra[0],
    )
    fitting = kernel - stride + extra  # the padding on both sides together
    if fitting >= 0 and fitting % 2 == 0 and fitting != padding:
        yield replace(window, padding=(fitting,) * n), {"padding": fitting // 2}, STRONG
    if 0 < stride + padding - extra != kernel:
        yield (
            replace(window, kernel=(stride + padding - extra,) * n),
            {"kernel_size": stride + padding - extra},
            STRONG,
        )
    wanted = kernel - padding + extra
    if wanted > stride:
        yield replace(window, stride=(wanted,) * n), {"stride": wanted}, STRONG


def lacking_padding(crash: Crash, info: TensorInfo, target: tuple[int, ...]) -> list[Odd]:
    """The transposed convolutions on the way to a tensor that do not multiply their input exactly, where all of them together make the difference."""
    steps = [s for s in list_steps(crash, info) if s.window is not None]
    windows = [s.window for s in steps if s.window is not None]
    odd = [
        i
        for i, w in enumerate(windows)
        if w.lacking and len(set(w.lacking)) == 1 and steps[i].call.fqn is not None
    ]
    changed = [replace(w, extra=w.lacking) if i in odd else w for i, w in enumerate(windows)]
    if (
        not odd
        or len(steps[0].before) != len(target)
        or apply_windows(changed, steps[0].before) != target
    ):
        return []
    return [
        Odd(
            fqn=steps[i].call.fqn or "",
            settings={"output_padding": windows[i].lacking[0]},
            weight=STRONG,
        )
        for i in odd
    ]


def odd_channels(
    crash: Crash, shortcut: TensorInfo, branch: TensorInfo, mould: Suspect
) -> Iterator[Suspect]:
    """The last layer of a branch that could give as many channels as the other has, with the normalisation after it."""
    if shortcut.shape[1:2] == branch.shape[1:2] or shortcut.shape[2:] != branch.shape[2:]:
        return
    since = _parting(crash, (shortcut, branch))
    later = _written_for(crash, (shortcut.shape[1], branch.shape[1]))
    for info, wanted, usual in (
        (shortcut, branch.shape[1], STRONG),
        (branch, shortcut.shape[1], POSSIBLE),
    ):
        weight = usual if later is None else STRONG if later == wanted else POSSIBLE
        edits = made_with(crash, info, wanted, since=since)
        if edits:
            yield replace(
                mould,
                module=edits[0].module,
                message=f"{mould.message}; with {edits[0].code} in {describe_module(crash, edits[0].module or '')} they would",
                candidates=(propose(*edits, weight=weight),),
                weight=weight,
            )


def other_maker(
    crash: Crash, info: TensorInfo, wanted: int, *, module: str, diagnosis: str
) -> Iterator[Suspect]:
    """The layer that decides the channels of what arrives may be the wrong one, rather than `module`, which was written for `wanted`."""
    edits = made_with(crash, info, wanted)
    if edits:
        yield Suspect(
            diagnosis=diagnosis,
            module=edits[0].module,
            message=f"{describe_module(crash, edits[0].module or '')} gives {info.shape[1]} channels, and {describe_module(crash, module)} was written for {wanted}",
            arithmetic=f"wanted {wanted}, arrived {info.shape}",
            candidates=(propose(*edits, weight=POSSIBLE),),
            weight=POSSIBLE,
            needs_proof=True,
        )


def made_with(crash: Crash, info: TensorInfo, wanted: int, *, since: int = -1) -> list[Edit]:
    """What gives a tensor another number of channels: that of the layer that decides it, and of the BatchNorms after that; nothing where it is unknown."""
    found = _maker_of_channels(crash, info, since)
    if found is None:
        return []
    fqn, norms = found
    name = "out_features" if isinstance(crash.modules[fqn], nn.Linear) else "out_channels"
    return [
        configure(crash, fqn, **{name: wanted}),
        *(configure(crash, norm, num_features=wanted) for norm in norms),
    ]


def _maker_of_channels(crash: Crash, info: TensorInfo, since: int) -> tuple[str, list[str]] | None:
    """The layer after the parting that decides how many channels a tensor has, and the BatchNorms between."""
    norms: list[str] = []
    for index, row in crash.walk_back(info):
        layer = crash.modules.get(row.fqn) if row.fqn is not None else None
        keeps = bool(row.outputs) and row.outputs[0].shape[1:2] == info.shape[1:2]
        if index <= since:
            return None
        if row.fqn is None and len([t for t in row.inputs if t.shape]) == 1 and keeps:
            continue  # an activation or an interpolation
        if layer is None:
            return None
        if isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.modules.conv._ConvNd) and get_window(layer) is not None
        ):
            return row.fqn or "", norms
        if layer._modules or not keeps:
            return None
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            norms.append(row.fqn or "")
    return None


def _written_for(crash: Crash, counts: tuple[int, int]) -> int | None:
    """Which of two numbers of channels the first layer after a block was written for; None where it was for neither, or the block is the model."""
    names = list(crash.modules)
    inside = (
        [i for i, name in enumerate(names) if name.startswith(f"{crash.owner}.")]
        if crash.owner
        else []
    )
    for name in names[inside[-1] + 1 :] if inside else ():
        for setting in ("in_channels", "in_features", "num_features"):
            count = getattr(crash.modules[name], setting, None)
            if isinstance(count, int):
                return count if count in counts else None
    return None
