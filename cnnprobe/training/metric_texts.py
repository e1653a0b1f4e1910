"""Reads what the text of a program does with the output of the model: which thresholds, which dims
and which labels it meets.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis.evidence.texts import ReadOutput
from cnnprobe.training.scopes import Reader, bind_models, find_assigned, list_own, open_scope
from cnnprobe.training.sourcing import FunctionText, name_of, read_file

_DEEPEST = 12  # assignments behind one another
_COMPARED = {
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}
_TURNED = {"gt": "lt", "ge": "le", "lt": "gt", "le": "ge", "eq": "eq", "ne": "ne"}
_SPACES = frozenset({"torch", "F", "functional", "nn.functional", "torch.nn.functional", "special"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One thing that is done to the output."""

    name: str
    args: tuple[ast.expr, ...] = ()
    options: tuple[tuple[str, ast.expr], ...] = ()

    def read(self, place: int, name: str) -> float | None:
        """A number among its arguments."""
        given = dict(self.options).get(name) or (
            self.args[place] if place < len(self.args) else None
        )
        return read_number(given) if given is not None else None


def find_outputs(
    files: list[str], models: frozenset[str], steps: list[FunctionText]
) -> Iterator[ReadOutput]:
    """What these files do with the output of the model, which the variables `models` hold; `steps`
    are the functions of the step.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        for scope, known in bind_models(tree, models, steps).items():
            reader = open_scope(scope, path, known)
            for node in list_own(scope):
                yield from _read(node, reader)


# -- what is read ----------------------------------------------------------------------------------


def _read(node: ast.AST, reader: Reader) -> Iterator[ReadOutput]:
    compared = _read_comparison(node)
    if compared is not None:
        kind, left, right = compared
        for mine, other, name in ((left, right, kind), (right, left, _TURNED[kind])):
            steps = trace_output(mine, reader)
            if steps is not None:
                value, given = read_number(other), _is_given(other, reader)
                yield _make(node, reader, name, steps, value=value, is_given=given)
    elif isinstance(node, ast.Call | ast.Subscript | ast.Attribute | ast.Assign):
        yield from _read_choice(node, reader)


def _read_choice(
    node: ast.Call | ast.Subscript | ast.Attribute | ast.Assign, reader: Reader
) -> Iterator[ReadOutput]:
    """A round(), an argmax(), or the places that max() gives beside its values."""
    is_pair = isinstance(node, ast.Assign) and _is_pair(node.targets[0])
    is_second = isinstance(node, ast.Subscript) and read_number(node.slice) == 1
    is_choice = is_pair or is_second or _is_choice(node)
    if not is_choice:
        return
    value = node.value if isinstance(node, ast.Assign) else node
    steps = trace_output(value, reader)
    wanted = ("max",) if is_pair else ("argmax", "round")
    if steps and steps[-1].name in wanted and not isinstance(value, ast.Name):
        last = steps[-1]
        kind = "argmax" if is_pair else last.name
        dim = last.read(0, "dim")
        yield _make(node, reader, kind, steps[:-1], value=dim, is_given=False)


def _is_choice(node: ast.AST) -> bool:
    """Whether it is argmax(), round() or the indices of something."""
    if isinstance(node, ast.Call):
        return name_of(node.func) in ("argmax", "round")
    return isinstance(node, ast.Attribute) and node.attr == "indices"


def _is_pair(target: ast.expr) -> bool:
    """Whether it takes two values, and the second under a name."""
    return (
        isinstance(target, ast.Tuple)
        and len(target.elts) == 2
        and getattr(target.elts[1], "id", "_") != "_"
    )


def _make(node: ast.AST, reader: Reader, kind: str, steps: list[_Step], **more: Any) -> ReadOutput:
    return ReadOutput(
        kind=kind, steps=tuple(s.name for s in steps), text=ast.unparse(node).splitlines()[0],
        source=f"{reader.path}:{node.lineno}", **more,  # type: ignore[attr-defined]
    )  # fmt: skip


def _read_comparison(node: ast.AST) -> tuple[str, ast.expr, ast.expr] | None:
    """The kind and both sides of a comparison: x > 0.5, x.gt(0.5), torch.eq(x, y)."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        kind = _COMPARED.get(type(node.ops[0]))
        return (kind, node.left, node.comparators[0]) if kind else None
    if isinstance(node, ast.Call) and name_of(node.func) in _TURNED:
        own = list_operands(node)
        return (name_of(node.func), own[0], own[1]) if len(own) == 2 else None
    return None


