"""What a transform of images was doing when it raised, alone or in a Compose."""

import ast
import copy
import sys
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import list_frames, read_names, walk_expression

_TO_TENSOR = ("ToTensor", "ToImage", "PILToTensor")
_BYTES = ("PILToTensor", "ToImage")  # they keep uint8
# Source: the page of each transform of torchvision; the others take images and tensors.
_OF_TENSORS = (
    "Normalize", "RandomErasing", "ConvertImageDtype", "LinearTransformation",
)  # fmt: skip
_FUNCTIONS = {
    "to_tensor": "ToTensor", "pil_to_tensor": "PILToTensor", "to_pil_image": "ToPILImage",
    "normalize": "Normalize", "erase": "RandomErasing", "resize": "Resize",
}  # fmt: skip
_LIBRARY = "torchvision.transforms"


@dataclass(frozen=True, kw_only=True)
class FailingTransform:
    """A transform that raised, with what it was given."""

    error: BaseException
    step: Any  # the transform: an object, a class that stands in its place, or a function
    name: str
    value: Any
    steps: tuple[Any, ...] = ()  # of the Compose that it belongs to; none where it was called alone

    @property
    def at(self) -> int:
        """Its place in the Compose."""
        return next((i for i, step in enumerate(self.steps) if step is self.step), 0)

    @property
    def earlier(self) -> list[str]:
        """The transforms before it, latest last."""
        return [name_of(step) for step in self.steps[: self.at]]

    @property
    def later(self) -> list[str]:
        """The transforms after it."""
        return [name_of(step) for step in self.steps[self.at + 1 :]]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """Why a transform could not take what it was given, and what mends it."""

    reason: str
    arithmetic: str
    edit: Edit


def name_of(step: Any) -> str:
    """The name of a transform: of its class, or its own where it is a class or a function."""
    is_named = isinstance(step, type | types.FunctionType)
    return str(step.__name__ if is_named else type(step).__name__)


def find_failing_transform(error: BaseException) -> FailingTransform | None:
    """The innermost transform that raised, with the Compose that called it; None: none did."""
    frames = list_frames(error)
    for frame in reversed(frames):
        steps = getattr(frame.f_locals.get("self"), "transforms", None)
        if isinstance(steps, list | tuple) and frame.f_code.co_argcount:
            value = _read_parameter(frame, 1)
            value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
            held = [v for v in frame.f_locals.values() if any(v is step for step in steps)]
            if not held:
                continue
            name = name_of(held[-1])
            return FailingTransform(
                error=error, step=held[-1], name=name, value=value, steps=tuple(steps)
            )
    alone = (_read_alone(error, frame) for frame in frames)
    return next((found for found in alone if found is not None), None)


def _read_alone(error: BaseException, frame: types.FrameType) -> FailingTransform | None:
    """A transform that the user called by itself: an object's, or a function of torchvision's."""
    owner, function = frame.f_locals.get("self"), frame.f_code.co_name
    if not str(frame.f_globals.get("__name__", "")).startswith(_LIBRARY):
        return None
    if owner is not None and function in ("__call__", "forward"):
        value = _read_parameter(frame, 1)
        value = value[0] if isinstance(value, tuple) and len(value) == 1 else value
        return FailingTransform(error=error, step=owner, name=name_of(owner), value=value)
    if function not in _FUNCTIONS:
        return None
    name, value = _FUNCTIONS[function], _read_parameter(frame, 0)
    return FailingTransform(error=error, step=function, name=name, value=value)


def _read_parameter(frame: types.FrameType, position: int) -> Any:
    names = frame.f_code.co_varnames
    return frame.f_locals.get(names[position]) if position < len(names) else None


# -- why it raised ---------------------------------------------------------------------------------


def judge_transform(error: BaseException) -> Judgement | None:
    """Why a transform cannot take what it was given; None where that is not why."""
    found = find_failing_transform(error)
    if found is None or not isinstance(error, TypeError | AttributeError | ValueError):
        return None
    judges = (
        _judge_class,
        _judge_twice,
        _judge_array,
        _judge_early,
        _judge_bytes,
        _judge_path,
        _judge_crop,
    )
    for judge in judges:
        if (judged := judge(found)) is not None:
            return judged
    return None


def _judge_class(found: FailingTransform) -> Judgement | None:
    if not isinstance(found.step, type) or not found.steps:
        return None
    return Judgement(
        reason=f"{found.name} stands in the list without parentheses: it is the class itself",
        arithmetic=_show_order(found),
        edit=Advice(
            title=f"put an object of it into the list, with parentheses: {found.name}()",
            code=f"{found.name}()",
        ),
    )


def _judge_twice(found: FailingTransform) -> Judgement | None:
    """A step that makes a tensor of a tensor, or an image of an image."""
    is_back = found.name == "ToPILImage" and _is_image(found.value)
    if not is_back and not (found.name in _TO_TENSOR and isinstance(found.value, Tensor)):
        return None
    kind = "an image" if is_back else "a tensor"
    reason = f"{found.name} makes {kind}, but it got one: {_describe(found.value)}"
    before = [name for name in found.earlier if name in _TO_TENSOR]
    if before:
        reason += f", which {before[-1]} had made"
    title = f"leave out this {found.name}()" if before else f"leave out {found.name}()"
    if not before and (assigned := _find_reassigned(found.error)):
        title += f", as {assigned}"
    left = [step for step in found.steps[found.at :] if step is not found.step]
    if not is_back and found.value.dtype == torch.uint8 and not before:
        kind, here = "ConvertImageDtype", sys.modules.get(_LIBRARY)
        title = f"use {kind}(torch.float32) instead of {found.name}()"
        left = [getattr(here, kind, nn.Identity)(torch.float32), *left]
    return Judgement(
        reason=reason,
        arithmetic=_show_order(found),
        edit=_try_steps(found, title, lambda: _run(left, found.value)),
    )


