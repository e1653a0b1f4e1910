"""The file that torch.load refused: what it holds, read without running anything of it."""

import ast
import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cnnprobe.crash.facts.frames import find_frames, get_path, list_frames, walk_expression
from cnnprobe.crash.facts.trees import list_nodes, parse_file
from cnnprobe.errors import ProbeError
from cnnprobe.loading.checkpoints import detect_kind, find_unsafe_globals

_LOADING = "torch/serialization.py"
_MOST_BYTES = 2**26  # of a buffer in memory that is looked into
# How files begin that are taken for checkpoints. Source: the format of each.
_HEADS = (
    (b"\x89HDF", "a file of HDF5, as Keras writes it"),
    (b"\x93NUMPY", "an array of NumPy: numpy.load reads it"),
    (b"\x89PNG", "an image"), (b"\xff\xd8\xff", "an image"),
    (b"\x1f\x8b", "an archive of gzip"), (b"ONNX", "a model of ONNX"),
    (b"GGUF", "a model of GGUF"), (b"<", "a web page: the download gave it instead of the file"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FailingLoad:
    """A call of torch.load that raised."""

    shown: str  # the file as the user knows it
    file: Any  # a path, or a buffer
    is_restricted: bool  # weights_only=True: tensors and plain values alone
    wanted: tuple[str, str] | None = None  # module and name of a class that was not found


def find_load(error: BaseException) -> FailingLoad | None:
    """The call of torch.load that raised; None: none did."""
    found: dict[str, Any] | None = None
    wanted = None
    for frame in list_frames(error):
        if not get_path(frame).endswith(_LOADING):
            continue
        if frame.f_code.co_name == "load":
            found = dict(frame.f_locals)
        elif frame.f_code.co_name == "find_class":
            wanted = (str(frame.f_locals.get("mod_name")), str(frame.f_locals.get("name")))
    if found is None:
        return None
    file = found.get("f")
    is_path = isinstance(file, str | os.PathLike)
    return FailingLoad(
        shown=repr(os.fspath(file)) if is_path else "the file",  # type: ignore[arg-type]
        file=file,
        is_restricted=bool(found.get("weights_only")),
        wanted=wanted,
    )


@contextlib.contextmanager
def open_path(load: FailingLoad) -> Iterator[Path | None]:
    """A path to what was read; None where it cannot be read without touching the user's file."""
    if isinstance(load.file, str | os.PathLike):
        yield Path(load.file)
    elif isinstance(load.file, io.BytesIO) and load.file.getbuffer().nbytes <= _MOST_BYTES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "buffer.pt"
            path.write_bytes(load.file.getvalue())
            yield path
    else:
        yield None


def detect_format(path: Path) -> str:
    """What a file is, as `cnnprobe.loading.checkpoints` names it, or in words; "": no file."""
    try:
        kind = detect_kind(path)
    except ProbeError:
        return ""
    if kind != "unknown":
        return kind
    with path.open("rb") as file:
        start = file.read(16)
    return next((said for head, said in _HEADS if start.startswith(head)), "unknown")


def list_classes(path: Path) -> list[str]:
    """The classes and functions beyond tensors that a file names, outermost class first."""
    names = find_unsafe_globals(path)
    return sorted(names, key=lambda name: (name.startswith("torch."), name))


def is_module_class(name: str) -> bool:
    """Whether a name such as torch.nn.modules.conv.Conv2d is that of a class of modules."""
    module, _, kind = name.rpartition(".")
    found = getattr(sys.modules.get(module), kind, None)
    return isinstance(found, type) and issubclass(found, nn.Module)


def list_definitions(name: str) -> list[str]:
    """The modules of the program that define a class of modules of this name."""
    found = []
    for module, held in list(sys.modules.items()):
        kind = getattr(held, "__dict__", {}).get(name)
        if isinstance(kind, type) and issubclass(kind, nn.Module) and kind.__module__ == module:
            found.append(module)
    return found


def find_call(error: BaseException) -> ast.Call | None:
    """The user's call of torch.load, as it is written."""
    node = next(iter(walk_expression(error)), None)
    return node if isinstance(node, ast.Call) else None


def is_given_to_a_model(error: BaseException, call: ast.Call) -> bool:
    """Whether what the call gives goes to load_state_dict at once."""
    tree = parse_file(find_frames(error)[-1].filename)
    outer = (n for n in list_nodes(tree) if isinstance(n, ast.Call)) if tree is not None else ()
    return any(
        call in node.args
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "load_state_dict"
        for node in outer
    )
