"""Modules, calls and shapes in words, and the arguments of a recorded call."""

import linecache
import math
from typing import Any

import torch

from cnnprobe.operations import find_signature
from cnnprobe.records.trace import ModuleCall, TensorInfo


def quote(fqn: str) -> str:
    """A module's name in quotes; the root has none."""
    return f"'{fqn}'" if fqn else "the model"


def write_module(fqn: str) -> str:
    """A module as Python writes it: model.features[0]."""
    parts = (f"[{part}]" if part.isdigit() else f".{part}" for part in fqn.split(".") if part)
    return "model" + "".join(parts)


def shorten(source: str) -> str:
    """A source without its folders: net.py:12."""
    return source.replace("\\", "/").rpartition("/")[2]


def read_line(source: str) -> str:
    """The text of the line that a source names."""
    path, _, number = source.rpartition(":")
    return linecache.getline(path, int(number)).strip() if path and number.isdigit() else ""


def count_elements(shape: tuple[int, ...]) -> int:
    """Number of elements."""
    return math.prod(shape)


def write_product(shape: tuple[int, ...]) -> str:
    """128 x 4 x 4 = 2048."""
    return " x ".join(map(str, shape)) + (f" = {math.prod(shape)}" if len(shape) > 1 else "")


def get_argument(call: ModuleCall, position: int, name: str) -> Any:
    """A plain argument of a recorded call, by position or name; None where it was not given."""
    given = call.arguments
    for path in (f"[{position}]", name):
        if path in given:
            return given[path]
        if parts := [given[key] for key in given if key.startswith(path + "[")]:
            return tuple(parts)
    return None


def get_tensor(call: ModuleCall, position: int, name: str) -> TensorInfo | None:
    """A tensor argument of a recorded call, by position or name."""
    paths = {f"[{position}]", name} | ({""} if position == 0 else set())
    return next((t for t in call.inputs if t.path in paths), None)


def read_argument(call: ModuleCall, name: str) -> Any:
    """A plain argument of a recorded function, by torch's name for it, or its default."""
    found = get_argument(call, _find_position(call, name), name)
    signature = find_signature(call.kind)
    return signature.defaults.get(name) if found is None and signature else found


def read_tensor(call: ModuleCall, name: str) -> TensorInfo | None:
    """A tensor argument of a recorded function, by torch's name for it."""
    return get_tensor(call, _find_position(call, name), name)


def _find_position(call: ModuleCall, name: str) -> int:
    signature = find_signature(call.kind)
    return signature.names.index(name) if signature and name in signature.names else -1


def count_of(number: int, noun: str) -> str:
    """1 channel, 3 channels."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def operation(call: ModuleCall) -> str:
    """The bare name of a function: "view", "cat"; "" for a module."""
    return "" if call.fqn is not None else call.kind.rpartition(".")[2]


def is_floating(dtype: str) -> bool:
    """Whether a dtype's name is that of a floating-point type."""
    found = getattr(torch, dtype, None)
    return isinstance(found, torch.dtype) and found.is_floating_point
