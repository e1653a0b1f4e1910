"""Which terms of a loss reach what is trained with it.

A loss is a sum. Autograd's graph says for each term which parameters it reaches; which of them are
trained shows when an optimizer steps.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from cnnprobe.diagnosis.evidence import Loss
from cnnprobe.training.graph_walk import LARGEST

_SUMS = frozenset({"Add", "Sub", "Stack", "Cat"})
# They hand a gradient on to one tensor.
_LINEAR = frozenset(
    {"Mean", "Sum", "Neg", "Mul", "Div", "View", "Reshape", "Squeeze", "Unsqueeze", "ToCopy",
        "Clone"}
)  # fmt: skip
# values of a tensor that still counts as a few losses, and not as the output of a network
_FEW = 64
_Term = tuple[int, frozenset[int]]  # its sequence number, the ids of the leaves that it reaches


@dataclass(slots=True)
class _Group:
    """The backward passes before one step of optimizers, and the steps."""

    losses: list[tuple[_Term, ...]] = field(default_factory=list)
    held: set[int] = field(default_factory=set)  # the ids of what the optimizers hold
    is_stepped: bool = False


class Terms:
    """The terms of each loss of one training step."""

    def __init__(self) -> None:
        self._groups = [_Group()]

    def backward(self, losses: Iterable[Tensor]) -> None:
        """A backward pass begins."""
        if self._groups[-1].is_stepped:
            self._groups.append(_Group())
        roots = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
        self._groups[-1].losses.append(find_terms(roots))

    def step(self, optimizer: Any) -> None:
        """An optimizer has stepped."""
        for group in getattr(optimizer, "param_groups", ()):
            self._groups[-1].held.update(id(p) for p in group["params"])
        self._groups[-1].is_stepped = True

    def complete(self, losses: Iterable[Loss], names: Mapping[int, str]) -> tuple[Loss, ...]:
        """The losses of the step in order, with what is trained by them."""
        losses = tuple(losses)
        entries = [(terms, group.held) for group in self._groups for terms in group.losses]
        if len(entries) != len(losses):  # one was not observed in full
            return losses
        return tuple(
            replace(
                loss,
                trained=frozenset(names[key] for key in held if key in names),
                idle=_find_idle(terms, held),
            )
            for loss, (terms, held) in zip(losses, entries, strict=True)
        )


def _find_idle(terms: tuple[_Term, ...], held: set[int]) -> tuple[int, ...]:
    """The terms that reach only what is not held, where others reach what is."""
    if not any(reached & held for _, reached in terms):
        return ()
    return tuple(number for number, reached in terms if reached and not reached & held)


def find_terms(roots: list[Any]) -> tuple[_Term, ...]:
    """The terms of the sum that a graph begins with; none where it is no sum, or too large."""
    ends = _split(roots)
    reached = _find_leaves(ends) if len(ends) > 1 else None
    if reached is None:
        return ()
    return tuple((end._sequence_nr(), leaves) for end, leaves in zip(ends, reached, strict=True))


def _split(roots: list[Any]) -> list[Any]:
    """The nodes below the additions, means and multiples at the top of a graph."""
    found: list[Any] = []
    stack, seen = list(roots), 0
    while stack and seen < _FEW:
        node, seen = stack.pop(), seen + 1
        kind = node.name().partition("Backward")[0]
        following = [n for n, _ in node.next_functions if n is not None]
        is_open = kind in _SUMS or (kind in _LINEAR and len(following) == 1)
        if is_open and following and all(map(_is_few, following)):
            stack.extend(following)
        elif hasattr(node, "_sequence_nr"):
            found.append(node)
    return [] if stack else list(dict.fromkeys(found))


def _is_few(node: Any) -> bool:
    """Whether a node gives one loss, or a few."""
    shapes = [tuple(each.shape) for each in getattr(node, "_input_metadata", ())]
    return bool(shapes) and all(len(s) < 2 and math.prod(s) <= _FEW for s in shapes)


def _find_leaves(roots: list[Any]) -> list[frozenset[int]] | None:
    """The ids of the tensors that the graph of each root ends at; None where it is too large."""
    masks: dict[Any, int] = {}
    bits: dict[int, int] = {}  # the id of a leaf -> its bit
    stack: list[tuple[Any, bool]] = [(root, False) for root in roots]
    while stack:
        node, is_done = stack.pop()
        if node in masks:
            continue
        following = [n for n, _ in node.next_functions if n is not None]
        if not is_done:
            stack.append((node, True))
            stack.extend((n, False) for n in following if n not in masks)
            continue
        variable = getattr(node, "variable", None)
        mask = 0 if variable is None else 1 << bits.setdefault(id(variable), len(bits))
        for n in following:
            mask |= masks[n]
        masks[node] = mask
        if len(masks) > LARGEST:
            return None
    return [frozenset(key for key, bit in bits.items() if masks[r] >> bit & 1) for r in roots]
