"""Finds in the text of a program where a model is measured without gradients, and nothing on the
way there has put it into eval mode.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.texts import Measured
from cnnprobe.training.metric_texts import list_operands, trace_output
from cnnprobe.training.scopes import Reader, Scope, bind_models, list_own, open_scope
from cnnprobe.training.sourcing import FunctionText, name_of, read_file

_WITHOUT = frozenset({"no_grad", "inference_mode"})
_EQUAL = frozenset({"eq", "ne", "equal"})
_DEEPEST = 4  # functions that call one another
Place = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A file with the scopes that hold the model, and what losses it calls."""

    path: str
    tree: ast.Module
    held: Mapping[Scope, frozenset[str]]
    losses: frozenset[str]

    def read(self, scope: Scope) -> Reader:
        """A scope with the variables that hold the model there."""
        return open_scope(scope, self.path, self.held[scope])


def find_measured(
    files: list[str], models: frozenset[str], steps: list[FunctionText]
) -> Iterator[Measured]:
    """The scopes of these files that compare the model's output with labels under no_grad, in train
    mode; `models` are the variables that hold the model, `steps` the functions of the step.
    """
    ran = {id(step.node) for step in steps}
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        file = _File(
            path=path, tree=tree, held=bind_models(tree, models, steps), losses=frozenset()
        )
        losses = frozenset(name for scope in file.held for name in _list_losses(file, scope))
        file = _File(path=path, tree=tree, held=file.held, losses=losses)
        for scope in file.held:
            call = _find_measuring(file, scope)
            if call is not None and _is_in_train_mode(file, scope, _place(call), _DEEPEST):
                yield Measured(
                    function=getattr(scope, "name", ""),
                    text=ast.unparse(call),
                    model=ast.unparse(call.func),
                    source=f"{path}:{call.lineno}",
                    is_loop=id(scope) in ran or _is_in_loop(scope, call),
                )


def _is_in_loop(scope: Scope, call: ast.Call) -> bool:
    loops = ast.For | ast.While | ast.ListComp | ast.GeneratorExp
    return any(
        any(inner is call for inner in ast.walk(node))
        for node in list_own(scope)
        if isinstance(node, loops)
    )


def _place(node: ast.AST) -> Place:
    return node.lineno, node.col_offset  # type: ignore[attr-defined]


def _list_losses(file: _File, scope: Scope) -> Iterator[str]:
    """What a scope with a backward calls with the output and something else."""
    calls = [n for n in list_own(scope) if isinstance(n, ast.Call)]
    if any(name_of(c.func) == "backward" for c in calls):
        reader = file.read(scope)
        for call in calls:
            own = list_operands(call)
            if len(own) > 1 and trace_output(own[0], reader) is not None:
                yield ast.unparse(call.func)


# -- where it is measured --------------------------------------------------------------------------


def _find_measuring(file: _File, scope: Scope) -> ast.Call | None:
    """The first call of the model in a scope under no_grad, behind all training in it, where the
    output meets labels there; none where several outputs are stacked (Monte Carlo dropout).
    """
    reader = file.read(scope)
    trained = [_place(n) for n in list_own(scope) if _is_call(n, {"backward"})]
    for region in _list_regions(scope):
        nodes = [n for n in region if not trained or _place_or(n) > max(trained)]
        calls = [n for n in nodes if isinstance(n, ast.Call)]
        called = [c for c in calls if ast.unparse(c.func) in reader.models]
        is_stacked = any(_is_call(c, {"stack"}) for c in calls)
        if called and not is_stacked and any(_meets_labels(n, file, reader) for n in nodes):
            return min(called, key=_place)
    return None


def _place_or(node: ast.AST) -> Place:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def _is_call(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and name_of(node.func) in names


def _list_regions(scope: Scope) -> Iterator[list[ast.AST]]:
    """The nodes under no_grad: of a decorated function all of them."""
    if any(_is_without(d) for d in getattr(scope, "decorator_list", ())):
        yield list(list_own(scope))
        return
    for node in list_own(scope):
        if isinstance(node, ast.With) and any(_is_without(i.context_expr) for i in node.items):
            yield list(list_own(node))


def _is_without(node: ast.expr) -> bool:
    """Whether it is no_grad() or inference_mode()."""
    return name_of(node.func if isinstance(node, ast.Call) else node) in _WITHOUT


def _meets_labels(node: ast.AST, file: _File, reader: Reader) -> bool:
    """Whether it compares the output with something for equality, or takes the loss of both."""
    if isinstance(node, ast.Compare):
        is_equal = len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        sides = [node.left, *node.comparators] if is_equal else []
    elif isinstance(node, ast.Call) and (
        name_of(node.func) in _EQUAL or ast.unparse(node.func) in file.losses
    ):
        sides = list_operands(node)
    else:
        return False
    return len(sides) > 1 and any(trace_output(side, reader) is not None for side in sides)


# -- in which mode ---------------------------------------------------------------------------------


def _is_in_train_mode(file: _File, scope: Scope, place: Place, depth: int) -> bool:
    """Whether nothing on any way to a place of a scope has called eval(), or train() came after it;
    False for a function that nothing in the file calls, and that does not train.
    """
    modes = [(_place(n), mode) for n in list_own(scope) if (mode := _read_mode(n, file, scope))]
    before = [mode for at, mode in sorted(modes) if at < place]
    if before:
        return before[-1] == "train"
    if isinstance(scope, ast.Module):
        return True
    callers = _list_callers(file, scope)
    if not callers:  # as a function main
        return depth < _DEEPEST or _trains(file, scope, _DEEPEST)
    return depth > 0 and all(_is_in_train_mode(file, s, at, depth - 1) for s, at in callers)


def _list_callers(file: _File, scope: Scope) -> list[tuple[Scope, Place]]:
    """The scopes that call a function, and where."""
    return [
        (other, _place(node))
        for other in file.held
        for node in list_own(other)
        if _is_call(node, {getattr(scope, "name", "")}) and other is not scope
    ]


def _trains(file: _File, scope: Scope, depth: int) -> bool:
    """Whether a scope calls backward, itself or in what it calls."""
    names = {name_of(n.func) for n in list_own(scope) if isinstance(n, ast.Call)}
    inner = [f for f in file.held if getattr(f, "name", "") in names and f is not scope]
    return "backward" in names or (depth > 0 and any(_trains(file, f, depth - 1) for f in inner))


def _read_mode(node: ast.AST, file: _File, scope: Scope) -> str:
    """Which mode a call sets: "train", "eval", "unknown" where that is not sure; "" for none."""
    if not isinstance(node, ast.Call):
        return ""
    name = name_of(node.func)
    if name == "eval":
        return "eval"
    if name == "train" and isinstance(node.func, ast.Attribute):
        given = [*node.args, *(k.value for k in node.keywords)]
        if ast.unparse(node.func.value) not in file.held[scope]:
            return ""
        return "unknown" if given else "train"
    passed = {ast.unparse(a) for a in (*node.args, *(k.value for k in node.keywords))}
    known = {f.name for f in file.held if isinstance(f, ast.FunctionDef)}
    is_foreign = name not in known and ("eval" in name.lower() or "mode" in name.lower())
    return "unknown" if is_foreign and passed & file.held[scope] else ""
