"""Values with their indices, as torch.max along a dim gives them, in the place of one tensor."""

import ast
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.facts.values import FailingLine

# Functions that give values and indices, at least along a dim. Source: torch.return_types.
_GIVING = ("max", "min", "sort", "topk", "median", "nanmedian", "mode", "kthvalue", "cummax",
           "cummin")  # fmt: skip


def is_pair(value: Any) -> bool:
    """Whether a value is what torch gives for values and indices."""
    is_torchs = type(value).__module__ == "torch.return_types"
    return is_torchs and hasattr(value, "values") and hasattr(value, "indices")


def read_pair(line: FailingLine, node: ast.expr) -> Any:
    """Values and indices that an expression stands for; None: it does not.

    Torch's function is called again where its arguments are known.
    """
    value = line.evaluate(node)
    if value is None and isinstance(node, ast.Call):
        value = _call_again(line, node)
    return value if is_pair(value) else None


def _call_again(line: FailingLine, node: ast.Call) -> Any:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
    if name not in _GIVING:
        return None
    is_torchs = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "torch"
    owner = node.func.value if isinstance(node.func, ast.Attribute) and not is_torchs else None
    given = [line.evaluate(part) for part in ([owner] if owner else []) + node.args]
    named = {k.arg: line.evaluate(k.value) for k in node.keywords if k.arg is not None}
    x = given[0] if given else None
    if not isinstance(x, Tensor) or x.is_meta or None in (*given[1:], *named.values()):
        return None
    try:
        with torch.no_grad():
            return getattr(torch, name)(*given, **named)
    except (TypeError, RuntimeError):
        return None
