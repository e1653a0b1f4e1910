"""Symbolic dimensions: "N", "H/4", "C*2", bound at first use and held to afterwards."""

import ast
import operator
from collections.abc import Callable, Sequence

from cnnprobe.errors import UsageError

Dimension = int | str | None

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
}


class Symbols:
    """The names of dimensions and the numbers that they stand for."""

    def __init__(self) -> None:
        self._bound: dict[str, int] = {}

    def bind(self, name: str, size: int) -> None:
        """Let `name` stand for `size`."""
        self._bound[name] = size

    def bindings(self) -> str:
        """All bound names in words: "N = 2, H = 32"."""
        return ", ".join(f"{name} = {size}" for name, size in self._bound.items())

    def mismatch(self, wanted: Sequence[Dimension], actual: Sequence[int]) -> str:
        """Why `actual` is not the `wanted` shape, or "" if it is; free names are bound on the way.

        >>> symbols = Symbols()
        >>> symbols.mismatch(("N", 64, "H/2"), (8, 64, 16)), symbols.mismatch(("N", None), (8, 3))
        ('no number is bound to H', '')
        >>> symbols.bind("H", 32)
        >>> symbols.mismatch(("N", 64, "H/2"), (8, 64, 16)), symbols.mismatch(("N",), (9,))
        ('', 'N = 8, not 9')
        """
        if len(wanted) != len(actual):
            return f"{len(actual)} dimensions, not {len(wanted)}"
        for want, size in zip(wanted, actual, strict=True):
            reason = self._compare(want, size)
            if reason:
                return reason
        return ""

    def _compare(self, want: Dimension, size: int) -> str:
        if want is None or want in ("...", "_", "*"):
            return ""
        if isinstance(want, int):
            return "" if want == size else f"{want}, not {size}"
        if want.isidentifier() and want not in self._bound:
            self._bound[want] = size
            return ""
        tree = _parse(want)
        free = sorted({node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} - set(self._bound))
        if free:
            return f"no number is bound to {free[0]}"
        value = self._value(tree.body, want)
        return "" if value == size else f"{want} = {value}, not {size}"

    def _value(self, node: ast.expr, text: str) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return self._bound[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            try:
                return _OPERATORS[type(node.op)](self._value(node.left, text), self._value(node.right, text))
            except ZeroDivisionError:
                pass
        raise UsageError(f"{text!r} is no dimension", where="a shape", fix='use a number, a name such as "N", or arithmetic such as "H/4"')


def _parse(text: str) -> ast.Expression:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise UsageError(
            f"{text!r} is no dimension", where="a shape", fix='use a number, a name such as "N", or arithmetic such as "H/4"'
        ) from error
