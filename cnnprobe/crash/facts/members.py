"""What an attribute holds, as far as no code of the user's runs to read it."""

import ast
import contextlib
import inspect
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.crash.facts.values import FailingLine

_LONGEST = 40  # characters of a value that are shown
_LIBRARIES = ("torch", "numpy", "PIL")
_IN_C = (types.GetSetDescriptorType, types.MemberDescriptorType)


def read_member(owner: Any, name: str) -> Any:
    """The value of an attribute of an object; None where there is none, or it is a method.

    A property is read where torch, NumPy or Pillow has it.
    """
    if owner is None:
        return None
    if isinstance(owner, nn.Module):
        for registry in (owner._parameters, owner._buffers, owner._modules):
            if name in registry:
                return registry[name]
    found = inspect.getattr_static(owner, name, None)
    if isinstance(found, (property, *_IN_C)) and _is_known(owner):
        return getattr(owner, name)
    is_code = callable(found) or hasattr(type(found), "__get__")
    return None if is_code and not isinstance(found, Tensor) else found


def read_expression(line: FailingLine, node: ast.expr) -> Any:
    """The value of an expression of the failing line, also of paths such as self.files[i]."""
    if (value := line.evaluate(node)) is not None:
        return value
    if isinstance(node, ast.Attribute):
        return read_member(read_expression(line, node.value), node.attr)
    if isinstance(node, ast.Subscript):
        owner, key = read_expression(line, node.value), read_expression(line, node.slice)
        is_plain = isinstance(owner, list | tuple | dict) and isinstance(key, int | str)
        with contextlib.suppress(LookupError, TypeError):
            return owner[key] if is_plain else None
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.path.join":
        parts = [read_expression(line, part) for part in node.args]
        return str(Path(*parts)) if all(isinstance(part, str) for part in parts) else None
    return None


def _is_known(owner: Any) -> bool:
    """Whether the class that an object is of is a library's."""
    return type(owner).__module__.partition(".")[0] in _LIBRARIES


def describe_value(value: Any) -> str:
    """A value in a few words: (3, 32, 32), torch.float32, a list of 2."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple):
        return str(tuple(value))
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    text = str(value) if isinstance(value, torch.device) else repr(value)
    return text if len(text) < _LONGEST else f"a {type(value).__name__}"


def is_uncalled(owner: Any, name: str) -> bool:
    """Whether it is a method of a module, a tensor or an optimizer that needs no arguments."""
    if not isinstance(owner, nn.Module | Tensor | Optimizer):
        return False
    method = inspect.getattr_static(type(owner), name, None)
    if not isinstance(method, types.FunctionType | types.MethodDescriptorType):
        return False
    try:
        _, *parameters = inspect.signature(method).parameters.values()
    except ValueError:  # a method in C, such as tensor.size
        return True
    by_hand = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in by_hand for p in parameters)