def _find_reassigned(error: BaseException) -> str:
    """Words for a name on the failing line that holds a tensor: "x is a tensor already"."""
    names = read_names(error)
    nodes = (node for node in walk_expression(error) if isinstance(node, ast.Name))
    found = next((node.id for node in nodes if isinstance(names.get(node.id), Tensor)), "")
    return f"{found} is a tensor already" if found else ""


def _judge_early(found: FailingTransform) -> Judgement | None:
    """A step that works on tensors, before the one that makes a tensor."""
    is_of_tensors = found.name in _OF_TENSORS
    if isinstance(found.value, Tensor | str | PurePath):
        return None
    if not is_of_tensors and _is_image(found.value):  # it takes images, so that is not why
        return None
    reason = f"{found.name} expects a tensor, but got {_describe(found.value)}"
    order = _show_order(found)
    later = [step for step in found.steps[found.at + 1 :] if name_of(step) in _TO_TENSOR]
    if not later:
        advice = Advice(title="call ToTensor() on the image before it", code="ToTensor()")
        return Judgement(reason=reason, arithmetic=order, edit=advice) if is_of_tensors else None
    maker, left = later[0], list(found.steps[found.at :])
    title = f"put {name_of(maker)}() before {found.name} in the Compose"
    new = [maker, *(step for step in left if step is not maker)]
    if name_of(maker) in _BYTES:  # what makes floats of the bytes comes after it
        title = f"put {found.name} last in the Compose"
        new = [*left[1:], left[0]]
    return Judgement(
        reason=f"{reason}: {name_of(maker)} comes after it",
        arithmetic=order,
        edit=_try_steps(found, title, lambda: _run(new, found.value)),
    )


def _judge_bytes(found: FailingTransform) -> Judgement | None:
    """A transform for floating tensors that got bytes."""
    value = found.value
    makers = [name for name in found.earlier if name in _BYTES]
    if not isinstance(value, Tensor) or value.is_floating_point() or not makers:
        return None
    return Judgement(
        reason=f"{found.name} got uint8, as {makers[-1]} keeps the bytes",
        arithmetic=_show_order(found),
        edit=Advice(
            title=f"use ToTensor() instead of {makers[-1]}(), which gives floats from 0 to 1"
        ),
    )


def _judge_array(found: FailingTransform) -> Judgement | None:
    """A transform of images that got a NumPy array, as cv2 and NumPy make it."""
    if not _is_array(found.value) or found.name in (*_TO_TENSOR, *_OF_TENSORS):
        return None
    title = "make an image of it first: PIL.Image.fromarray(image)"
    if found.steps and not found.earlier:
        title = "put ToPILImage() first in the Compose"

    def run() -> Any:
        from PIL import Image

        return _run(found.steps[found.at :] or (found.step,), Image.fromarray(found.value))

    return Judgement(
        reason=f"{found.name} expects an image or a tensor, but got {_describe(found.value)}",
        arithmetic=_show_order(found),
        edit=_try_steps(found, title, run),
    )


def _judge_path(found: FailingTransform) -> Judgement | None:
    """A transform that got the name of a file."""
    if not isinstance(found.value, str | PurePath):
        return None
    code = "Image.open(path).convert('RGB')"
    return Judgement(
        reason=f"{found.name} got the text {str(found.value)!r}, not an image",
        arithmetic=_show_order(found),
        edit=Advice(title=f"open the file first: {code}", code=code),
    )


def _judge_crop(found: FailingTransform) -> Judgement | None:
    """A crop that is larger than the image."""
    size, padded = getattr(found.step, "size", None), copy.copy(found.step)
    value = found.value
    if found.name != "RandomCrop" or not isinstance(size, tuple | list):
        return None
    height, width = value.size[::-1] if _is_image(value) else tuple(value.shape[-2:])
    if height >= size[0] and width >= size[1]:
        return None
    padded.__dict__["pad_if_needed"] = True
    left = [padded, *found.steps[found.at + 1 :]]
    return Judgement(
        reason=f"RandomCrop takes {size[0]} x {size[1]} of an image of {height} x {width}",
        arithmetic=_show_order(found),
        edit=_try_steps(
            found,
            f"pass pad_if_needed=True, or put Resize({max(size)}) before it",
            lambda: _run(left, value),
        ),
    )


# -- trials and words ------------------------------------------------------------------------------


def _try_steps(found: FailingTransform, title: str, run: Callable[[], Any]) -> Edit:
    """What is tried where all the steps are torchvision's; a step of the user's is not run."""
    steps = found.steps or (found.step,)
    if not all(type(step).__module__.startswith(_LIBRARY) for step in steps):
        return Advice(title=title)
    return Check(title=title, check=lambda: f"it gives {_describe(run())}")


def _run(steps: Sequence[Any], value: Any) -> Any:
    for step in steps:
        value = step(value)
    return value


def _show_order(found: FailingTransform) -> str:
    return " -> ".join(map(name_of, found.steps))


def _is_image(value: Any) -> bool:
    return any(kind.__module__ == "PIL.Image" for kind in type(value).__mro__)


def _is_array(value: Any) -> bool:
    return type(value).__module__ == "numpy" and type(value).__name__ == "ndarray"


def _describe(value: Any) -> str:
    """A value in words: a tensor (3, 32, 32), a PIL image of mode RGB, a NumPy array."""
    if _is_image(value):
        return f"a PIL image of mode {value.mode}"
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if _is_array(value):
        return f"a NumPy array {tuple(value.shape)} {value.dtype}"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}"
