"""The edits that most causes share: before the failing call, of the input, of a layer's size."""

import ast
import inspect
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.calls import Adapt, AdaptOutput, RewriteCall, rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.inputs import ChangeInput, ChangeName, ChangeTensor
from cnnprobe.crash.edits.layers import Insert, Reconfigure
from cnnprobe.crash.edits.places import open_line, spell_code, write_operand
from cnnprobe.crash.facts.frames import find_assigned_value, find_frames
from cnnprobe.crash.facts.joins import find_parts
from cnnprobe.crash.facts.words import quote, shorten
from cnnprobe.operations import find, find_signature
from cnnprobe.recorder.inventory import class_of
from cnnprobe.records.trace import ModuleCall, TensorInfo

_WINDOW = frozenset({"kernel_size", "stride", "padding", "dilation", "output_padding"})
_NONE = 99  # the position of an argument that is given by name alone


def adapt_call(
    crash: Crash, function: Callable[[Any], Any], code: str, *, position: int = 0
) -> Edit:
    """Pass what the failing call is given through a function; `code` has {x} for the tensor.

    For a layer in a container it is the call of the container that is shown.
    """
    call = crash.call
    if call is not None and call.fqn is not None:
        place = crash.find_container(call.fqn)
        title = f"pass {code.format(x='x')} to {quote(place)}"
        return Adapt(title=title, code=code, module=place, function=function)
    kind, source = (call.kind, call.source) if call is not None else ("", "")
    given = [
        t
        for t in crash.inputs
        if t.path in (f"[{position}]", "" if position == 0 else f"[{position}]")
    ]
    shape = given[0].shape if given else None

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        here = tuple(getattr(args[position], "shape", ())) if len(args) > position else ()
        if shape is not None and here != shape:  # another call of it on the same line
            return func(*args, **kwargs)
        return func(*(function(a) if i == position else a for i, a in enumerate(args)), **kwargs)

    node = find_parts(crash, call).get(given[0].path) if call is not None and given else None
    is_named = position and isinstance(node, ast.Name | ast.Attribute)
    shown = code.format(x=ast.unparse(node) if is_named and node is not None else "x")
    return RewriteCall(
        title=f"use {shown} in {kind} at {shorten(source)}",
        code=code,
        module=crash.owner,
        kind=kind,
        source=source,
        function=rewritten,
        written=lambda: _write_adapted(crash, node, code, source),
    )


def _write_adapted(crash: Crash, node: ast.expr | None, code: str, source: str) -> list[TextChange]:
    """The argument at `node` spelled within `code`."""
    if node is None:
        raise UnknownPlaceError
    spelled = spell_code(crash, crash.owner, code)
    file, _ = open_line(source)
    return [file.replace(node, spelled.format(x=write_operand(file, node, spelled)))]


def is_in_sequential(crash: Crash, fqn: str) -> bool:
    """Whether a module stands in a plain nn.Sequential, so that a layer can be put before it."""
    parent = crash.modules.get(fqn.rpartition(".")[0])
    return bool(fqn) and type(parent) is nn.Sequential


def insert_before(crash: Crash, fqn: str, layer: Callable[[], nn.Module], code: str) -> Edit | None:
    """Put a layer before a module of a Sequential."""
    if not is_in_sequential(crash, fqn):
        return None
    parent, _, name = fqn.rpartition(".")
    first = next(iter(crash.modules[parent]._modules)) == name
    where = f"first in {quote(parent)}" if first else f"before {quote(fqn)}"
    return Insert(title=f"put {code} {where}", code=code, module=fqn, layer=layer)


def configure(crash: Crash, fqn: str, **changes: Any) -> Reconfigure:
    """Other constructor arguments for a layer: "set in_features=2048 in 'fc' (it is 2047)"."""
    module = crash.modules[fqn]
    texts = ", ".join(f"{name}={value!r}" for name, value in changes.items())
    old = {name: getattr(module, name, None) for name in changes}
    was = ", ".join(str(value) for value in old.values() if not isinstance(value, Tensor))
    title = f"set {texts} in {quote(fqn)}" + (f" (now {was})" if was else "")
    return Reconfigure(title=title, code=texts, module=fqn, changes=changes)


