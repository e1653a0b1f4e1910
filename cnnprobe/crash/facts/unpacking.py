"""Assignments that unpack a value into another number of names than it has parts."""

import ast
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import find_assignment, walk_expression
from cnnprobe.crash.facts.values import read_values
from cnnprobe.records.trace import ModuleCall


@dataclass(frozen=True, kw_only=True)
class Unpacking:
    """`names` stand for `value`, which has `given` parts; `whole` is the right side as written."""

    names: ast.Tuple | ast.List
    value: Any  # a tensor, a tuple, a torch.Size
    given: int
    whole: ast.expr
    row: ModuleCall | None  # the recorded call on the right side

    @property
    def wanted(self) -> int:
        """How many names there are."""
        return len(self.names.elts)

    @property
    def is_whole(self) -> bool:
        """Whether it is the right side itself that is unpacked, not a part of it."""
        return (
            self.row is None or not isinstance(self.value, Tensor) or self.row.returned == "Tensor"
        )


def find_unpacking(crash: Crash) -> Unpacking | None:
    """What the failing line unpacks into too few or too many names; None where it is not known."""
    node = find_assignment(crash.error) if isinstance(crash.error, ValueError) else None
    nodes = walk_expression(crash.error)
    if node is None or not nodes or nodes[0] not in list(ast.walk(node.targets[0])):
        return None
    line = read_values(crash, list(ast.walk(node.value)))
    if (found := _find_mismatch(node.targets[0], line.evaluate(node.value))) is None:
        return None
    names, value, given = found
    row = line.find_row(node.value)
    return Unpacking(names=names, value=value, given=given, whole=node.value, row=row)


def _find_mismatch(
    target: ast.expr, value: Any
) -> tuple[ast.Tuple | ast.List, tuple[Any, ...] | Tensor, int] | None:
    """The names that do not stand for as many parts, in nested ones too."""
    if not isinstance(target, ast.Tuple | ast.List):
        return None
    if any(isinstance(name, ast.Starred) for name in target.elts):
        return None
    if isinstance(value, Tensor):
        given = value.shape[0] if value.dim() else 0
    elif isinstance(value, tuple | torch.Size):
        given = len(value)
    else:
        return None
    if given != len(target.elts):
        return target, value, given
    if isinstance(value, Tensor):
        return None
    pairs = zip(target.elts, value, strict=True)
    return next((found for pair in pairs if (found := _find_mismatch(*pair)) is not None), None)


def lacks_batch(crash: Crash, found: Unpacking) -> bool:
    """Whether the sizes are those of an input of the model with one dim too few."""
    shape = tuple(found.value) if isinstance(found.value, torch.Size) else None
    return found.given == found.wanted - 1 and any(t.shape == shape for t in crash.root_inputs)


def describe_sizes(found: Unpacking) -> str:
    """What is unpacked, in words."""
    of = ast.unparse(found.whole).removesuffix(".shape").removesuffix(".size()")
    return f"{of} has {found.given} dims, but its sizes are unpacked into {found.wanted} names"
