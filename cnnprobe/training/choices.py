"""Finds the modules that the user's text calls only where a setting says so: an attribute of the
module, an argument of its forward, or a draw.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnprobe.diagnosis.evidence.texts import Chosen
from cnnprobe.training.sourcing import ClassText, name_of

PLAIN = (bool, int, float, str, type(None))
_DRAWS = re.compile(r"^(random|np\.random|numpy\.random|torch\.(rand|bernoulli|multinomial))")
_ENDING = (ast.Return, ast.Break, ast.Continue, ast.Raise)


@dataclass(slots=True)
class _Reader:
    """One method: what is a setting in it, and under which ones each layer and method is named."""

    settings: Mapping[str, Any]  # attributes of self
    names: frozenset[str]  # layers and methods
    local: dict[str, str] = field(default_factory=dict)  # variables, and the setting that they hold
    # of each name, the settings that choose each of its places; None for a place without one
    places: dict[str, list[tuple[str, bool] | None]] = field(default_factory=dict)

    def find_setting(self, node: ast.AST | None) -> str:
        """The first setting that an expression reads; "" where there is none."""
        for n in ast.walk(node) if node is not None else ():
            if isinstance(n, ast.Attribute) and name_of(n.value) == "self":
                if n.attr in self.settings:
                    return f"self.{n.attr}"
            elif isinstance(n, ast.Name) and n.id in self.local:
                return self.local[n.id]
            elif isinstance(n, ast.Call) and _DRAWS.match(called := ast.unparse(n.func)):
                return f"{called}()"
        return ""

    def read_block(self, block: list[ast.stmt], by: str) -> None:
        """Note the places of a block; what follows an `if` that leaves it is chosen too."""
        for statement in block:
            self.read_statement(statement, by)
            if isinstance(statement, ast.If) and any(
                isinstance(s, _ENDING) for s in (*statement.body[-1:], *statement.orelse[-1:])
            ):
                by = by or self.find_setting(statement.test)

    def read_statement(self, statement: ast.stmt, by: str) -> None:
        if isinstance(statement, ast.If):
            self.note(statement.test, by)
            inner = by or self.find_setting(statement.test)
            self.read_block(statement.body, inner)
            self.read_block(statement.orelse, inner)
            return
        if isinstance(statement, ast.For):
            self.read_loop(statement, by)
            return
        if isinstance(statement, ast.Assign) and (held := self.find_setting(statement.value)):
            for target in statement.targets:
                if isinstance(target, ast.Name):
                    self.local[target.id] = held
        blocks = [getattr(statement, name, None) for name in ("body", "orelse", "finalbody")]
        inner_blocks = [b for b in blocks if isinstance(b, list)]
        for child in ast.iter_child_nodes(statement):
            if not isinstance(child, ast.stmt):
                self.note(child, by)
        for block in inner_blocks:
            self.read_block(block, by)

    def read_loop(self, loop: ast.For, by: str) -> None:
        """A loop that a setting ends early chooses among what it goes over."""
        held = self.find_setting(loop.iter)
        if held:
            for n in ast.walk(loop.target):
                if isinstance(n, ast.Name):
                    self.local[n.id] = held
        left = next(
            (
                setting
                for n in ast.walk(loop)
                if isinstance(n, ast.If)
                and isinstance(n.body[-1], _ENDING)
                and (setting := self.find_setting(n.test))
            ),
            "",
        )
        self.note(loop.iter, by, among=left or self._find_draw(loop))
        self.read_block(loop.body, by)

    def _find_draw(self, loop: ast.For) -> str:
        """The draw that chooses among the members of what a loop goes over."""
        mine = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
        for n in ast.walk(loop):
            if isinstance(n, ast.Call) and any(name_of(part) in mine for part in n.args):
                by = self.find_setting(n)
            elif isinstance(n, ast.Subscript) and name_of(n.value) in mine:
                by = self.find_setting(n.slice)
            else:
                continue
            if by.endswith("()"):
                return by
        return ""

    def note(self, node: ast.AST, by: str, *, among: str = "") -> None:
        """Note the places of an expression; `among` chooses some of a container's members."""
        if isinstance(node, ast.IfExp):
            self.note(node.test, by, among=among)
            by = by or self.find_setting(node.test)
            self.note(node.body, by, among=among)
            self.note(node.orelse, by, among=among)
            return
        if isinstance(node, ast.Subscript):
            self.note(node.slice, by)
            self.note(node.value, by, among=among or self.find_setting(node.slice))
            return
        if isinstance(node, ast.Call) and _DRAWS.match(called := ast.unparse(node.func)):
            among = among or f"{called}()"
        if isinstance(node, ast.Attribute) and name_of(node.value) == "self":
            if node.attr in self.names:
                chosen = (by, False) if by else (among, True) if among else None
                self.places.setdefault(node.attr, []).append(chosen)
            return
        for child in ast.iter_child_nodes(node):
            self.note(child, by, among=among)


