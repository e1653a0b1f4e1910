"""Calls that are made otherwise: other arguments, another result, another forward."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError
from cnnprobe.crash.edits.places import (
    check_names,
    check_plain,
    find_call,
    find_method,
    is_function,
    list_calls_on,
    open_line,
    read_called,
    take_only,
    write_argument,
    write_operand,
)
from cnnprobe.crash.model_copy import ModelCopy, Rewriting, bind
from cnnprobe.recorder.inventory import class_of, named_modules

_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}


@dataclass(frozen=True, kw_only=True)
class Adapt(Edit):
    """Pass the first argument of the module `module` through a function before the call; `code` has {x} for it."""

    function: Callable[[Any], Any]

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""

        def change(
            _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if args:
                return (self.function(args[0]), *args[1:]), kwargs
            first = next(iter(kwargs), None)
            return args, kwargs if first is None else {
                **kwargs,
                first: self.function(kwargs[first]),
            }

        twin.undo.append(
            twin.module(self.module or "")
            .register_forward_pre_hook(change, with_kwargs=True, prepend=True)
            .remove
        )

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[Change]:  # noqa: ARG002
        """Find the place and change it."""
        owner, file, call = find_call(crash, self.module or "")
        check_names(crash, owner, self.code)
        return [
            file.replace(
                call.args[0], self.code.format(x=write_operand(file, call.args[0], self.code))
            )
        ]


@dataclass(frozen=True, kw_only=True)
class AdaptTensors(Edit):
    """Pass those of the tensors that the module `module` is given that fit through a function."""

    fits: Callable[[Tensor], bool]
    function: Callable[[Tensor], Tensor]

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""

        def change(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            return tree_map(self._change, (args, kwargs))

        module = twin.module(self.module or "")
        handle = module.register_forward_pre_hook(change, with_kwargs=True, prepend=True)
        twin.undo.append(handle.remove)

    def _change(self, value: Any) -> Any:
        return self.function(value) if isinstance(value, Tensor) and self.fits(value) else value


@dataclass(frozen=True, kw_only=True)
class KeepFirst(Edit):
    """Call the module `module` with its first argument alone."""

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        module = twin.module(self.module or "")
        twin.undo.append(module.register_forward_pre_hook(lambda _module, args: args[:1]).remove)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[Change]:  # noqa: ARG002
        """Find the place and change it."""
        _, file, call = find_call(crash, self.module or "")
        if call.keywords or len(call.args) < 2:
            raise UnknownPlaceError
        return [Change(file.path, file.span(call.args[0])[1], file.span(call.args[-1])[1], "")]


@dataclass(frozen=True, kw_only=True)
class AdaptOutput(Edit):
    """Pass what the module `module` returns through a function."""

    function: Callable[[Any], Any]

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        function = self.function
        handle = twin.module(self.module or "").register_forward_hook(
            lambda _module, _args, output: function(output)
        )
        twin.undo.append(handle.remove)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[Change]:  # noqa: ARG002
        """Find the place and change it."""
        _, file, call = find_call(crash, self.module or "")
        if not self.code.startswith("{x}"):
            raise UnknownPlaceError
        end = file.span(call)[1]
        return [Change(file.path, end, end, self.code.removeprefix("{x}"))]


@dataclass(frozen=True, kw_only=True)
class HandIndices(Edit):
    """Unpack what every pooling with return_indices gives, and hand the indices to the unpooling that undoes it: the last first."""

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        kept: list[Tensor] = []

        def unpack(
            _module: nn.Module, _args: tuple[Any, ...], output: tuple[Tensor, Tensor]
        ) -> Tensor:
            kept.append(output[1])
            return output[0]

        def hand(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            return (*args, kept.pop()) if len(args) == 1 and kept else args

        for _, module, first in named_modules(twin.model):
            if first and getattr(module, "return_indices", False):
                twin.undo.append(module.register_forward_hook(unpack).remove)
            elif first and isinstance(module, nn.modules.pooling._MaxUnpoolNd):
                twin.undo.append(module.register_forward_pre_hook(hand).remove)


@dataclass(frozen=True, kw_only=True)
class Rewrite(Edit):
    """Do something else in place of the calls of one torch function on one line of the user's."""

    kind: str
    source: str
    function: Rewriting
    respell: str = ""  # how the call is to be written, with {x} for its tensor and {rest} for its other arguments; "": not known
    # it is this element of the sequence it is given that is to be written so
    element: int | None = None
    # the argument that is to have another value: name, value, position
    keyword: tuple[str, Any, int] | None = None

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        entry = (self.kind, self.source, self.function)
        twin.rewrites.append(entry)
        twin.undo.append(lambda: twin.rewrites.remove(entry))

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[Change]:  # noqa: ARG002
        """Find the place and change it."""
        file, line = open_line(self.source)
        name = self.kind.rpartition(".")[2]
        found = [c for c in list_calls_on(file, line) if read_called(c) == name]
        if self.keyword is not None:
            return [_write_keyword(file, take_only(found), self.keyword)]
        if not self.respell:
            raise UnknownPlaceError
        check_names(crash, self.module or "", self.respell)
        if self.element is not None:
            return [_write_element(file, take_only(found), self.element, self.respell)]
        if not found and name.rstrip("_") in _SYMBOLS:
            return [_write_augmented(file, line, self.respell)]
        call = take_only(found)
        is_free = is_function(file, call)
        receiver = call.args[0] if is_free else call.func.value  # type: ignore[attr-defined]
        others = call.args[1:] if is_free else call.args
        rest = ", ".join(
            [file.source(a) for a in others]
            + [f"{k.arg}={file.source(k.value)}" for k in call.keywords]
        )
        return [
            file.replace(
                call, self.respell.format(x=write_operand(file, receiver, self.respell), rest=rest)
            )
        ]


