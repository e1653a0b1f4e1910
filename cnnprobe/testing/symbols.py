"""Shapes with symbolic dimensions, "N", "H/4", "C*2", "...", bound at first use and held to
afterwards.
"""

import ast
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import cast

from cnnprobe.errors import UsageError

Dimension = int | str | None
Shape = Sequence[Dimension] | str | Sequence[Sequence[Dimension]]
"""A shape as a tuple of dimensions or as one string; a list of shapes for several outputs."""

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,  # a size is whole: pooling rounds down as well
    ast.FloorDiv: operator.floordiv,
}
_FIX = (
    'use a number, a name such as "N", arithmetic such as "H/4", None for any size, or "..." for '
    "any number of dims"
)


def parse_shape(shape: Shape) -> list[tuple[Dimension, ...]]:
    """The shape of each output, dimension by dimension; of a string its words.

    >>> parse_shape("N 64 H/4 rows=3")
    [('N', 64, 'H/4', 3)]
    >>> parse_shape([("N", 5), "N 4"])
    [('N', 5), ('N', 4)]
    """
    if isinstance(shape, list) and all(
        isinstance(one, tuple | str) and not _is_dimension(one) for one in shape
    ):
        return [parse_shape(cast("Shape", one))[0] for one in shape]
    words = (
        shape.replace(",", " ").split()
        if isinstance(shape, str)
        else cast("Sequence[Dimension]", shape)
    )
    dimensions = tuple(_parse_dimension(word) for word in words)
    if sum(_is_open(dimension) for dimension in dimensions) > 1:
        raise UsageError(
            f"{shape!r} has more than one open place",
            where="a shape",
            fix='use "..." or "*name" once',
        )
    return [dimensions]


def _is_dimension(text: object) -> bool:
    return isinstance(text, str) and len(text.replace(",", " ").split()) == 1


def _parse_dimension(word: Dimension) -> Dimension:
    if word is None or isinstance(word, int) or word in {"...", "_"}:
        return None if word == "_" else word
    word = word.rpartition("=")[2]  # jaxtyping's "rows=3": a comment and a size
    if word.isdigit():
        return int(word)
    if not _is_open(word):
        _check(_parse(word).body, word)
    elif not word[1:].isidentifier():
        raise _make_unreadable_error(word)
    return word


def _is_open(dimension: Dimension) -> bool:
    return isinstance(dimension, str) and (dimension == "..." or dimension.startswith("*"))


def _check(node: ast.expr, text: str) -> None:
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        _check(node.left, text)
        _check(node.right, text)
    elif not (
        isinstance(node, ast.Name)
        or (isinstance(node, ast.Constant) and isinstance(node.value, int))
    ):
        raise _make_unreadable_error(text)


def list_names(shapes: Iterable[Sequence[Sequence[Dimension]]]) -> set[str]:
    """All names that stand in any dimension."""
    words = {
        d
        for outputs in shapes
        for shape in outputs
        for d in shape
        if isinstance(d, str) and not _is_open(d)
    }
    return {name for word in words for name in _find_names(word)}


def _find_names(text: str) -> list[str]:
    return sorted({node.id for node in ast.walk(_parse(text)) if isinstance(node, ast.Name)})


def spell(outputs: Sequence[Sequence[Dimension]]) -> str:
    """Shapes as they are shown: "(N, 64, any)"."""
    texts = [
        ", ".join("any" if d is None else str(d) for d in shape) + ("," if len(shape) == 1 else "")
        for shape in outputs
    ]
    return ", ".join(f"({text})" for text in texts)


