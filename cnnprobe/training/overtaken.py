"""Finds comparisons with a best value that a statement before them has already replaced."""

import ast
from collections.abc import Iterator

from cnnprobe.diagnosis.evidence.texts import KeptBest
from cnnprobe.training.sourcing import list_blocks, name_of

_STRICT = ast.Lt | ast.Gt
_ORDERED = ast.Lt | ast.LtE | ast.Gt | ast.GtE


def find_overtaken(node: ast.If, scope: ast.AST, path: str, seen: set[str]) -> Iterator[KeptBest]:
    """The comparison of an `if` that is never true, as the best value so far is the value itself,
    or one that is better, by a statement before it in the same block.
    """
    test, place = node.test, f"{path}:{node.lineno}"
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or place in seen:
        return
    if not isinstance(test.ops[0], _STRICT):
        return
    smaller, larger = _order(test)
    sides = {smaller, larger}
    block = next((b for b in list_blocks(scope) if node in b), [])
    for statement in reversed(block[: block.index(node)] if block else []):
        best = _find_taken(statement, smaller, larger)
        if best:
            seen.add(place)
            yield KeptBest(
                kind="overtaken", text=ast.unparse(test), source=place, name=best,
                value=ast.unparse(statement).splitlines()[0],
            )  # fmt: skip
            return
        if any(ast.unparse(n) in sides for n in ast.walk(statement) if _is_stored(n)):
            return  # one of the two is something else from here on


def _order(test: ast.Compare) -> tuple[str, str]:
    """Both sides of a comparison, first the one that is to be smaller."""
    sides = ast.unparse(test.left), ast.unparse(test.comparators[0])
    return sides if isinstance(test.ops[0], ast.Lt | ast.LtE) else (sides[1], sides[0])


def _find_taken(statement: ast.stmt, smaller: str, larger: str) -> str:
    """The best value that a statement makes at least as good as the new one: best = max(best, x),
    or the same `if` with best = x.
    """
    sides = {smaller, larger}
    if isinstance(statement, ast.If) and not statement.orelse:
        test = statement.test
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return ""
        if not isinstance(test.ops[0], _ORDERED) or _order(test) != (smaller, larger):
            return ""
        for inner in statement.body:
            if isinstance(inner, ast.Assign) and len(inner.targets) == 1:
                pair = {ast.unparse(inner.targets[0]), ast.unparse(inner.value)}
                if pair == sides:
                    return ast.unparse(inner.targets[0])
        return ""
    if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
        return ""
    call, best = statement.value, ast.unparse(statement.targets[0])
    wanted = {smaller: "max", larger: "min"}.get(best)  # best < x: best = max(best, x)
    if not isinstance(call, ast.Call) or wanted is None or name_of(call.func) != wanted:
        return ""
    return best if {ast.unparse(a) for a in call.args} == sides else ""


def _is_stored(node: ast.AST) -> bool:
    return isinstance(getattr(node, "ctx", None), ast.Store)
