"""Attention that normalises over the wrong dim."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.diagnosis.evidence.softmaxes import Softmax, find_softmaxes
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import classifying, images

PAIR = 2  # tensors of an attention's product: weights and values
# What is done to scores before the softmax.
SCORING = FORWARDING | {"mul", "div", "add", "sub", "masked_fill"}
# What is done to weights before the product that they belong to.
HANDING_ON = frozenset({"dropout", "contiguous", "to", "float", "type_as", "clone", "identity"})


def _attention(dim: int) -> Mapping[str, Any]:
    """Rows of the image attend to each other; scores are (N, queries, keys)."""
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Any) -> Any:
            x = x[:, 0]
            weights = (self.query(x) @ self.key(x).transpose(1, 2)).softmax(dim)
            return self.head((weights @ self.value(x)).mean(1))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images())


def sick() -> Mapping[str, Any]:
    """Over the queries."""
    return _attention(1)


def healthy() -> Mapping[str, Any]:
    """Over the keys, counted from the start."""
    return _attention(2)


@rule(
    code="CP413",
    name="softmax-over-queries",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    family="softmax-dim",
    explains=("vanishing-gradient", "zero-grad", "loss-not-decreasing", "cannot-overfit"),
)
def softmax_over_queries(evidence: Evidence) -> Iterator[Finding]:
    """The softmax of an attention runs over the queries or the heads, and not over the keys that
    the next product sums over.

    Why it matters: the weights of a query do not add up to 1, so its output grows with the number
    of keys.
    What to do: set dim=-1 for scores of shape (..., queries, keys).
    Known exceptions: only scores that are a product of two activations, and whose weights go
    straight into the next product, are judged: soft assignments (NetVLAD) and routing are not.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.1.
    """
    flow = Flow(evidence.trace)
    for softmax in find_softmaxes(evidence, flow):
        summed = _find_summed_dim(flow, softmax)
        if summed is not None:
            yield Finding(
                module=softmax.module,
                message=(
                    f"{describe(softmax.call)} runs over dim {softmax.dim} of the scores "
                    f"{softmax.shape}, but the product behind it sums over dim {summed}: the "
                    "weights of a sum do not add up to 1"
                ),
                fix=(
                    f"set dim={summed - len(softmax.shape)} in "
                    f"{spoken(evidence, softmax.module)}: attention normalises over the keys"
                ),
                source=softmax.call.source,
                subject=describe(softmax.call),
            )


def _find_summed_dim(flow: Flow, softmax: Softmax) -> int | None:
    """The dim that the next product sums over, where the softmax runs over another one; else
    None.
    """
    if softmax.dim == 0 or not _are_scores(flow, softmax.index):
        return None
    rank, at = len(softmax.shape), softmax.index
    order = list(range(rank))  # which dim of the softmax each dim of the weights is
    while len(readers := flow.readers.get(at, [])) == 1:
        before, at = at, readers[0]
        call = flow.calls[at]
        if operation(call) == "einsum":
            summed = _find_contracted(call, before, order)
            return summed if summed != softmax.dim else None
        if _is_product(call, rank):
            summed = order[rank - 1 if call.inputs[0].source == before else rank - 2]
            return summed if summed != softmax.dim else None
        moved = _reorder(call, order)
        if moved is None:
            return None
        order = moved
    return None


def _are_scores(flow: Flow, index: int) -> bool:
    """Whether a softmax takes a product of two activations."""
    given = flow.data(index)
    made = None if given is None else flow.origin(given, SCORING)
    if made is None or operation(flow.calls[made]) not in ("matmul", "einsum"):
        return False
    inputs = flow.calls[made].inputs
    return len(inputs) == 2 and all(isinstance(t.source, int) for t in inputs)


def _find_contracted(call: ModuleCall, weights: int, order: list[int]) -> int | None:
    """The only dim of the weights that an einsum sums over together with the values; else None."""
    equation = next((v for v in call.arguments.values() if isinstance(v, str)), "")
    given, arrow, result = equation.replace(" ", "").partition("->")
    letters = given.split(",")
    mine = [i for i, info in enumerate(call.inputs) if info.source == weights]
    if not arrow or len(letters) != len(call.inputs) or len(letters) != PAIR or len(mine) != 1:
        return None
    own, other = letters[mine[0]], letters[1 - mine[0]]
    summed = [k for k, name in enumerate(own) if name in other and name not in result]
    is_known = len(summed) == 1 and len(own) == len(order) and "." not in own
    return order[summed[0]] if is_known else None


def _is_product(call: ModuleCall, rank: int) -> bool:
    return (
        operation(call) == "matmul"
        and len(call.inputs) == 2
        and all(len(t.shape) == rank for t in call.inputs)
    )


def _reorder(call: ModuleCall, order: list[int]) -> list[int] | None:
    """The dims behind a row that exchanges them or leaves them; None behind any other."""
    rank, kind = len(order), operation(call)
    if kind == "permute":
        places = argument(call, "dims")
        known = [n for n in places if isinstance(n, int)] if isinstance(places, tuple) else []
        return [order[place] for place in known] if len(known) == rank else None
    if kind == "transpose":
        a, b = (argument(call, f"dim{k}", k - 2) for k in (0, 1))
        if not isinstance(a, int) or not isinstance(b, int):
            return None
        swapped = list(order)
        swapped[a], swapped[b] = order[b], order[a]
        return swapped
    return order if kind in HANDING_ON else None