class Symbols:
    """The names of dimensions and the numbers that they stand for."""

    def __init__(self) -> None:
        self._bound: dict[str, int | tuple[int, ...]] = {}

    def bind(self, name: str, size: int) -> None:
        """Let `name` stand for `size`."""
        self._bound[name] = size

    def bindings(self) -> str:
        """All bound names in words: "N = 2, H = 32"."""
        return ", ".join(f"{name} = {size}" for name, size in self._bound.items())

    def mismatches(
        self, wanted: Sequence[Sequence[Dimension]], actual: Sequence[Sequence[int]]
    ) -> str:
        """Why the outputs have not the `wanted` shapes, or ""; one wanted shape is that of the
        first output.
        """
        if not actual or 1 < len(wanted) != len(actual):
            return f"{len(actual)} outputs, not {len(wanted)}"
        reasons = (self.mismatch(one, shape) for one, shape in zip(wanted, actual, strict=False))
        return next((reason for reason in reasons if reason), "")

    def mismatch(self, wanted: Sequence[Dimension], actual: Sequence[int]) -> str:
        """Why `actual` is not the `wanted` shape, or "" if it is; free names are bound on the way.

        >>> symbols = Symbols()
        >>> symbols.mismatch(("N", 64, "H/2"), (8, 64, 16)), symbols.mismatch(("N", None), (8, 3))
        ('no value is known yet for H', '')
        >>> symbols.bind("H", 32)
        >>> symbols.mismatch(("N", 64, "H/2"), (8, 64, 16)), symbols.mismatch(("N",), (9,))
        ('', 'N = 8, not 9')
        >>> symbols.mismatch(("N", "...", 3), (8, 5, 5, 3)), symbols.mismatch(("*rest", 3), (8, 5, 3)), symbols.mismatch(("*rest",), (8,))
        ('', '', '*rest = (8, 5), not (8,)')
        """  # noqa: E501
        gap = next((k for k, d in enumerate(wanted) if _is_open(d)), None)
        if gap is None:
            if len(wanted) != len(actual):
                return f"{len(actual)} dimensions, not {len(wanted)}"
            return self._compare_all(wanted, actual)
        after = len(wanted) - gap - 1
        if len(actual) < gap + after:
            return f"{len(actual)} dimensions, not {gap + after} or more"
        end = len(actual) - after
        return (
            self._compare_all(wanted[:gap], actual[:gap])
            or self._compare_gap(str(wanted[gap]), tuple(actual[gap:end]))
            or self._compare_all(wanted[gap + 1 :], actual[end:])
        )

    def _compare_all(self, wanted: Sequence[Dimension], actual: Sequence[int]) -> str:
        reasons = (self._compare(want, size) for want, size in zip(wanted, actual, strict=True))
        return next((reason for reason in reasons if reason), "")

    def _compare_gap(self, want: str, sizes: tuple[int, ...]) -> str:
        if want == "..." or self._bound.setdefault(want, sizes) == sizes:
            return ""
        return f"{want} = {self._bound[want]}, not {sizes}"

    def _compare(self, want: Dimension, size: int) -> str:
        if want is None:
            return ""
        if isinstance(want, int):
            return "" if want == size else f"{want}, not {size}"
        if want.isidentifier():
            value = self._bound.setdefault(want, size)
        else:
            free = [name for name in _find_names(want) if name not in self._bound]
            if free:
                return f"no value is known yet for {free[0]}"
            value = self._evaluate(_parse(want).body, want)
        return "" if value == size else f"{want} = {value}, not {size}"

    def _evaluate(self, node: ast.expr, text: str) -> int:
        if isinstance(node, ast.BinOp):
            try:
                return _OPERATORS[type(node.op)](
                    self._evaluate(node.left, text), self._evaluate(node.right, text)
                )
            except ZeroDivisionError as error:
                raise _make_unreadable_error(text) from error
        return cast(
            "int",
            node.value
            if isinstance(node, ast.Constant)
            else self._bound[cast("ast.Name", node).id],
        )


def _parse(text: str) -> ast.Expression:
    try:
        return ast.parse(text, mode="eval")
    except SyntaxError as error:
        raise _make_unreadable_error(text) from error


def _make_unreadable_error(text: str) -> UsageError:
    return UsageError(f"{text!r} is not a dim", where="a shape", fix=_FIX)
