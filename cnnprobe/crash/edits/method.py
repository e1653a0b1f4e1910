"""A method of the user's with another text: the copy runs it as it reads then."""

import ast
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.facts.methods import Method, find_class, open_method
from cnnprobe.crash.facts.source import compile_like
from cnnprobe.crash.model_copy import ModelCopy, bind
from cnnprobe.recorder.inventory import named_modules

ChangeText = Callable[[File, ast.FunctionDef], Iterable[TextChange]]


@dataclass(frozen=True, kw_only=True)
class ChangeMethod(Edit):
    """Change the text of a method; its class has then a method `name` as the text says."""

    method: types.FunctionType
    changes: tuple[TextChange, ...]
    name: str = "forward"

    def apply(self, twin: ModelCopy) -> None:
        """Give every module of the class the method as the changed text has it."""
        kind = type(twin.module(self.module))
        modules = [m for _, m, first in named_modules(twin.model) if first and type(m) is kind]
        function = self._compile(modules[0])
        for module in modules:
            bind(module, self.name, function, twin.undo)

    def _compile(self, module: nn.Module) -> types.FunctionType:
        """The method after its changes, and after those that other edits have made in it."""
        before = getattr(module.__dict__.get(self.name), "__func__", None)
        changes = list(dict.fromkeys([*getattr(before, "changes", ()), *self.changes]))
        file, node = open_method(self.method.__code__)
        text = file.text
        for change in sorted(changes, key=lambda one: -one.start):
            text = text[: change.start] + change.text + text[change.end :]
        owner = find_class(file.tree, node)
        made = compile_like(self.method, _find_again(ast.parse(text), owner, node, self.name))
        made.changes = tuple(changes)  # type: ignore[attr-defined]
        return made


def change_method(
    method: Method, title: str, change: ChangeText, *, code: str = "", name: str = ""
) -> ChangeMethod | None:
    """An edit of a method's text; None where its source is not at hand.

    `name` is the method that the class has then, where it is not that which is changed.
    """
    try:
        file, node = open_method(method.function.__code__)
        changes = tuple(change(file, node))
    except (UnknownPlaceError, SyntaxError):
        return None

    def write() -> list[TextChange]:
        open_file(file.path)  # raises where it is no file of the user's
        return list(changes)

    return ChangeMethod(
        title=title,
        code=code,
        module=method.fqn,
        method=method.function,
        changes=changes,
        name=name or method.name,
        written=write,
    )


def replace_node(method: Method, node: ast.expr, text: str) -> ChangeMethod | None:
    """Another expression in the place of a node of the failing line."""
    try:
        old = " ".join(open_method(method.function.__code__)[0].source(node).split())
    except UnknownPlaceError:
        return None
    title = f"write {text} instead of {old}"
    return change_method(method, title, lambda file, _: [file.replace(node, text)], code=text)


def add_return(method: Method, title: str) -> ChangeMethod | None:
    """What the last statement computes, returned; None where it computes nothing."""
    try:
        file, node = open_method(method.function.__code__)
    except UnknownPlaceError:
        return None
    last = node.body[-1]
    if isinstance(last, ast.Expr) and not isinstance(last.value, ast.Constant):
        start = file.span(last)[0]
        shown, change = ast.unparse(last.value), TextChange(file.path, start, start, "return ")
    elif isinstance(last, ast.Assign) and isinstance(last.targets[-1], ast.Name):
        end, shown = file.span(last)[1], last.targets[-1].id
        indent = file.text[: file.span(last)[0]].rpartition("\n")[2]
        before = indent if not indent.strip() else " " * last.col_offset
        change = TextChange(file.path, end, end, f"\n{before}return {shown}")
    else:
        return None

    def add(_file: File, _node: ast.FunctionDef) -> list[TextChange]:
        return [change]

    return change_method(method, f"{title}: return {shown}", add, code=f"return {shown}")


def drop_commas(file: File, node: ast.FunctionDef) -> Iterator[TextChange]:
    """The one element in the place of each tuple of one that is assigned or returned."""
    for one in ast.walk(node):
        value = one.value if isinstance(one, ast.Assign | ast.Return) else None
        if isinstance(value, ast.Tuple) and len(value.elts) == 1:
            yield file.replace(value, file.source(value.elts[0]))


def _find_again(
    tree: ast.Module, owner: ast.ClassDef | None, old: ast.FunctionDef, name: str
) -> ast.FunctionDef:
    """The method in the changed text: that of the same class, else the function at its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and owner is not None:
            found = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == name]
            if (node.name, node.lineno) == (owner.name, owner.lineno) and found:
                return found[-1]
        elif owner is None and isinstance(node, ast.FunctionDef) and node.lineno == old.lineno:
            return node
    raise UnknownPlaceError
