"""A mask of padding on the queries, where the keys were meant."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.softmaxes import find_softmaxes
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying

_MASKING = ("masked_fill", "where")


def _reader(*, keys: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 4)

        def forward(self, x: Any) -> Any:
            scores = self.q(x) @ self.k(x).transpose(1, 2)
            padding = x.abs().sum(-1) == 0
            mask = padding[:, None, :] if keys else padding[:, :, None]
            weights = scores.masked_fill(mask, -1e9).softmax(dim=-1)
            return self.head((weights @ x).mean(1))

    torch.manual_seed(0)
    x = torch.randn(8, 9, 6)
    x[:, 6:] = 0
    return {**classifying(Reader()), "inputs": x}


def sick() -> Mapping[str, Any]:
    """The mask has size 1 along the keys."""
    return _reader(keys=False)


def healthy() -> Mapping[str, Any]:
    """It has size 1 along the queries."""
    return _reader(keys=True)


@rule(code="CP337", name="mask-of-queries", severity=Severity.WARNING, examples=(sick, healthy))
def mask_of_queries(evidence: Evidence) -> Iterator[Finding]:
    """The mask in front of a softmax is the same along the dim that the softmax runs over.

    Why it matters: a softmax does not change where the same number is added to all of its values: a
    row that is masked as a whole gets equal weights, and the padding of all others is read.
    What to do: mask[:, None, :] in place of mask[:, :, None], for scores of (N, queries, keys).
    Known exceptions: scores of more queries than keys or fewer, whose keys may have no padding; a
    second mask, which differs along that dim.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2.3; torch.nn.MultiheadAttention,
    key_padding_mask of shape (N, S).
    """
    flow = Flow(evidence.trace)
    for softmax in find_softmaxes(evidence, flow):
        size = softmax.shape[softmax.dim]
        others = [n for k, n in enumerate(softmax.shape) if k and k != softmax.dim]
        masks = list(_list_masks(flow, softmax.index))
        if size < 2 or size not in others or not masks:
            continue
        if any(_size_along(mask, softmax.shape, softmax.dim) > 1 for mask in masks):
            continue
        mask = masks[0]
        yield Finding(
            module=softmax.module,
            message=(
                f"the mask of shape {mask.shape} in front of {describe(softmax.call)} has size 1 "
                f"along dim {softmax.dim} of {softmax.shape}, which the softmax runs over: it "
                "masks queries as a whole, and no keys"
            ),
            fix=f"give it its positions along dim {softmax.dim}: mask[:, None, :]",
            source=flow.line(softmax.index),
            subject=describe(softmax.call),
        )


def _list_masks(flow: Flow, index: int) -> Iterator[TensorInfo]:
    """The masks that were written into the scores right in front of a softmax."""
    info = flow.data(index)
    while info is not None and (made := flow.producer(info)) is not None:
        call = flow.calls[made]
        if operation(call) not in _MASKING:
            return
        yield from (t for t in call.inputs if t.dtype == "bool" and len(t.shape) > 1)
        info = next((t for t in call.inputs if t.shape == call.outputs[0].shape), None)


def _size_along(mask: TensorInfo, shape: tuple[int, ...], dim: int) -> int:
    """The size of a mask along a dim of what it is spread over."""
    place = dim - (len(shape) - len(mask.shape))
    return mask.shape[place] if place >= 0 else 1