def configure_alike(crash: Crash, fqn: str, **changes: Any) -> tuple[Reconfigure, ...]:
    """As `configure`, with the same layer of each block of the same class that did not run yet."""
    called = {call.fqn for call in crash.trace.calls}
    alike = list_alike(crash, fqn, frozenset(changes))
    names = [name for name in alike if name == fqn or name not in called]
    return tuple(configure(crash, name, **changes) for name in names)


def list_alike(crash: Crash, fqn: str, settings: frozenset[str] = frozenset()) -> list[str]:
    """A layer, and the same layer of each other block of the same class, where it is alike.

    Of settings of its window alone (stride, padding), the channels may differ.
    """
    owner = fqn.rpartition(".")[0]
    while owner and class_of(crash.modules[owner]).__module__.startswith("torch."):
        owner = owner.rpartition(".")[0]
    kind, path = type(crash.modules[owner]), fqn.removeprefix(owner).removeprefix(".")
    blocks = [name for name, module in crash.modules.items() if type(module) is kind and name]
    same = [f"{name}.{path}" for name in blocks if owner and name != owner]
    layer = crash.modules[fqn]
    return [fqn, *(name for name in same if _is_alike(layer, crash.modules.get(name), settings))]


def _is_alike(layer: nn.Module, other: nn.Module | None, settings: frozenset[str]) -> bool:
    if not settings or not settings <= _WINDOW:
        return repr(layer) == repr(other)
    of_window = [[getattr(one, name, None) for name in _WINDOW] for one in (layer, other)]
    return type(layer) is type(other) and of_window[0] == of_window[1]


def set_argument(
    crash: Crash, call: ModuleCall, name: str, value: Any, *, title: str = "", code: str = ""
) -> Edit:
    """Another value for an argument of a recorded call, by its name in the catalogue.

    Of a layer, it is a setting of its constructor.
    """
    if call.fqn is not None:
        return configure(crash, call.fqn, **{name: value})
    signature = find_signature(call.kind)
    names = signature.names if signature is not None else ()
    position = names.index(name) if name in names else _NONE

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if len(args) > position:
            return func(*args[:position], value, *args[position + 1 :], **kwargs)
        return func(*args, **{**kwargs, name: value})

    return rewrite_call(
        crash,
        call,
        rewrite,
        title=title or f"use {name}={value!r} at {{place}}",
        code=code or f"{name}={value!r}",
        keyword=None if code else (name, value, position),
    )


def reshape_parameter(crash: Crash, fqn: object, shape: tuple[int, ...]) -> Edit | None:
    """Give a parameter of the user's own another shape."""
    owner, _, name = str(fqn).rpartition(".")
    module = crash.modules.get(owner)
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


def change_input(
    function: Callable[[Any], Any], code: str, *, title: str = "", every: bool = False
) -> Edit:
    """Pass the model's first input (or every one) through a function."""
    return ChangeInput(
        title=title or f"pass {code.format(x='x')} to the model",
        code=code,
        function=function,
        only_first=not every,
    )


def change_tensor(
    crash: Crash, info: TensorInfo, function: Callable[[Any], Any], code: str, *, title: str = ""
) -> Edit:
    """Pass the one of the model's inputs that a tensor came from through a function."""
    if (root := crash.find_root(info)) is None or not root.path:
        return change_input(function, code, title=title)
    return ChangeTensor(
        title=title or f"pass {code.format(x=spell_path(crash, root.path))} to the model",
        code=code,
        path=root.path,
        function=function,
    )


