"""A table of positions (or another parameter of the user's own) that does not fit what it is added to: the table, the patches or the image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure, reshape_parameter, resize_input
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.windows import (
    LARGEST_INPUT,
    Step,
    apply_windows,
    get_call_window,
    list_steps,
)
from cnnprobe.crash.facts.words import count_elements, operation
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo

_MOST_TOKENS = 2  # before the patches: a class token, and that of a distillation as in DeiT


def parameter_mismatch(
    crash: Crash, call: ModuleCall, owned: TensorInfo, x: TensorInfo
) -> Iterator[Suspect]:
    """What may be wrong where a parameter does not fit a tensor in an elementwise operation."""
    owner = crash.owner_of_parameter(str(owned.source))
    wanted = _fitting(owned.shape, x.shape)
    edits = [reshape_parameter(crash, owned.source, wanted)]
    mould = Suspect(
        diagnosis="shape-mismatch",
        module=owner,
        message=f"the parameter '{owned.source}' of shape {owned.shape} does not fit {x.shape} in {call.kind}",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}; '{owned.source}' should have the sizes {wanted}",
        weight=STRONG,
    )
    patches = (
        _patches_of(crash, x)
        if len(owned.shape) == 3 == len(x.shape) and wanted[1] != owned.shape[1]
        else None
    )
    if patches is not None:
        yield from _other_patches(crash, patches, owned.shape[1], mould)
        edits.append(_other_image(patches, owned.shape[1]))
    yield replace(mould, candidates=tuple(propose(edit) for edit in edits if edit is not None))


def _fitting(shape: tuple[int, ...], x: tuple[int, ...]) -> tuple[int, ...]:
    aligned = x[-len(shape) :] if len(shape) <= len(x) else (*shape[: len(shape) - len(x)], *x)
    return tuple(1 if n == 1 else m for n, m in zip(shape, aligned, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Patches:
    """The windows that cut an image into the patches of a sequence, which has `extra` tokens before them."""

    steps: list[Step]
    extra: int


def _patches_of(crash: Crash, x: TensorInfo) -> _Patches | None:
    """How a sequence came from the image that the model was given; None where it did not."""
    producer = crash.find_producer(x)
    patches = (
        max(producer.inputs, key=lambda t: count_elements(t.shape))
        if producer is not None and operation(producer) in ("cat", "concat")
        else x
    )
    way = [
        patches,
        *(t for _, call in crash.walk_back(patches) for t in call.inputs),
    ]  # the map before it was flattened and turned
    patches = next(
        (
            t
            for t in way
            if (made := crash.find_producer(t)) is not None
            and get_call_window(crash, made) is not None
        ),
        patches,
    )
    steps = [s for s in list_steps(crash, patches) if s.window is not None]
    if not steps or not crash.root_inputs or steps[0].before != crash.root_inputs[0].shape[2:]:
        return None
    extra = x.shape[1] - count_elements(steps[-1].after)
    return _Patches(steps=steps, extra=extra) if 0 <= extra <= _MOST_TOKENS else None


def _other_patches(crash: Crash, found: _Patches, wanted: int, mould: Suspect) -> Iterator[Suspect]:
    """A convolution whose patches overlap, or leave pixels out, where side by side they would be as many as the table has places."""
    windows = [s.window for s in found.steps]
    for i, step in enumerate(found.steps):
        window = step.window
        if (
            window is None
            or window.adaptive
            or window.transposed
            or step.call.fqn is None
            or window.kernel == window.stride
        ):
            continue
        plain = replace(
            window, padding=(0,) * len(window.kernel), dilation=(1,) * len(window.kernel)
        )
        unpadded: dict[str, Any] = {"padding": 0} if any(window.padding) else {}
        for kernel, changes in (
            (window.kernel, {"stride": window.kernel}),
            (window.stride, {"kernel_size": window.stride}),
        ):
            changed = replace(plain, kernel=kernel, stride=kernel)
            if (
                count_elements(
                    apply_windows([*windows[:i], changed, *windows[i + 1 :]], found.steps[0].before)
                )
                != wanted - found.extra
            ):
                continue
            settings = {
                name: value[0] if len(set(value)) == 1 else value for name, value in changes.items()
            } | unpadded
            texts = ", ".join(f"{name}={value!r}" for name, value in settings.items())
            yield replace(
                mould,
                module=step.call.fqn,
                message=f"{mould.message}; with {texts} in {describe_module(crash, step.call.fqn)} there are as many patches as it has places",
                candidates=(propose(configure(crash, step.call.fqn, **settings), weight=STRONG),),
                needs_proof=True,
            )


def _other_image(found: _Patches, wanted: int) -> Edit | None:
    """The square input whose map has so many places that, with the tokens put before them, they fit a table of `wanted` of them."""
    windows, n = [s.window for s in found.steps], len(found.steps[0].before)
    places = wanted - found.extra
    fitting = [
        p
        for p in range(1, LARGEST_INPUT + 1)
        if count_elements(apply_windows(windows, (p,) * n)) == places
    ]
    # Of the sizes that do, the one that halves most often: 64 rather than 60.
    return (
        resize_input((max(fitting, key=lambda p: (p & -p, -p)),) * n, exact=True)
        if fitting
        else None
    )
