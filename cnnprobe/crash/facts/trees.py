"""Syntax trees of the user's files: each text is parsed once, and each tree walked once.

Many causes and edits ask for the same trees. Nobody may change them.
"""

import ast
import functools
import linecache
import types


def parse_file(path: str) -> ast.Module | None:
    """The syntax tree of a file, or of a cell of a notebook; None where it is not at hand."""
    try:
        text = "".join(linecache.getlines(path))
        return parse_text(text) if text else None
    except (SyntaxError, ValueError):
        return None


@functools.lru_cache(maxsize=32)
def parse_text(text: str) -> ast.Module:
    """The syntax tree of the text of a file.

    Raises:
        SyntaxError, ValueError: it is no Python.
    """
    return ast.parse(text)


@functools.lru_cache(maxsize=256)
def list_nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """The nodes of a tree, or of a part of it, by level."""
    return tuple(ast.walk(tree))


@functools.lru_cache(maxsize=256)
def list_functions(tree: ast.AST) -> tuple[ast.FunctionDef | ast.AsyncFunctionDef, ...]:
    """The functions of a tree, by level."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return tuple(node for node in list_nodes(tree) if isinstance(node, kinds))


def starts_at(node: ast.FunctionDef | ast.AsyncFunctionDef, code: types.CodeType) -> bool:
    """Whether the code of a function starts with a node: at its "def", or at a decorator."""
    return code.co_firstlineno in (node.lineno, *(d.lineno for d in node.decorator_list))
