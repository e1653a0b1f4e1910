"""Finds in the text of a program which calls of a training loop stand in the wrong round: behind
the loop, in front of a condition, or before the epochs instead of in them.
"""

import ast
from collections.abc import Iterator, Sequence

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import list_live, list_own, make_slip
from cnnprobe.training.sourcing import FunctionText, name_of, read_file


def find_turns(files: Sequence[str], steps: Sequence[FunctionText]) -> Iterator[Slip]:
    """What is found in these files; `steps` are the functions of the step."""
    for path in files:
        tree = read_file(path)
        if tree is None:
            continue
        for scope in list_live(path, steps):
            for node in list_own(scope):
                if isinstance(node, ast.For):
                    yield from _find_rounds(node, path)
                    yield from _find_behind(node, path)
                    yield from _find_never_back(node, scope, tree, path)


def _calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Call) and name_of(n.func) == name]


def _owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _has(statements: Sequence[ast.stmt], name: str, owner: str = "") -> bool:
    """Whether one of the statements is or holds a call of a method, of a certain object."""
    calls = [c for s in statements for c in _calls(s, name)]
    return any(not owner or _owner(c) == owner for c in calls)


# -- rounds of an accumulation ---------------------------------------------------------------------


def _find_rounds(loop: ast.For, path: str) -> Iterator[Slip]:
    """The loops with a condition on every n-th round that clear in all rounds what the step of
    these is to use, or step in all rounds with losses that are divided by n.
    """
    plain = [s for s in loop.body if isinstance(s, ast.Expr | ast.Assign | ast.AugAssign)]
    backward = [c for s in plain for c in _calls(s, "backward")]
    for condition in (s for s in loop.body if isinstance(s, ast.If) and not s.orelse):
        count = _read_count(condition.test)
        if not count or len(backward) != 1:
            continue
        steps = [c for s in condition.body for c in _calls(s, "step")]
        steps = [c for c in steps if _owner(c).split(".")[-1].startswith("opt")]
        if _has(condition.body, "backward"):  # it is a loss of its own, as a generator's
            continue
        mine = _owner(steps[0]) if steps else ""
        cleared = [c for s in plain for c in _calls(s, "zero_grad") if _owner(c) == mine]
        if cleared and not _has(plain, "step", mine):
            yield make_slip("every-clear", cleared[0], path, _owner(steps[0]), count)
        own = [c for s in plain for c in _calls(s, "step")]
        own = [c for c in own if _owner(c).split(".")[-1].startswith("opt")]
        if own and not steps and _is_divided_by(backward[0], loop, count):
            yield make_slip("every-step", own[0], path, _owner(own[0]), count)


def _read_count(test: ast.expr) -> str:
    """By what a condition divides a counter: n of (i + 1) % n == 0."""
    for node in ast.walk(test):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
            return ast.unparse(node.right)
    return ""


def _is_divided_by(backward: ast.Call, loop: ast.For, count: str) -> bool:
    loss = backward.func.value if isinstance(backward.func, ast.Attribute) else backward
    made: list[ast.AST] = [loss]
    for node in ast.walk(loop):
        targets = getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(node, ast.Assign | ast.AugAssign) and any(
            t is not None and ast.unparse(t) == ast.unparse(loss) for t in targets
        ):
            made.append(node)
    return any(
        isinstance(getattr(n, "op", None), ast.Div)
        and ast.unparse(getattr(n, "right", getattr(n, "value", n))) == count
        for value in made
        for n in ast.walk(value)
    )


# -- behind the loop -------------------------------------------------------------------------------


def _find_behind(outer: ast.For, path: str) -> Iterator[Slip]:
    """The backward behind a loop over batches that only has the loss of the last one."""
    for place, inner in enumerate(outer.body):
        if not isinstance(inner, ast.For) or _calls(inner, "backward"):
            continue
        for statement in outer.body[place + 1 :]:
            for call in _calls(statement, "backward"):
                name = _owner(call)
                if _is_made_anew(name, inner) and not _stores(outer.body, name, but=inner):
                    yield make_slip("last-batch", call, path, name, str(inner.lineno))


def _is_made_anew(name: str, loop: ast.For) -> bool:
    """Whether each round of a loop gives a variable another value, that has none of the old."""
    stores = [n for n in ast.walk(loop) if _is_store(n, name)]
    return bool(stores) and all(
        isinstance(n, ast.Assign) and name not in map(ast.unparse, _list_names(n.value))
        for n in stores
    )


def _list_names(node: ast.AST) -> list[ast.expr]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Name | ast.Attribute)]


def _is_store(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.Assign):
        return any(ast.unparse(t) == name for t in node.targets)
    return isinstance(node, ast.AugAssign) and ast.unparse(node.target) == name


def _stores(statements: Sequence[ast.stmt], name: str, but: ast.stmt) -> bool:
    return any(_is_store(n, name) for s in statements if s is not but for n in ast.walk(s))


# -- modes -----------------------------------------------------------------------------------------


def _find_never_back(outer: ast.For, scope: ast.AST, tree: ast.Module, path: str) -> Iterator[Slip]:
    """The loops over epochs that put a model into eval mode, train, and never put it back."""
    inside = _list_reached(outer.body, tree)
    before = {_owner(c) for c in _calls(scope, "train")}
    evals = [c for c in inside if name_of(c.func) == "eval" and _owner(c) in before]
    trains = [c for c in inside if name_of(c.func) == "backward"]
    goes_back = any(name_of(c.func) == "train" for c in inside)
    has_loop = any(isinstance(n, ast.For) for s in outer.body for n in ast.walk(s))
    if evals and trains and has_loop and not goes_back:
        yield make_slip("never-back", evals[0], path, _owner(evals[0]), str(outer.lineno))


def _list_reached(statements: Sequence[ast.stmt], tree: ast.Module) -> list[ast.Call]:
    """The calls of statements, and those of the functions of the file that they call, twice."""
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    nodes: list[ast.AST] = list(statements)
    seen: set[str] = set()
    for _ in range(3):
        called = {name_of(c.func) for n in nodes for c in ast.walk(n) if isinstance(c, ast.Call)}
        added = [f for f in functions if f.name in called - seen]
        seen |= {f.name for f in added}
        nodes += added
    return [c for n in nodes for c in ast.walk(n) if isinstance(c, ast.Call)]
