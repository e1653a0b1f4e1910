"""Where the user's code turns recording for a backward off: with torch.no_grad(), or a
decorator.
"""

import ast
import functools
from collections.abc import Iterator

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import UnknownPlaceError
from cnnprobe.crash.facts.frames import find_frames
from cnnprobe.crash.facts.methods import find_method, open_method
from cnnprobe.crash.facts.trees import list_nodes, parse_file
from cnnprobe.crash.facts.words import shorten

_OFF = ("no_grad", "inference_mode")


def is_off(error: BaseException) -> bool:
    """Whether one of the user's lines that led to an exception stands where it is turned off."""
    places = ((parse_file(f.filename), f.lineno or 0) for f in find_frames(error))
    return any(
        block.lineno <= line <= (block.end_lineno or 0)
        for tree, line in places
        if tree is not None
        for block in _list_blocks(tree)
    )


def find_off(crash: Crash) -> str:
    """Where a forward is run without recording: "net.py:12"; "" where it is not known."""
    for fqn, module in crash.modules.items():
        if (method := find_method(module, fqn)) is None:
            continue
        try:
            file, node = open_method(method.function.__code__)
        except UnknownPlaceError:
            continue
        for block in _list_blocks(node):
            return shorten(f"{file.path}:{block.lineno}")
    return _find_around(crash)


def _find_around(crash: Crash) -> str:
    """The block in the function that called backward(), in which a module of the model is
    called.
    """
    frames = find_frames(crash.error)
    tree = parse_file(frames[-1].filename) if frames else None
    line = frames[-1].lineno or 0 if frames else 0
    blocks = [b for b in _list_blocks(tree) if b.lineno < line] if tree is not None else []
    calls = [b for b in blocks if any(isinstance(n, ast.Call) for s in b.body for n in ast.walk(s))]
    return shorten(f"{frames[-1].filename}:{calls[-1].lineno}") if calls else ""


@functools.lru_cache(maxsize=32)
def _list_blocks(tree: ast.AST) -> tuple[ast.With | ast.FunctionDef, ...]:
    return tuple(_find_blocks(tree))


def _find_blocks(tree: ast.AST) -> Iterator[ast.With | ast.FunctionDef]:
    for node in list_nodes(tree):
        heads = []
        if isinstance(node, ast.With):
            heads = [item.context_expr for item in node.items]
        elif isinstance(node, ast.FunctionDef):
            heads = node.decorator_list
        nodes = [n for h in heads for n in ast.walk(h)]
        names = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
        names |= {n.id for n in nodes if isinstance(n, ast.Name)}
        if names & set(_OFF):
            yield node  # type: ignore[misc]
