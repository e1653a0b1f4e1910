"""What the loop passes to the model: where it made it, and with which size instead it fits."""

import ast
import traceback
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

from torch import Tensor
from torch.utils.data import DataLoader

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import TextChange, open_file
from cnnprobe.crash.facts.frames import find_expression, find_value, list_frames, parse_code
from cnnprobe.crash.facts.words import shorten
from cnnprobe.recorder import sources
from cnnprobe.recorder.values import argument_leaves
from cnnprobe.records.trace import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Resized:
    """How an argument of the model is to be made for a size."""

    title: str
    code: str
    written: Callable[[], list[TextChange]]


def _find_caller(crash: Crash) -> tuple[types.FrameType, ast.Call] | None:
    """The user's frame that called the model, and the call."""
    frames = list_frames(crash.error)
    places, last = traceback.extract_tb(crash.error.__traceback__), None
    for i, frame in enumerate(frames):
        if frame.f_locals.get("self") is crash.model and last is not None:
            call = find_expression(places[last])
            return (frames[last], call) if isinstance(call, ast.Call) else None
        if sources.is_users(frame.f_code.co_filename):
            last = i
    return None


def resize_argument(crash: Crash, info: TensorInfo, wrong: int, right: int) -> Resized | None:
    """An argument made with a size that is written there; None where that is not known."""
    found, root = _find_caller(crash), crash.find_root(info)
    if found is None or root is None:
        return None
    frame, call = found
    named: dict[str, ast.expr] = {f"[{i}]": node for i, node in enumerate(call.args)}
    named |= {k.arg: k.value for k in call.keywords if k.arg is not None}
    node = named.get(root.path) or named.get(root.path.partition("]")[0] + "]")
    values = {**frame.f_globals, **frame.f_locals}
    tree = parse_code(frame.f_code)
    if not isinstance(node, ast.Name) or tree is None:
        return None
    made = find_value(tree, node.id, call.lineno)
    sizes = [n for n in ast.walk(made) if _read_size(n, values) == wrong] if made else []
    if made is None or not sizes:
        return None
    given = dict(argument_leaves(crash.args, crash.kwargs))
    others = [(n, given.get(key)) for key, n in named.items() if n is not node]
    others = [pair for pair in others if _is_set_before(tree, pair[0], made.lineno, call.lineno)]
    if not (text := _spell_size(others, sizes[0], right)):
        return None
    path = frame.f_code.co_filename
    code = ast.unparse(made).replace(ast.unparse(sizes[0]), text)

    def write() -> list[TextChange]:
        file = open_file(path)
        return [file.replace(n, text) for n in sizes if isinstance(n, ast.expr)]

    place = shorten(f"{path}:{made.lineno}")
    title = f"make {node.id!r} with {text} instead of {ast.unparse(sizes[0])} at {place}"
    return Resized(title=title, code=f"{node.id} = {code}", written=write)


def _is_set_before(tree: ast.AST, node: ast.expr, line: int, end: int) -> bool:
    """Whether every name of an expression is the same at a line of a function as at its end."""
    read = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    stored = [n for n in ast.walk(tree) if _is_stored(n)]
    before = {n.id for n in stored if n.lineno < line}
    later = {n.id for n in stored} - before | {n.id for n in stored if line < n.lineno < end}
    return not read & later


def _is_stored(node: ast.AST) -> TypeGuard[ast.Name]:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _read_size(node: ast.AST, values: Mapping[str, Any]) -> int | None:
    """A size as it is written: 8, batch_size, x.size(0), x.shape[0], len(x)."""
    match node:
        case ast.Constant(value=int(size)):
            return size
        case ast.Name(id=name):
            value = values.get(name)
            return value if type(value) is int else None
        case ast.Call(func=ast.Name(id="len"), args=[ast.Name(id=name)]):
            value = values.get(name)
            return len(value) if isinstance(value, Tensor) and value.dim() else None
        case (
            ast.Call(
                func=ast.Attribute(value=ast.Name(id=name), attr="size"),
                args=[ast.Constant(value=int(dim))],
            )
            | ast.Subscript(
                value=ast.Attribute(value=ast.Name(id=name), attr="shape"),
                slice=ast.Constant(value=int(dim)),
            )
        ):
            value = values.get(name)
            if isinstance(value, Tensor) and -value.dim() <= dim < value.dim():
                return value.shape[dim]
    return None


def _spell_size(others: list[tuple[ast.expr, Any]], size: ast.AST, right: int) -> str:
    """The size of another argument: of that which is read there already, if it is one."""
    read = {n.id for n in ast.walk(size) if isinstance(n, ast.Name)}
    found = [
        (bool(read & {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}), node, dim)
        for node, value in others
        if isinstance(value, Tensor)
        for dim, count in enumerate(value.shape)
        if count == right and isinstance(node, ast.Name | ast.Subscript | ast.Attribute)
    ]
    best = max(found, key=lambda each: each[0], default=None)
    return f"{ast.unparse(best[1])}.size({best[2]})" if best is not None else ""


def describe_last_batch(crash: Crash, batch: int) -> str:
    """That a batch is the smaller last one of a DataLoader; "" where it is not known to be."""
    frames = list_frames(crash.error)
    users = [f for f in frames if sources.is_users(f.f_code.co_filename)]
    for name, loader in ((n, v) for f in users for n, v in {**f.f_globals, **f.f_locals}.items()):
        if not isinstance(loader, DataLoader) or loader.drop_last or not loader.batch_size:
            continue
        try:
            count = len(loader.dataset)  # type: ignore[arg-type]
        except TypeError:
            continue
        if count > loader.batch_size and count % loader.batch_size == batch:
            return (
                f"the last of {name!r}, which has {count} samples in batches of {loader.batch_size}"
            )
    return ""
