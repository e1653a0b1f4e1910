"""Finds in the text of a program where it keeps weights, best or earlier ones, by reference alone,
or in a comparison that keeps the wrong ones.
"""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cnnprobe.diagnosis.evidence.texts import KeptBest
from cnnprobe.training.overtaken import find_overtaken
from cnnprobe.training.sourcing import FunctionText, is_own_file, name_of, read_file

_LESS, _GREATER = (ast.Lt, ast.LtE), (ast.Gt, ast.GtE)
_SMALL = frozenset({"loss", "losses", "err", "error", "mae", "mse", "rmse", "nll", "perplexity"})
_LARGE = frozenset(
    {"acc", "accs", "accuracy", "f1", "iou", "miou", "auc", "auroc", "psnr", "ssim", "precision",
     "recall", "top1"}
)  # fmt: skip
BEYOND = 100.0  # no accuracy is above it, in percent
# calls that give a new container of the same tensors, or the same tensor
_SHALLOW = frozenset({"copy", "dict", "OrderedDict", "list", "tuple"})
_SAME = frozenset({"detach", "data", "cpu", "to"})
# words in the names of what is to stay while the weights change
_STAYS = frozenset(
    {"before", "old", "init", "initial", "anchor", "shadow", "prev", "previous", "ema", "backup",
     "snapshot", "teacher", "frozen", "pretrained", "source", "original", "orig", "averaged"}
)  # fmt: skip
_CHANGES = frozenset({"step", "load_state_dict", "copy_", "add_", "mul_", "lerp_", "backward"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Branch:
    """The branch of an `if` that takes a new best value."""

    node: ast.If
    scope: ast.AST  # the function, or the file
    body: list[ast.stmt]
    wants: str  # "less" | "greater": what the new value is, beside the old best
    value: str
    best: str


def find_kept(
    functions: Sequence[FunctionText], caller: str, models: frozenset[str]
) -> Iterator[KeptBest]:
    """What the functions of the step and the file that asks keep of the best state so far;
    `models` are the variables that hold a module.
    """
    scopes: list[tuple[str, ast.AST]] = [(f.path, f.node) for f in functions]
    tree = read_file(caller) if is_own_file(caller) else None
    seen: set[str] = set()
    files = {path for path, _ in scopes} | ({caller} if tree is not None else set())
    for path in sorted(files):
        steps = [f.node for f in functions if f.path == path] if path != caller else None
        yield from _find_aliases(path, models, steps)
    for path, scope in [*scopes, *([(caller, tree)] if tree is not None else [])]:
        whole = read_file(path)
        for node, owner in _list_repeated(scope, scope, isinstance(scope, ast.Module)):
            yield from find_overtaken(node, owner, path, seen)
            for branch in _list_branches(node, owner):
                source = f"{path}:{node.lineno}"
                if source not in seen and whole is not None:
                    found = list(_judge(branch, path, whole, models))
                    seen |= {source} if found else set()
                    yield from found


def _list_repeated(
    node: ast.AST, scope: ast.AST, is_file: bool
) -> Iterator[tuple[ast.If, ast.AST]]:
    """The `if`s of a function, and those of a file that stand in a function or in a loop, each with
    its scope.
    """
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and not is_file:
            yield child, scope
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        outside = is_file and not is_function and not isinstance(child, ast.For | ast.While)
        yield from _list_repeated(child, child if is_function else scope, outside)


def _list_branches(node: ast.If, scope: ast.AST) -> Iterator[_Branch]:
    for test in ast.walk(node.test):
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            continue
        is_less = isinstance(test.ops[0], _LESS)
        if not is_less and not isinstance(test.ops[0], _GREATER):
            continue
        for body, inverted in ((node.body, False), (node.orelse, True)):
            for statement in body:
                sides = _find_sides(statement, test)
                if sides is not None:
                    value, best, is_left = sides
                    wants = "less" if is_less == is_left != inverted else "greater"
                    yield _Branch(
                        node=node, scope=scope, body=body, wants=wants, value=value, best=best
                    )


def _find_sides(statement: ast.stmt, test: ast.Compare) -> tuple[str, str, bool] | None:
    """The new value, the best one, and whether the new one stands on the left, where a statement
    makes one side of the comparison the other.
    """
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return None
    best, value = ast.unparse(statement.targets[0]), ast.unparse(statement.value)
    left, right = test.left, test.comparators[0]
    for new, old, is_left in ((left, right, True), (right, left, False)):
        if ast.unparse(new) == value and any(ast.unparse(n) == best for n in _list_parts(old)):
            return value, best, is_left
    return None


def _list_parts(side: ast.expr) -> list[ast.expr]:
    """A side, and the parts of a sum: best + delta."""
    return [side, *([side.left, side.right] if isinstance(side, ast.BinOp) else [])]


def _judge(
    branch: _Branch, path: str, whole: ast.Module, models: frozenset[str]
) -> Iterator[KeptBest]:
    place = f"{path}:{branch.node.lineno}"
    sizes = tell_better(f"{branch.value} {branch.best}")
    condition = ast.unparse(branch.node.test)
    if sizes and sizes != branch.wants and "best" in branch.best.lower():
        yield KeptBest(kind="direction", text=condition, source=place, name=branch.best)
    elif sizes:
        start = _find_start(whole, branch)
        if start:
            yield KeptBest(
                kind="start", text=condition, source=place, name=branch.best, value=start
            )
    if isinstance(branch.body[-1], ast.Return | ast.Break):
        return  # nothing trains on behind it
    for statement in branch.body:
        of = _find_alias(statement, path, models)
        if of and not _is_saved_at_once(statement, branch, whole):
            yield KeptBest(
                kind="reference",
                text=ast.unparse(statement),
                source=f"{path}:{statement.lineno}",
                name=ast.unparse(statement.targets[0]),  # type: ignore[attr-defined]
                value=of,
            )


def tell_better(text: str) -> str:
    """Which values are better, by the words of the names: "less", "greater", "" if unknown."""
    words = _split(text)
    small, large = words & _SMALL, words & _LARGE
    if bool(small) == bool(large) or "-" in text or words & {"worst", "neg", "negative"}:
        return ""
    return "less" if small else "greater"


def _find_start(whole: ast.Module, branch: _Branch) -> str:
    """The constant that the best value starts with, where nothing is better than it; else ""."""
    starts = _list_starts(branch.scope, branch) or _list_starts(whole, branch)
    values = [value for value in map(_read_number, starts) if value is not None]
    if not starts or len(values) < len(starts):
        return ""
    if branch.wants == "less":
        return ast.unparse(starts[0]) if max(values) <= 0 else ""
    return ast.unparse(starts[0]) if min(values) > BEYOND else ""


def _list_starts(scope: ast.AST, branch: _Branch) -> list[ast.expr]:
    """What else the best value is assigned in a scope, alone or as one of several."""
    found: list[ast.expr] = []
    for node in ast.walk(scope):
        for target in node.targets if isinstance(node, ast.Assign) else ():
            pairs = [(target, node.value)]  # type: ignore[attr-defined]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):  # type: ignore[attr-defined]
                pairs = list(zip(target.elts, node.value.elts, strict=False))  # type: ignore[attr-defined]
            found += [
                value
                for name, value in pairs
                if ast.unparse(name) == branch.best and ast.unparse(value) != branch.value
            ]
    return found


def _read_number(node: ast.expr) -> float | None:
    text = ast.unparse(node).replace('"', "'")
    if text in ("float('inf')", "math.inf", "np.inf", "numpy.inf", "torch.inf"):
        return float("inf")
    try:
        return float(text)
    except ValueError:
        return None


def _find_alias(statement: ast.stmt, path: str, models: frozenset[str]) -> str:
    """What a statement keeps without a copy: "model.state_dict()", "model"; else ""."""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return ""
    value = statement.value
    if isinstance(value, ast.Name | ast.Attribute):
        kept = ast.unparse(value)
        return kept if kept in models and kept != ast.unparse(statement.targets[0]) else ""
    values = value.values if isinstance(value, ast.Dict) else [value]
    return next((of for part in values if (of := _strip(part, path))), "")


def _strip(node: ast.expr, path: str) -> str:
    """The state_dict() or parameters() whose own tensors an expression holds."""
    if isinstance(node, ast.DictComp | ast.ListComp):
        kept = node.value if isinstance(node, ast.DictComp) else node.elt
        return _strip_source(node.generators[0].iter) if _is_same(kept, path) else ""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and node.func.attr == "state_dict":
            return ast.unparse(node)
        if name_of(node.func) in _SHALLOW:
            inner = node.args[0] if node.args else getattr(node.func, "value", None)
            if isinstance(inner, ast.expr):
                return _strip(inner, path) or _strip_source(inner)
    return ""


def _strip_source(node: ast.expr) -> str:
    """Of model.state_dict().items() the state_dict(); parameters() as it is."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("state_dict", "parameters", "named_parameters"):
            return ast.unparse(node)
        if node.func.attr in ("items", "values"):
            return _strip_source(node.func.value)
    return ""


def _is_same(node: ast.expr, path: str) -> bool:
    """Whether an expression is a name, or shares its memory: v.detach(), p.data, and v.cpu() in a
    program without another device.
    """
    if isinstance(node, ast.Name):
        return True
    inner = node.func if isinstance(node, ast.Call) else node
    if not isinstance(inner, ast.Attribute) or inner.attr not in _SAME:
        return False
    moves = inner.attr in ("cpu", "to")
    return not (moves and _has_device(path)) and _is_same(inner.value, path)


def _has_device(path: str) -> bool:
    tree = read_file(path)
    words = ("cuda", "mps", "xpu", "device")
    return tree is None or any(w in ast.unparse(tree) for w in words)


def _is_saved_at_once(statement: ast.stmt, branch: _Branch, whole: ast.Module) -> bool:
    """Whether what is kept is read in this branch alone: saved to a file before the next step."""
    target = ast.unparse(statement.targets[0])  # type: ignore[attr-defined]
    inside = set(map(id, ast.walk(branch.node)))
    is_local = target.isidentifier() and not isinstance(branch.scope, ast.Module)
    reads = [
        id(n) in inside
        for n in ast.walk(branch.scope if is_local else whole)
        if isinstance(n, ast.Name | ast.Attribute | ast.Subscript)
        and isinstance(n.ctx, ast.Load)
        and ast.unparse(n) == target
    ]
    return bool(reads) and all(reads)


# -- what is no copy -------------------------------------------------------------------------------


def _find_aliases(
    path: str, models: frozenset[str], steps: list[ast.FunctionDef] | None
) -> Iterator[KeptBest]:
    """The variables of a file that are named as an earlier or another state of the weights, hold
    the weights themselves, and are read after these have changed. `steps`: only in these functions
    and those around them.
    """
    whole = read_file(path)
    for owner, node in _list_assigned(whole, None) if whole is not None else ():
        of = _find_alias(node, path, models)
        inside = set(ast.walk(owner or node)) if of and steps is not None else set()
        if not of or (owner and steps is not None and not inside.intersection(steps)):
            continue
        target = node.targets[0]
        words = _split(ast.unparse(target).rpartition(".")[2])
        stays = words & _STAYS and not _split(of) & _STAYS
        if stays and whole is not None and _is_read_late(node, owner, whole):
            yield KeptBest(
                kind="alias",
                text=ast.unparse(node),
                source=f"{path}:{node.lineno}",
                name=ast.unparse(target),
                value=of,
            )


def _split(name: str) -> set[str]:
    return set(re.split(r"[^a-z0-9]+", name.lower()))


def _list_assigned(
    node: ast.AST, owner: ast.AST | None
) -> Iterator[tuple[ast.AST | None, ast.Assign]]:
    """The assignments of a file to one target, each with its function; None: the file."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Assign) and len(child.targets) == 1:
            yield owner, child
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from _list_assigned(child, child if is_function else owner)


def _is_read_late(assigned: ast.Assign, owner: ast.AST | None, whole: ast.Module) -> bool:
    """Whether a variable that is assigned once is read in another function, or behind a call that
    changes weights; weights that are given other memory leave it as it is.
    """
    scope = owner or whole
    name = ast.unparse(assigned.targets[0])
    nodes = list(ast.walk(whole if "." in name or owner is None else scope))
    stores = [s for n in nodes if isinstance(n, ast.Assign) for s in n.targets]
    others = [s for s in stores if ast.unparse(s) == name and s is not assigned.targets[0]]
    if others or any(isinstance(s, ast.Attribute) and s.attr == "data" for s in stores):
        return False
    own = {id(n) for n in _list_own(scope)}
    reads = [n for n in nodes if _reads(n, name)]
    if any(id(n) not in own for n in reads):
        return True
    changed = [
        n.lineno
        for n in nodes
        if isinstance(n, ast.Call) and name_of(n.func) in _CHANGES and n.lineno > assigned.lineno
    ]
    return any(n.lineno > min(changed) for n in reads) if changed else False  # type: ignore[attr-defined]


def _list_own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function or file without those of its inner functions."""
    for child in ast.iter_child_nodes(scope):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            yield from _list_own(child)


def _reads(node: ast.AST, name: str) -> bool:
    return (
        isinstance(node, ast.Name | ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and ast.unparse(node) == name
    )
