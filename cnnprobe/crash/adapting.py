"""The edits that most suspicions share: something before the failing call, something with the input, a layer of another size."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.case import Case, quoted, short
from cnnprobe.crash.edits import (
    Adapt,
    ChangeInput,
    ChangeTensor,
    Edit,
    Insert,
    Reconfigure,
    Rewrite,
    SetAttribute,
)
from cnnprobe.trace import TensorInfo


def before_call(
    case: Case, function: Callable[[Any], Any], code: str, *, position: int = 0
) -> Edit:
    """Pass what the failing call is given through a function; `code` has {x} in the place of the tensor.

    For a layer in a container it is the call of the container that is shown.
    """
    call = case.call
    if call is not None and call.fqn is not None:
        place = case.outermost_starting_with(call.fqn)
        title = f"pass {code.format(x='x')} to {quoted(place)}"
        return Adapt(title=title, code=code, module=place, function=function)
    kind, source = (call.kind, call.source) if call is not None else ("", "")
    given = [
        t
        for t in case.inputs
        if t.path in (f"[{position}]", "" if position == 0 else f"[{position}]")
    ]
    shape = given[0].shape if given else None

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        here = tuple(getattr(args[position], "shape", ())) if len(args) > position else ()
        if shape is not None and here != shape:  # another call of it on the same line
            return func(*args, **kwargs)
        return func(*(function(a) if i == position else a for i, a in enumerate(args)), **kwargs)

    title = f"use {code.format(x='x')} in {kind} at {short(source)}"
    return Rewrite(
        title=title,
        code=code,
        module=case.owner,
        kind=kind,
        source=source,
        function=rewritten,
        respell=_respelt(case, code),
    )


def _respelt(case: Case, code: str) -> str:
    """The same call with its first tensor passed through the code."""
    name = case.call.kind.rpartition(".")[2] if case.call is not None else ""
    if name in ("linear", "conv1d", "conv2d", "conv3d", "embedding"):
        return f"F.{name}({code}, {{rest}})"
    return ""


def in_sequential(case: Case, fqn: str) -> bool:
    """Whether a module stands in a plain nn.Sequential, so that a layer can be put before it."""
    parent = case.modules.get(fqn.rpartition(".")[0])
    return bool(fqn) and type(parent) is nn.Sequential


def inserted(case: Case, fqn: str, layer: Callable[[], nn.Module], code: str) -> Edit | None:
    """Put a layer before a module of a Sequential."""
    if not in_sequential(case, fqn):
        return None
    parent, _, name = fqn.rpartition(".")
    first = next(iter(case.modules[parent]._modules)) == name
    where = f"first in {quoted(parent)}" if first else f"before {quoted(fqn)}"
    return Insert(title=f"put {code} {where}", code=code, module=fqn, layer=layer)


def configured(case: Case, fqn: str, **changes: Any) -> Reconfigure:
    """Other constructor arguments for a layer: "set in_features=2048 in 'fc' (it is 2047)"."""
    module = case.modules[fqn]
    texts = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    old = {name: getattr(module, name, None) for name in changes}
    was = ", ".join(str(value) for value in old.values() if not isinstance(value, Tensor))
    return Reconfigure(
        title=f"set {texts} in {quoted(fqn)}" + (f" (now {was})" if was else ""),
        code=texts,
        module=fqn,
        changes=changes,
    )


def reshaped_parameter(case: Case, fqn: object, shape: tuple[int, ...]) -> Edit | None:
    """Give a parameter of the user's own another shape."""
    owner, _, name = str(fqn).rpartition(".")
    module = case.modules.get(owner)
    if not isinstance(fqn, str) or module is None or name not in module._parameters:
        return None
    like = module._parameters[name]
    dtype = like.dtype if like is not None else torch.float32
    return SetAttribute(
        title=f"give the parameter '{fqn}' the shape {shape}",
        code=f"nn.Parameter(torch.empty{shape})",
        module=owner,
        name=name,
        value=lambda _module: nn.Parameter(torch.zeros(shape, dtype=dtype)),
    )


def with_input(
    function: Callable[[Any], Any], code: str, *, title: str = "", every: bool = False
) -> Edit:
    """Pass the model's first input (or every one) through a function."""
    return ChangeInput(
        title=title or f"pass {code.format(x='x')} to the model",
        code=code,
        function=function,
        only_first=not every,
    )


def with_tensor(
    case: Case, info: TensorInfo, function: Callable[[Any], Any], code: str, *, title: str = ""
) -> Edit:
    """Pass the one of the model's inputs that a tensor came from through a function."""
    root = case.root_of(info)
    if root is None or not root.path:
        return with_input(function, code, title=title)
    return ChangeTensor(
        title=title or f"pass {code.format(x=spelt(case, root.path))} to the model",
        code=code,
        path=root.path,
        function=function,
    )


def spelt(case: Case, path: str) -> str:
    """An input as the user writes it: by the name of the forward's parameter."""
    try:
        names = list(inspect.signature(case.model.forward).parameters)
    except (TypeError, ValueError):
        return "x"
    found = re.match(r"\[(\d+)\](.*)", path)
    if len(case.args) == 1 and not case.kwargs and names:
        return names[0] + path
    if found is not None and int(found[1]) < len(names):
        return names[int(found[1])] + found[2]
    return path


def flatten(x: Tensor) -> Tensor:
    """What nn.Flatten() does."""
    return torch.flatten(x, 1)


def resized(sizes: tuple[int, ...], *, exact: bool = False) -> Edit:
    """An input of another height and width: of at least, or of exactly these sizes."""

    def resize(x: Tensor) -> Tensor:
        keep = tuple(x.shape[: x.dim() - len(sizes)])
        return torch.zeros((*keep, *sizes), dtype=x.dtype, device=x.device)

    return with_input(
        resize,
        "{x}",
        title=f"give the model an input of {'' if exact else 'at least '}{' x '.join(map(str, sizes))}",
    )


def is_root_input(case: Case, info: TensorInfo) -> bool:
    """Whether a tensor is what the model was given, or came from it through nothing but functions without weights."""
    if case.is_input(info):
        return True
    lineage = list(case.lineage(info))
    if not lineage or not any(case.is_input(t) for t in lineage[-1][1].inputs):
        return False
    return all(
        not _has_weights(case, call.fqn) and call.kind not in ("torch.cat", "torch.stack")
        for _, call in lineage
    )


def _has_weights(case: Case, fqn: str | None) -> bool:
    module = case.modules.get(fqn) if fqn is not None else None
    return module is not None and bool(module._parameters)


def present(*edits: Edit | None) -> tuple[Edit, ...]:
    """The edits that there are."""
    return tuple(edit for edit in edits if edit is not None)