def find_chosen(classes: Iterable[ClassText]) -> Iterator[Chosen]:
    """The layers of each module of which every place in the text is chosen by a setting."""
    for each in classes:
        for fqn, module in each.instances:
            places = _list_places(each, module)
            for name, found in places.items():
                layer = module._modules.get(name)
                chosen = [place for place in found if place is not None]
                if layer is None or len(chosen) < len(found):
                    continue
                by, is_among = chosen[0]
                value = getattr(module, by.partition("self.")[2], None)
                if is_among and _is_length(value, layer):
                    continue
                path = f"{fqn}.{name}" if fqn else name
                yield Chosen(module=path, owner=fqn, by=by, value=repr(value))


def _is_length(value: Any, layer: nn.Module) -> bool:
    """Whether a number says how many members there are, so that none is left to choose."""
    return isinstance(layer, Sized) and value == len(layer)


def _list_places(each: ClassText, module: nn.Module) -> dict[str, list[tuple[str, bool] | None]]:
    """The places where the methods name a layer; those of a method that is chosen are chosen."""
    settings = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, PLAIN) and name != "training" and not name.startswith("_")
    }
    methods = {name: m for name, m in each.methods.items() if not name.startswith("__")}
    names = frozenset(module._modules) | frozenset(methods)
    read: dict[str, dict[str, list[tuple[str, bool] | None]]] = {}
    for name, method in methods.items():
        reader = _Reader(settings, names, _list_arguments(method.node))
        reader.read_block(method.node.body, "")
        read[name] = reader.places
    places: dict[str, list[tuple[str, bool] | None]] = {}
    for name, found in read.items():
        calls = [place for other in read.values() for place in other.get(name, ())]
        way = calls[0] if calls and None not in calls and name != "forward" else None
        for layer, inner in found.items():
            places.setdefault(layer, []).extend(place or way for place in inner)
    return places


def _list_arguments(node: ast.FunctionDef) -> dict[str, str]:
    """The arguments that are settings: with a plain default, compared with a constant, or a test or
    an index by themselves.
    """
    arguments = node.args
    given = [*arguments.posonlyargs, *arguments.args][1:]
    optional = given[len(given) - len(arguments.defaults) :] if arguments.defaults else []
    found = [
        a.arg
        for a, default in zip(optional, arguments.defaults, strict=False)
        if isinstance(default, ast.Constant)
    ]
    found += [a.arg for a in arguments.kwonlyargs]
    used = {name_of(part) for n in ast.walk(node) for part in _list_switches(n)}
    return {a: a for a in (*found, *(g.arg for g in given if g.arg in used))}


def _list_switches(node: ast.AST) -> list[ast.AST]:
    """The bare names by which a node chooses."""
    if isinstance(node, ast.Compare) and isinstance(node.comparators[0], ast.Constant):
        parts: list[ast.AST] = [node.left]
    elif isinstance(node, ast.If | ast.IfExp):
        parts = [node.test]
    elif (
        isinstance(node, ast.Subscript)
        and name_of(node.value)
        and isinstance(node.value, ast.Attribute)
    ):
        parts = [node.slice, *ast.iter_child_nodes(node.slice)]
    elif isinstance(node, ast.Call) and name_of(node.func) == "range":
        parts = list(node.args)
    else:
        parts = []
    return [part for part in parts if isinstance(part, ast.Name)]
