"""Finds statements of the user's that are not as those like them, load a checkpoint without a look
at what fitted, end a loop over batches in its first round, or put one layer at many places.
"""

import ast
import copy
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from torch import nn

from cnnprobe.diagnosis.evidence.texts import LoadStatement, OddStatement, ShortLoop
from cnnprobe.training.sourcing import (
    ClassText,
    FunctionText,
    list_blocks,
    name_of,
    read_file,
)

ALIKE = 2  # statements that are equal but for the names of their layers
LARGEST = 100  # nodes of a statement
_GIVING = re.compile(
    r"pretrain|(load|copy|restore|transfer)_?\w*(weight|param|checkpoint|state|backbone|encoder)"
)
_DRAWING = ("init_weights", "_init_weights", "initialize_weights", "_initialize_weights",
            "reset_parameters", "weights_init", "weight_init")  # fmt: skip


# -- siblings --------------------------------------------------------------------------------------


def find_odd_statements(classes: Iterable[ClassText]) -> Iterator[OddStatement]:
    """The assignments of a block that lack one part of those like them on both sides."""
    for each in classes:
        _, module = each.instances[0]
        kinds = {name: f"<{_describe_kind(child)}>" for name, child in module.named_children()}
        for function in each.methods.values():
            for block in list_blocks(function.node):
                assigned = [s for s in block if isinstance(s, ast.Assign)]
                yield from _find_odd(function, assigned, kinds)


def _describe_kind(module: nn.Module) -> str:
    """The class of a layer; of a container, those of all that is in it."""
    parts = [type(m).__name__ for m in module.modules()]
    return "/".join(parts if isinstance(module, nn.Sequential) else parts[:1])


def _list_layers(node: ast.AST, kinds: Mapping[str, str]) -> tuple[str, ...]:
    """The layers that a statement names, each once."""
    named = {
        n.attr: None
        for n in ast.walk(node)
        if isinstance(n, ast.Attribute) and name_of(n.value) == "self" and n.attr in kinds
    }
    return tuple(named)


def _shape_of(node: ast.AST, kinds: Mapping[str, str]) -> str:
    """A statement with the kinds of the layers in the place of their names: self.conv1 and
    self.conv2 are alike.
    """
    changed = copy.deepcopy(node)
    for part in ast.walk(changed):
        if isinstance(part, ast.Attribute) and name_of(part.value) == "self":
            part.attr = kinds.get(part.attr, part.attr)
    return ast.dump(changed)


def _find_odd(
    function: FunctionText, block: list[ast.Assign], kinds: Mapping[str, str]
) -> Iterator[OddStatement]:
    shapes = [_shape_of(s, kinds) for s in block]
    groups: dict[str, list[int]] = defaultdict(list)
    for i, shape in enumerate(shapes):
        if "attr='<" in shape:
            groups[shape].append(i)
    for places in groups.values():
        if len(places) < ALIKE:
            continue
        usual = block[places[0]]
        between = [
            i
            for i in range(places[0] + 1, places[-1])
            if len(shapes[i]) < len(shapes[places[0]]) and _is_same_target(block[i], usual)
        ]
        if not between or len(list(ast.walk(usual))) > LARGEST:
            continue
        less = dict(_list_lesser(usual, kinds))
        odd = [i for i in between if shapes[i] in less]
        if len(odd) == 1:
            i = odd[0]
            yield OddStatement(
                function=function.name,
                module=function.module,
                source=f"{function.path}:{block[i].lineno}",
                text=ast.unparse(block[i]),
                usual=ast.unparse(usual),
                lacks=less[shapes[i]],
                layers=_list_layers(block[i], kinds),
                lines=tuple(sorted({block[p].lineno for p in places})),
            )


def _is_same_target(one: ast.Assign, other: ast.Assign) -> bool:
    return [ast.dump(t) for t in one.targets] == [ast.dump(t) for t in other.targets]


