"""The loops and comprehensions at work when a line failed, and what they run over."""

import ast
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import find_frames, read_names, walk_expression
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.values import read_attribute

_PARTED = (
    tuple, list, str, torch.Size, Mapping, nn.Sequential, nn.ModuleList, nn.ModuleDict,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Loop:
    """`for target in iterable`, of a statement or a comprehension."""

    target: ast.expr
    iterable: ast.expr
    value: Any  # what it runs over

    def read_element(self) -> Any:
        """Its first element; None where it is not known."""
        value = self.value
        if isinstance(value, DataLoader):
            return _fetch_first(value)
        return next(iter(value), None) if isinstance(value, _PARTED) else None


def _fetch_first(loader: DataLoader[Any]) -> Any:
    """The first sample as a batch; the loader's sampler and generator are left alone."""
    dataset: Any = loader.dataset
    is_plain = loader.num_workers == 0 and loader.batch_size is not None
    if not is_plain or not hasattr(dataset, "__getitem__") or not hasattr(dataset, "__len__"):
        return None
    return loader.collate_fn([dataset[0]]) if len(dataset) else None


def list_loops(crash: Crash) -> Iterator[Loop]:
    """The loops around the failing expression, the innermost first, and those within it."""
    frames, nodes = find_frames(crash.error), walk_expression(crash.error)
    if (tree := parse_file(frames[-1].filename) if frames else None) is None or not nodes:
        return
    names = read_names(crash.error)
    around = [n for n in ast.walk(tree) if nodes[0] in _walk_own(n)]
    for node in (*reversed(around), *nodes):
        parts = [node] if isinstance(node, ast.For) else getattr(node, "generators", [])
        for part in parts:
            value = read_attribute(part.iter, names)
            yield Loop(target=part.target, iterable=part.iter, value=value)


def _walk_own(node: ast.AST) -> Iterator[ast.AST]:
    """What a loop repeats."""
    if isinstance(node, ast.For):
        return itertools.chain(*map(ast.walk, (node.target, *node.body)))
    is_comprehension = bool(getattr(node, "generators", None))
    return itertools.chain(ast.walk(node)) if is_comprehension else iter(())


def can_unpack(target: ast.expr, value: Any) -> bool | None:
    """Whether a value can be assigned to names; None where it is not known."""
    if not isinstance(target, ast.Tuple | ast.List):
        return True
    if any(isinstance(name, ast.Starred) for name in target.elts):
        return None
    if isinstance(value, Tensor):
        parts = list(value) if value.dim() else None
    elif isinstance(value, _PARTED):
        parts = list(value)
    else:
        return None if hasattr(value, "__iter__") else False
    if parts is None or len(parts) != len(target.elts):
        return False
    found = [can_unpack(name, part) for name, part in zip(target.elts, parts, strict=True)]
    return None if None in found else all(found)
