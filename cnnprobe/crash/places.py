"""A table of positions (or another parameter of the user's own) that does not fit what it is added to: the table, the patches or the image."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.crash.adapting import configured, reshaped_parameter, resized
from cnnprobe.crash.case import Case, named, operation, size
from cnnprobe.crash.edits import Edit
from cnnprobe.crash.geometry import LARGEST_INPUT, Step, steps_to, through, window_of_call
from cnnprobe.crash.suspicion import STRONG, Suspicion, candidate
from cnnprobe.trace import ModuleCall, TensorInfo

_MOST_TOKENS = 2  # before the patches: a class token, and that of a distillation as in DeiT


def parameter_mismatch(
    case: Case, call: ModuleCall, owned: TensorInfo, x: TensorInfo
) -> Iterator[Suspicion]:
    """What may be wrong where a parameter does not fit a tensor in an elementwise operation."""
    owner = case.owner_of_parameter(str(owned.source))
    wanted = _fitting(owned.shape, x.shape)
    edits = [reshaped_parameter(case, owned.source, wanted)]
    mould = Suspicion(
        diagnosis="shape-mismatch",
        module=owner,
        message=f"the parameter '{owned.source}' of shape {owned.shape} does not fit {x.shape} in {call.kind}",
        arithmetic=f"{x.shape} from {case.origin(x)}; '{owned.source}' should have the sizes {wanted}",
        weight=STRONG,
    )
    patches = (
        _patches_of(case, x)
        if len(owned.shape) == 3 == len(x.shape) and wanted[1] != owned.shape[1]
        else None
    )
    if patches is not None:
        yield from _other_patches(case, patches, owned.shape[1], mould)
        edits.append(_other_image(patches, owned.shape[1]))
    yield replace(mould, candidates=tuple(candidate(edit) for edit in edits if edit is not None))


def _fitting(shape: tuple[int, ...], x: tuple[int, ...]) -> tuple[int, ...]:
    aligned = x[-len(shape) :] if len(shape) <= len(x) else (*shape[: len(shape) - len(x)], *x)
    return tuple(1 if n == 1 else m for n, m in zip(shape, aligned, strict=True))


@dataclass(frozen=True, kw_only=True)
class _Patches:
    """The windows that cut an image into the patches of a sequence, which has `extra` tokens before them."""

    steps: list[Step]
    extra: int


def _patches_of(case: Case, x: TensorInfo) -> _Patches | None:
    """How a sequence came from the image that the model was given; None where it did not."""
    producer = case.producer(x)
    patches = (
        max(producer.inputs, key=lambda t: size(t.shape))
        if producer is not None and operation(producer) in ("cat", "concat")
        else x
    )
    way = [
        patches,
        *(t for _, call in case.lineage(patches) for t in call.inputs),
    ]  # the map before it was flattened and turned
    patches = next(
        (
            t
            for t in way
            if (made := case.producer(t)) is not None and window_of_call(case, made) is not None
        ),
        patches,
    )
    steps = [s for s in steps_to(case, patches) if s.window is not None]
    if not steps or not case.root_inputs or steps[0].before != case.root_inputs[0].shape[2:]:
        return None
    extra = x.shape[1] - size(steps[-1].after)
    return _Patches(steps=steps, extra=extra) if 0 <= extra <= _MOST_TOKENS else None


def _other_patches(
    case: Case, found: _Patches, wanted: int, mould: Suspicion
) -> Iterator[Suspicion]:
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
                size(through([*windows[:i], changed, *windows[i + 1 :]], found.steps[0].before))
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
                message=f"{mould.message}; with {texts} in {named(case, step.call.fqn)} there are as many patches as it has places",
                candidates=(candidate(configured(case, step.call.fqn, **settings), weight=STRONG),),
                needs_proof=True,
            )


def _other_image(found: _Patches, wanted: int) -> Edit | None:
    """The square input whose map has so many places that, with the tokens put before them, they fit a table of `wanted` of them."""
    windows, n = [s.window for s in found.steps], len(found.steps[0].before)
    places = wanted - found.extra
    fitting = [p for p in range(1, LARGEST_INPUT + 1) if size(through(windows, (p,) * n)) == places]
    # Of the sizes that do, the one that halves most often: 64 rather than 60.
    return resized((max(fitting, key=lambda p: (p & -p, -p)),) * n, exact=True) if fitting else None