def _list_lesser(statement: ast.Assign, kinds: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The shapes that a statement would have without one of its sums or calls, and that part."""
    count = sum(1 for _ in ast.walk(statement))
    for place in range(count):
        for keeps in ("left", "right", "args"):
            changed = copy.deepcopy(statement)
            lacks = _drop_part(changed, place, keeps)
            if lacks:
                yield _shape_of(changed, kinds), lacks


def _drop_part(statement: ast.Assign, place: int, keeps: str) -> str:
    """Take one part out; says which, "" where there is none at that place."""
    target = list(ast.walk(statement))[place]
    if isinstance(target, ast.BinOp) and isinstance(target.op, ast.Add | ast.Mult):
        if keeps == "args":
            return ""
        other = target.right if keeps == "left" else target.left
        sign = "+" if isinstance(target.op, ast.Add) else "*"
        said = f"{sign} {ast.unparse(other)}"
    elif isinstance(target, ast.Call) and keeps == "args" and len(target.args) == 1:
        said = f"{ast.unparse(target.func)}()"
    else:
        return ""
    kept = target.args[0] if isinstance(target, ast.Call) else getattr(target, keeps)
    for parent in ast.walk(statement):
        for field, value in ast.iter_fields(parent):
            if value is target:
                setattr(parent, field, kept)
                return said
            if isinstance(value, list) and any(item is target for item in value):
                setattr(parent, field, [kept if item is target else item for item in value])
                return said
    return ""


# -- checkpoints -----------------------------------------------------------------------------------


def find_loads(files: Iterable[str]) -> Iterator[LoadStatement]:
    """The statements of these files that load a checkpoint and do not look at what fitted, or whose
    weights are drawn anew behind them.
    """
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        drawing = set(_DRAWING) | {
            n.name
            for n in ast.walk(tree)
            if isinstance(n, ast.FunctionDef) and _draws(n) and n.name != "__init__"
        }
        scopes = [tree, *(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef))]
        for scope in scopes:
            for block in list_blocks(scope):
                yield from _find_loads(path, block, drawing)
                yield from _find_meant(path, block)


def _draws(node: ast.FunctionDef) -> bool:
    """Whether a function draws weights: nn.init, or .normal_() of .data."""
    for n in ast.walk(node):
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute):
            parts = ast.unparse(n.func)
            if ".init." in f".{parts}" or parts.endswith((".normal_", ".uniform_")):
                return True
    return False


def _find_loads(path: str, block: list[ast.stmt], drawing: set[str]) -> Iterator[LoadStatement]:
    loads = [(i, c) for i, s in enumerate(block) if (c := _loading(s)) is not None]
    for i, call in loads:
        holder = ast.unparse(call.func.value)  # type: ignore[attr-defined]
        place = f"{path}:{call.lineno}"
        lenient = any(
            k.arg == "strict" and isinstance(k.value, ast.Constant) and k.value.value is False
            for k in call.keywords
        )
        if [ast.unparse(a) for a in call.args[:1]] == [f"{holder}.state_dict()"]:
            yield LoadStatement(kind="itself", text=ast.unparse(call), source=place, holder=holder)
        elif lenient and isinstance(block[i], ast.Expr):
            yield LoadStatement(kind="lenient", text=ast.unparse(call), source=place, holder=holder)
        last = max(j for j, c in loads if ast.unparse(c.func.value) == holder)  # type: ignore[attr-defined]
        for statement in block[last + 1 :]:
            if _redraws(statement, holder, drawing):
                yield LoadStatement(
                    kind="drawn-anew", text=ast.unparse(call), source=f"{path}:{statement.lineno}",
                    holder=holder, after=ast.unparse(statement),
                )  # fmt: skip
                break


def _find_meant(path: str, block: list[ast.stmt]) -> Iterator[LoadStatement]:
    """The calls of functions that are named for giving a model the weights of another."""
    for statement in block:
        call = statement.value if isinstance(statement, ast.Expr | ast.Assign) else None
        if isinstance(call, ast.Call) and _GIVING.search(name_of(call.func).lower()):
            receiver = [call.func.value] if isinstance(call.func, ast.Attribute) else []
            for each in (*receiver, *call.args[:1]):
                yield LoadStatement(
                    kind="meant", text=ast.unparse(call), source=f"{path}:{call.lineno}",
                    holder=ast.unparse(each),
                )  # fmt: skip


def _loading(statement: ast.stmt) -> ast.Call | None:
    """The call of load_state_dict in a statement, of a name or an attribute."""
    if not isinstance(statement, ast.Expr | ast.Assign) or not isinstance(
        statement.value, ast.Call
    ):
        return None
    call = statement.value
    is_load = isinstance(call.func, ast.Attribute) and call.func.attr == "load_state_dict"
    return call if is_load else None


def _redraws(statement: ast.stmt, holder: str, drawing: set[str]) -> bool:
    if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Call):
        return False
    call = statement.value
    if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == holder:
        if call.func.attr == "apply":
            return bool(call.args) and name_of(call.args[0]) in drawing
        return call.func.attr in drawing
    whole = [ast.unparse(a) for a in call.args] == [holder]
    return whole and name_of(call.func) in drawing


# -- loops -----------------------------------------------------------------------------------------


def find_short_loops(functions: Iterable[FunctionText]) -> Iterator[ShortLoop]:
    """The loops that train and end in their first round, and the steps that take the first batch of
    a loader each time.
    """
    for function in functions:
        for node in ast.walk(function.node):
            if isinstance(node, ast.For):
                last = node.body[-1]
                kinds = {ast.Return: "return", ast.Break: "break"}
                if type(last) in kinds and len(node.body) > 1 and _trains(node):
                    yield ShortLoop(
                        kind=kinds[type(last)], text=ast.unparse(last).splitlines()[0],
                        source=f"{function.path}:{last.lineno}", loop=node.lineno,
                    )  # fmt: skip
            elif _is_first_batch(node) and _trains(function.node):
                yield ShortLoop(
                    kind="first-batch", text=ast.unparse(node),
                    loader=name_of(node.args[0].args[0]),  # type: ignore[attr-defined]
                    source=f"{function.path}:{node.lineno}", loop=function.node.lineno,  # type: ignore[attr-defined]
                )  # fmt: skip


def _trains(node: ast.AST) -> bool:
    called = {name_of(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return "backward" in called and "step" in called


def _is_first_batch(node: ast.AST) -> bool:
    """Whether it is next(iter(...))."""
    if not isinstance(node, ast.Call) or name_of(node.func) != "next" or not node.args:
        return False
    inner = node.args[0]
    return isinstance(inner, ast.Call) and name_of(inner.func) == "iter" and len(inner.args) == 1


# -- one layer for many ----------------------------------------------------------------------------


def find_repeated(classes: Iterable[ClassText]) -> Iterator[tuple[str, str]]:
    """The attributes of modules that are made of [Layer(...)] * n and in no other way, and the
    line.
    """
    for each in classes:
        made: dict[str, list[tuple[bool, str]]] = defaultdict(list)
        for text in each.constructors:
            for node in ast.walk(text.node):
                for name in _list_own(node):
                    is_repeated = any(map(_repeats_call, ast.walk(node)))
                    made[name].append((is_repeated, f"{text.path}:{node.lineno}"))  # type: ignore[attr-defined]
        for name, found in made.items():
            if all(is_repeated for is_repeated, _ in found):
                for fqn, _ in each.instances:
                    yield f"{fqn}.{name}" if fqn else name, found[0][1]


def _list_own(node: ast.AST) -> list[str]:
    """The attributes of self that a statement assigns."""
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [
        target.attr
        for target in targets
        if isinstance(target, ast.Attribute) and name_of(target.value) == "self"
    ]


def _repeats_call(node: ast.AST) -> bool:
    """Whether it is a list of one call, times a number."""
    if not isinstance(node, ast.BinOp) or not isinstance(node.op, ast.Mult):
        return False
    lists = [side for side in (node.left, node.right) if isinstance(side, ast.List)]
    return len(lists) == 1 and len(lists[0].elts) == 1 and isinstance(lists[0].elts[0], ast.Call)