@dataclass(frozen=True, kw_only=True)
class Bind(Edit):
    """Give the class of the module `module` another forward."""

    function: Callable[..., Any]

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        kind = type(twin.module(self.module or ""))
        for _, module, first in named_modules(twin.model):
            if first and type(module) is kind:
                bind(module, "forward", self.function, twin.undo)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[Change]:  # noqa: ARG002
        """Find the place and change it."""
        kind = class_of(crash.modules[self.module or ""])
        if self.code == "def forward":
            file, function = find_method(kind, self.function.__name__)
            start, end = file.span(function)
            at = file.text.index(f"def {function.name}", start, end)
            return [Change(file.path, at, at + len(f"def {function.name}"), self.code)]
        file, function = find_method(kind, "forward")
        if self.code.startswith("return "):
            return [_write_return(file, function.body[-1], self.code)]
        found = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Assign | ast.Return)
            and isinstance(node.value, ast.Tuple)
            and len(node.value.elts) == 1
        ]
        return [file.replace(value, file.source(value.elts[0])) for value in found]


def _write_keyword(file: File, call: ast.Call, keyword: tuple[str, object, int]) -> Change:
    """Another value for an argument, wherever it stands."""
    name, value, position = keyword
    position -= not is_function(file, call)
    check_plain(call)
    return write_argument(file, call, [*[""] * position, name], name, value)


def _write_element(file: File, call: ast.Call, element: int, code: str) -> Change:
    """One element of the sequence that a function is given."""
    parts = call.args[0] if call.args else None
    if not isinstance(parts, ast.List | ast.Tuple) or any(
        isinstance(e, ast.Starred) for e in parts.elts
    ):
        raise UnknownPlaceError
    return file.replace(
        parts.elts[element], code.format(x=write_operand(file, parts.elts[element], code))
    )


def _write_augmented(file: File, line: int, respell: str) -> Change:
    """`x += y`, which is a statement of its own."""
    for node in ast.walk(file.tree):
        if (
            isinstance(node, ast.AugAssign)
            and node.lineno == line
            and respell == "{x} = {x} + {rest}"
        ):
            symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}.get(type(node.op))
            if symbol is not None:
                target = file.source(node.target)
                return file.replace(node, f"{target} = {target} {symbol} {file.source(node.value)}")
    raise UnknownPlaceError


def _write_return(file: File, last: ast.stmt, code: str) -> Change:
    """The last statement as a return, or a return after it."""
    start, end = file.span(last)
    if isinstance(last, ast.Expr):
        return Change(file.path, start, start, "return ")
    indent = file.text[:start].rpartition("\n")[2]
    return Change(
        file.path, end, end, f"\n{indent if not indent.strip() else ' ' * last.col_offset}{code}"
    )


@dataclass(frozen=True, kw_only=True)
class ReplaceBackward(Edit):
    """Give an autograd function of the user's another backward."""

    kind: Any
    function: Callable[..., Any]

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""
        old = self.kind.__dict__["backward"]
        twin.undo.append(lambda: setattr(self.kind, "backward", old))
        self.kind.backward = staticmethod(self.function)


@dataclass(frozen=True, kw_only=True)
class DetachKept(Edit):
    """Detach what the module `module` keeps at an attribute before its forward reads it."""

    name: str
    steps: int = 2

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""

        def detach(module: nn.Module, _args: Any) -> None:
            registry = module._buffers if self.name in module._buffers else module.__dict__
            registry[self.name] = tree_map(
                lambda t: t.detach() if isinstance(t, Tensor) else t, registry[self.name]
            )

        twin.undo.append(twin.module(self.module or "").register_forward_pre_hook(detach).remove)


@dataclass(frozen=True, kw_only=True)
class ChangeArguments(Edit):
    """Give one call other values for its arguments, by their names; no `kind`: that of a module."""

    names: tuple[str, ...]
    function: Callable[[dict[str, Any]], dict[str, Any]]
    kind: str = ""
    source: str = ""

    def apply(self, twin: ModelCopy) -> None:
        """Make it."""

        def change(_called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = dict(zip(self.names, args, strict=False)) | kwargs
            changed = given | self.function(given)
            named = {key: changed[key] for key in kwargs}
            return tuple(changed[name] for name in self.names[: len(args)]), named

        def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given, named = change(func, args, kwargs)
            return func(*given, **named)

        if self.kind:
            entry = (self.kind, self.source, call)
            twin.rewrites.append(entry)
            twin.undo.append(lambda: twin.rewrites.remove(entry))
            return
        module = twin.module(self.module or "")
        handle = module.register_forward_pre_hook(change, with_kwargs=True, prepend=True)
        twin.undo.append(handle.remove)
