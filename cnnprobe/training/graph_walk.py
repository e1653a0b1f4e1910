"""What the autograd graph behind a loss ends at, and which nodes it has."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

# nodes; reading `next_functions` of a much deeper graph makes torch itself overflow the stack when
# it is freed
LARGEST = 20_000
_LEAF = 2**63  # AccumulateGrad nodes have no sequence number of their own


def walk(
    losses: Iterable[Tensor], names: Mapping[int, str]
) -> tuple[frozenset[str], int, frozenset[int], bool]:
    """Names of the reached leaves, the number of other leaves, the sequence numbers of the nodes,
    and whether all of it was walked.
    """
    stack: list[Any] = [loss.grad_fn for loss in losses if loss.grad_fn is not None]
    seen: set[Any] = set(stack)
    reached: set[str] = set()
    numbers: set[int] = set()
    foreign = sum(1 for loss in losses if loss.grad_fn is None and loss.requires_grad)
    while stack:
        if len(seen) > LARGEST:
            return frozenset(reached), foreign, frozenset(numbers), False
        node = stack.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, torch.Tensor):
            name = names.get(id(variable))
            if name is None:
                foreign += 1
            else:
                reached.add(name)
        number = node._sequence_nr() if hasattr(node, "_sequence_nr") else _LEAF
        if number < _LEAF:
            numbers.add(number)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                stack.append(following)
    return frozenset(reached), foreign, frozenset(numbers), True
