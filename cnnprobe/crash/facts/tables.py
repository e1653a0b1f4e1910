"""The embedding that failed: its indices and the rows of its table."""

from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.words import get_tensor, read_tensor
from cnnprobe.operations import find
from cnnprobe.records.trace import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """A call of an embedding."""

    x: TensorInfo  # the indices
    rows: int | None
    module: str


def find_lookup(crash: Crash) -> Lookup | None:
    """The failing call as the lookup of rows in a table."""
    call, layer = crash.call, crash.leaf
    if call is None or not call.inputs:
        return None
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        x = get_tensor(call, 0, "input") or call.inputs[0]
        return Lookup(x=x, rows=layer.num_embeddings, module=call.fqn or "")
    if (info := find(call)) is None or info.name not in ("embedding", "embedding_bag"):
        return None
    weight = read_tensor(call, "weight")
    x = read_tensor(call, "input") or call.inputs[0]
    rows = weight.shape[0] if weight is not None and weight.shape else None
    return Lookup(x=x, rows=rows, module=crash.owner)