def change_name(
    crash: Crash, info: TensorInfo, function: Callable[[Any], Any], code: str
) -> Edit | None:
    """Pass a tensor of a line of the loop through a function where it is made; None: unknown."""
    root = crash.find_root(info) if crash.line is not None and info.source is None else None
    name = spell_path(crash, root.path) if root is not None else ""
    node = find_assigned_value(crash.error, name)
    if root is None or node is None:
        return None

    def write() -> list[TextChange]:
        file = open_file(find_frames(crash.error)[-1].filename)
        return [file.replace(node, code.format(x=write_operand(file, node, code)))]

    place = shorten(f"{find_frames(crash.error)[-1].filename}:{node.lineno}")
    title = f"make {name!r} with {code.format(x='')} at {place}"
    return ChangeName(
        title=title, code=code, path=root.path, function=function, name=name, written=write
    )


def adapt_tensor(crash: Crash, info: TensorInfo, function: Callable[[Any], Any], code: str) -> Edit:
    """Pass a tensor through a function: the model's input where it is one, else at the call."""
    if crash.is_input(info):
        return change_tensor(crash, info, function, code)
    return adapt_call(crash, function, code)


def wrap_layer(
    fqn: str, codes: tuple[str, str], before: Callable[[Any], Any], after: Callable[[Any], Any]
) -> tuple[Edit, Edit]:
    """Pass what a module gets through a function, and its output through the one that undoes it."""
    first, last = (code.format(x="x") for code in codes)
    return (
        Adapt(title=f"pass {first} to {quote(fqn)}", code=codes[0], module=fqn, function=before),
        AdaptOutput(title=f"its output through {last}", code=codes[1], module=fqn, function=after),
    )


def permute_around(fqn: str, there: tuple[int, ...]) -> tuple[Edit, Edit]:
    """Permute what a module gets, and permute back its output."""
    back = tuple(there.index(i) for i in range(len(there)))
    codes = [f"{{x}}.permute{order}" for order in (there, back)]
    if there == (0, 2, 1):
        codes = ["{x}.transpose(1, 2)"] * 2
    return wrap_layer(
        fqn, (codes[0], codes[1]), lambda x: x.permute(there), lambda x: x.permute(back)
    )


def spell_path(crash: Crash, path: str) -> str:
    """An input as the user writes it: by the name of the forward's parameter."""
    try:
        names = list(inspect.signature(crash.modules[""].forward).parameters)
    except (TypeError, ValueError):
        return "x"
    found = re.match(r"\[(\d+)\](.*)", path)
    if len(crash.args) == 1 and not crash.kwargs and names:
        return names[0] + path
    if found is not None and int(found[1]) < len(names):
        return names[int(found[1])] + found[2]
    return path


def flatten(x: Tensor) -> Tensor:
    """What nn.Flatten() does."""
    return torch.flatten(x, 1)


def resize_input(sizes: tuple[int, ...], *, exact: bool = False, multiple: int = 1) -> Edit:
    """An input of another height and width: of at least, or of exactly these sizes.

    `multiple`: sizes that are no multiples of it do not pass.
    """

    def resize(x: Tensor) -> Tensor:
        keep = tuple(x.shape[: x.dim() - len(sizes)])
        return torch.zeros((*keep, *sizes), dtype=x.dtype, device=x.device)

    size = " x ".join(map(str, sizes))
    at_least = "" if exact or multiple > 1 else "at least "
    note = f", or other multiples of {multiple}" if multiple > 1 else ""
    return change_input(resize, "{x}", title=f"give the model an input of {at_least}{size}{note}")


def is_root_input(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor is what the model was given, or came from it without weights or joins."""
    if crash.is_input(info):
        return True
    lineage = list(crash.walk_back(info))
    if not lineage or not any(crash.is_input(t) for t in lineage[-1][1].inputs):
        return False
    return all(not _has_weights(crash, call.fqn) and not is_join(call) for _, call in lineage)


def is_join(call: ModuleCall) -> bool:
    """Whether a recorded call joins tensors: torch.cat, torch.stack."""
    operation = find(call)
    return operation is not None and operation.effect == "joins"


def _has_weights(crash: Crash, fqn: str | None) -> bool:
    module = crash.modules.get(fqn) if fqn is not None else None
    return module is not None and bool(module._parameters)


def keep_present(*edits: Edit | None) -> tuple[Edit, ...]:
    """The edits that there are."""
    return tuple(edit for edit in edits if edit is not None)
