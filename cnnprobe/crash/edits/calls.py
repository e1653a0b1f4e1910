"""Calls that are made otherwise: other arguments, another result, another forward."""

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import (
    check_names,
    check_plain,
    find_call,
    is_function,
    list_calls_on,
    open_line,
    read_called,
    spell_code,
    take_only,
    write_argument,
    write_operand,
)
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.words import shorten
from cnnprobe.crash.model_copy import ModelCopy, Rewriting
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.records.trace import ModuleCall

_SYMBOLS = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_OPERATORS: dict[type, str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_LONGEST = 40  # characters of an operand in a title


@dataclass(frozen=True, kw_only=True)
class Adapt(Edit):
    """Pass the first argument of a module through a function; `code` has {x} for it."""

    function: Callable[[Any], Any]

    def apply(self, twin: ModelCopy) -> None:
        def change(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (self.function(args[0]), *args[1:]), kwargs
            changed = {name: self.function(kwargs[name]) for name in list(kwargs)[:1]}
            return args, kwargs | changed

        twin.hook_inputs(twin.module(self.module), change)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        owner, file, call = find_call(crash, self.module or "")
        code = spell_code(crash, owner, self.code)
        return [file.replace(call.args[0], code.format(x=write_operand(file, call.args[0], code)))]


@dataclass(frozen=True, kw_only=True)
class AdaptTensors(Edit):
    """Pass those of the tensors that the module `module` is given that fit through a function."""

    fits: Callable[[Tensor], bool]
    function: Callable[[Tensor], Tensor]

    def apply(self, twin: ModelCopy) -> None:
        def change(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            return tree_map(self._change, (args, kwargs))

        twin.hook_inputs(twin.module(self.module), change)

    def _change(self, value: Any) -> Any:
        return self.function(value) if isinstance(value, Tensor) and self.fits(value) else value


@dataclass(frozen=True, kw_only=True)
class KeepFirst(Edit):
    """Call the module `module` with its first argument alone."""

    def apply(self, twin: ModelCopy) -> None:
        module = twin.module(self.module)
        twin.undo.append(module.register_forward_pre_hook(lambda _module, args: args[:1]).remove)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        _, file, call = find_call(crash, self.module or "")
        if call.keywords or len(call.args) < 2:
            raise UnknownPlaceError
        return [TextChange(file.path, file.span(call.args[0])[1], file.span(call.args[-1])[1], "")]


@dataclass(frozen=True, kw_only=True)
class AdaptOutput(Edit):
    """Pass what the module `module` returns through a function."""

    function: Callable[[Any], Any]

    def apply(self, twin: ModelCopy) -> None:
        module, function = twin.module(self.module), self.function
        handle = module.register_forward_hook(lambda _module, _args, output: function(output))
        twin.undo.append(handle.remove)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        _, file, call = find_call(crash, self.module or "")
        if not self.code.startswith("{x}"):
            raise UnknownPlaceError
        end = file.span(call)[1]
        return [TextChange(file.path, end, end, self.code.removeprefix("{x}"))]


@dataclass(frozen=True, kw_only=True)
class HandIndices(Edit):
    """Hand the indices of every pooling to the unpooling that undoes it: the last first."""

    def apply(self, twin: ModelCopy) -> None:
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
class RewriteCall(Edit):
    """Do something else in place of the calls of one torch function on one line of the user's."""

    kind: str
    source: str
    function: Rewriting
    # how it is to be written, with {x} for its tensor and {rest} for other arguments; "": not known
    respell: str = ""
    # the argument that is to have another value: name, value, position
    keyword: tuple[str, Any, int] | None = None

    def apply(self, twin: ModelCopy) -> None:
        twin.rewrite(self.kind, self.source, self.function)

    def locate(self, crash: Crash, edits: Sequence[Edit]) -> list[TextChange]:  # noqa: ARG002
        file, line = open_line(self.source)
        name = self.kind.rpartition(".")[2]
        found = [c for c in list_calls_on(file, line) if read_called(c) == name]
        if self.keyword is not None:
            return [_write_keyword(file, take_only(found), self.keyword)]
        if not self.respell:
            raise UnknownPlaceError
        check_names(crash, self.module or "", self.respell)
        if not found and name.rstrip("_") in _SYMBOLS:
            return [_write_augmented(file, line, self.respell)]
        call = take_only(found)
        is_free = is_function(file, call)
        receiver = call.args[0] if is_free else call.func.value  # type: ignore[attr-defined]
        others = call.args[1:] if is_free else call.args
        named = [f"{k.arg}={file.source(k.value)}" for k in call.keywords]
        rest = ", ".join([*(file.source(a) for a in others), *named])
        x = write_operand(file, receiver, self.respell)
        return [file.replace(call, self.respell.format(x=x, rest=rest))]


def rewrite_call(
    crash: Crash, call: ModuleCall, function: Rewriting, *, title: str, **more: Any
) -> RewriteCall:
    """Do something else in place of a recorded call of a function; {place} is its line."""
    return RewriteCall(
        title=title.replace("{place}", shorten(call.source)),
        module=more.pop("module", crash.find_module_above(call.parent)),
        kind=more.pop("kind", call.kind),
        source=call.source,
        function=function,
        **more,
    )


def _write_keyword(file: File, call: ast.Call, keyword: tuple[str, object, int]) -> TextChange:
    """Another value for an argument, wherever it stands."""
    name, value, position = keyword
    position -= not is_function(file, call)
    check_plain(call)
    return write_argument(file, call, [*[""] * position, name], name, value)


def _write_augmented(file: File, line: int, respell: str) -> TextChange:
    """`x += y`, which is a statement of its own."""
    node = _find_augmented(file.tree, line)
    symbol = _OPERATORS.get(type(node.op)) if node is not None else None
    if node is None or symbol is None or respell != "{x} = {x} + {rest}":
        raise UnknownPlaceError
    target, value = file.source(node.target), file.source(node.value)
    return file.replace(node, f"{target} = {target} {symbol} {_enclose(node.value, value)}")


def spell_augmented(source: str) -> tuple[str, str] | None:
    """`x += y` on the line that a source names, and the same without writing; None: not known."""
    path, _, number = source.rpartition(":")
    tree = parse_file(path)
    if tree is None or not number.isdigit():
        return None
    node = _find_augmented(tree, int(number))
    symbol = _OPERATORS.get(type(node.op)) if node is not None else None
    if node is None or symbol is None:
        return None
    target, value = ast.unparse(node.target), ast.unparse(node.value)
    if len(value) > _LONGEST:
        value = "..."
    written = f"{target} = {target} {symbol} {_enclose(node.value, value)}"
    return f"{target} {symbol}= {value}", written


def _find_augmented(tree: ast.Module, line: int) -> ast.AugAssign | None:
    """The only statement such as `x += y` on a line."""
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.AugAssign) and n.lineno == line)
    found = list(nodes)
    return found[0] if len(found) == 1 else None


def _enclose(node: ast.expr, text: str) -> str:
    """An operand in parentheses where it is an operation itself: x *= a + b."""
    simple = ast.Name | ast.Call | ast.Attribute | ast.Subscript | ast.Constant
    return text if isinstance(node, simple) else f"({text})"


@dataclass(frozen=True, kw_only=True)
class ReplaceBackward(Edit):
    """Give an autograd function of the user's another backward."""

    kind: Any
    function: Callable[..., Any]

    def apply(self, twin: ModelCopy) -> None:
        old = self.kind.__dict__["backward"]
        twin.undo.append(lambda: setattr(self.kind, "backward", old))
        self.kind.backward = staticmethod(self.function)


@dataclass(frozen=True, kw_only=True)
class DetachKept(Edit):
    """Detach what the module `module` keeps at an attribute before its forward reads it."""

    name: str
    steps: int = 2

    def apply(self, twin: ModelCopy) -> None:
        def detach(module: nn.Module, _args: Any) -> None:
            registry = module._buffers if self.name in module._buffers else module.__dict__
            registry[self.name] = tree_map(
                lambda t: t.detach() if isinstance(t, Tensor) else t, registry[self.name]
            )

        twin.undo.append(twin.module(self.module).register_forward_pre_hook(detach).remove)


@dataclass(frozen=True, kw_only=True)
class ChangeCallArguments(Edit):
    """Give one call other values for its arguments, by their names; no `kind`: that of a module."""

    names: tuple[str, ...]
    function: Callable[[dict[str, Any]], dict[str, Any]]
    kind: str = ""
    source: str = ""

    def apply(self, twin: ModelCopy) -> None:
        def change(_called: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = dict(zip(self.names, args, strict=False)) | kwargs
            changed = given | self.function(given)
            named = {key: changed[key] for key in kwargs}
            return tuple(changed[name] for name in self.names[: len(args)]), named

        def call(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given, named = change(func, args, kwargs)
            return func(*given, **named)

        if self.kind:
            twin.rewrite(self.kind, self.source, call)
        else:
            twin.hook_inputs(twin.module(self.module), change)