def list_operands(call: ast.Call) -> list[ast.expr]:
    """The tensor that a method belongs to, and its arguments; those of a function."""
    func = call.func
    is_method = isinstance(func, ast.Attribute) and ast.unparse(func.value) not in _SPACES
    return [*([func.value] if is_method else []), *call.args]  # type: ignore[attr-defined]


def _is_given(node: ast.expr, reader: Reader) -> bool:
    """Whether a side is what the scope is given, and it has its shape: an argument, or a variable
    of a loop over a loader.
    """
    while isinstance(node, ast.Call) and name_of(node.func) in ELEMENTWISE:
        own = list_operands(node)
        if not own:
            return False
        node = own[0]
    if not isinstance(node, ast.Name):
        return False
    made = find_assigned(node, reader)
    if made is None:
        return node.id in reader.bound
    return (
        isinstance(made.value, ast.Name)
        if made.place is not None
        else _is_given(made.value, reader)
    )


# Values change one by one, or not at all: the shape stays.
ELEMENTWISE = frozenset(
    {"sigmoid", "round", "float", "long", "int", "double", "half", "bool", "byte", "cpu", "cuda",
     "to", "detach", "clone", "type", "data", "numpy", "contiguous", "gt", "ge", "lt", "le", "exp",
     "tanh", "clamp", "where", "astype"}
)  # fmt: skip


def read_number(node: ast.expr) -> float | None:
    """A number that is written down."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None
    return float(value) if isinstance(value, int | float) else None


# -- what is done to the output --------------------------------------------------------------------


def trace_output(node: ast.expr, reader: Reader) -> list[_Step] | None:
    """What is done to the model's output on the way to an expression; None where it is something
    else.
    """
    return _follow(node, reader, _DEEPEST)


def _follow(node: ast.expr, reader: Reader, depth: int) -> list[_Step] | None:
    if depth == 0:
        return None
    if isinstance(node, ast.Name):
        made = find_assigned(node, reader)
        before = _follow(made.value, reader, depth - 1) if made is not None else None
        return _take(before, made.place) if made is not None and before is not None else None
    if isinstance(node, ast.Call):
        return _follow_call(node, reader, depth)
    if isinstance(node, ast.Attribute):
        return _extend(node.value, reader, depth, _Step(name=node.attr))
    if isinstance(node, ast.Subscript):
        return _extend(node.value, reader, depth, _Step(name="getitem", args=(node.slice,)))
    if isinstance(node, ast.Compare) and len(node.ops) == 1:
        name = _COMPARED.get(type(node.ops[0]), "compare")
        return _extend(node.left, reader, depth, _Step(name=name, args=(node.comparators[0],)))
    return None


def _extend(node: ast.expr, reader: Reader, depth: int, step: _Step) -> list[_Step] | None:
    """What is done before, and one step more, which may choose one of what max(dim) gives."""
    before = _follow(node, reader, depth - 1)
    if before is None:
        return None
    if before and before[-1].name == "max":
        place = step.read(0, "") if step.name == "getitem" else _RESULTS.get(step.name)
        if place is not None:
            return _take(before, int(place))
    return [*before, step]


_RESULTS = {"values": 0, "indices": 1}


def _take(before: list[_Step], place: int | None) -> list[_Step] | None:
    """One of what max(dim) gives: the values, or the places, as argmax."""
    if place is None:
        return before
    if not before or before[-1].name != "max":
        return None
    last = before[-1]
    name = "argmax" if place == 1 else "max"
    return [*before[:-1], _Step(name=name, args=last.args, options=last.options)]


def _follow_call(node: ast.Call, reader: Reader, depth: int) -> list[_Step] | None:
    if ast.unparse(node.func) in reader.models:
        return []
    own = list_operands(node)
    before = _follow(own[0], reader, depth - 1) if own else None
    if before is None:
        return None
    options = tuple((k.arg, k.value) for k in node.keywords if k.arg)
    return [*before, _Step(name=name_of(node.func), args=tuple(own[1:]), options=options)]
