"""Assertions on autograd's graph: that none lives on, and that it is the same each time."""

import gc
import itertools
from collections.abc import Callable

from torch import Tensor, nn

from cnnprobe.testing.failures import (
    Inputs,
    describe_place,
    fail,
    observe_model,
)


def assert_no_graph_leak(step: Callable[[], object], *, times: int = 4) -> None:
    """Fail if the autograd graph that is alive grows with every call of `step`, as `total += loss`
    makes it grow.

    Args:
        step: one training step; it is called `times` times and changes what it changes.
        times: at least 3.
    """
    __tracebackhide__ = True
    sizes = []
    for _ in range(max(times, 3)):
        step()
        sizes.append(_find_living_nodes())
    growth = [b - a for a, b in itertools.pairwise(sizes[1:])]
    if all(n > 0 for n in growth):
        fail(
            f"the autograd graph that is kept alive grows by {growth[-1]:,} nodes per step",
            details=[f"nodes after each step: {', '.join(f'{n:,}' for n in sizes)}"],
            where="what the step keeps",
            fix="keep numbers, not tensors: total += loss.item(), outputs.append(y.detach())",
        )


def _find_living_nodes() -> int:
    """Distinct autograd nodes that any living tensor holds."""
    gc.collect()
    stack = [t.grad_fn for t in gc.get_objects() if type(t) is Tensor and t.grad_fn is not None]
    seen = set(stack)
    while stack:
        node = stack.pop()
        fresh = {n for n, _ in node.next_functions if n is not None} - seen
        seen |= fresh
        stack.extend(fresh)
    return len(seen)


def assert_same_graph(model: nn.Module, first: Inputs, second: Inputs) -> None:
    """Fail unless the model takes the same way for both inputs: the same calls in the same
    order.
    """
    __tracebackhide__ = True
    traces = [observe_model(model, inputs).trace for inputs in (first, second)]
    ways = [[(call.fqn, call.kind, call.depth) for call in trace.calls] for trace in traces]
    if ways[0] == ways[1]:
        return
    k = next(
        (i for i, (a, b) in enumerate(zip(*ways, strict=False)) if a != b), min(map(len, ways))
    )
    taken = [describe_place(trace, k) if k < len(trace.calls) else "the end" for trace in traces]
    fail(
        f"the two inputs take different paths: {len(ways[0])} calls and {len(ways[1])}",
        details=[f"first: {taken[0]}", f"second: {taken[1]}"],
        where=f"call {k} of {traces[0].model}",
        fix="look for a branch or a loop in forward that depends on values or sizes",
    )
