"""Query, key, value and masks of an attention that do not fit one another."""

from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2)

        def forward(self, x, context):
            out, _ = self.attention(x, context, context)
            return out


    model, args = Net(), (torch.randn(4, 5, 8), torch.randn(4, 7, 8))
    """,
    old="nn.MultiheadAttention(8, 2)",
    new="nn.MultiheadAttention(8, 2, batch_first=True)",
    blames="attention",
    repair="batch_first=True",
)


@cause(
    code="CP060",
    name="attention-shapes",
    family="shape-mismatch",
    prior=496,
    examples=EXAMPLE,
)
def attention_shapes(crash: Crash) -> Iterator[Suspect]:
    """The query and the key of an attention do not have the same batch.

    Why it happens: MultiheadAttention expects (time, batch, features) unless it was built with
    batch_first=True.
    What to do: pass batch_first=True where the batch is the first dim.
    Known exceptions: none.
    Source: torch.nn.MultiheadAttention, "batch_first".
    """
    layer, call = crash.leaf, crash.call
    if call is None or call.fqn is None or not isinstance(layer, nn.MultiheadAttention):
        return
    x, *others = crash.inputs
    if not others or not len(x.shape) == len(others[0].shape) == 3:
        return
    dim = 0 if layer.batch_first else 1
    key = others[0]
    if x.shape[-1] == layer.embed_dim and key.shape[dim] != x.shape[dim]:
        edit = configure(crash, call.fqn, batch_first=not layer.batch_first)
        yield Suspect(
            module=call.fqn,
            message=f"{describe_module(crash, call.fqn)} with batch_first={layer.batch_first} "
            f"takes dim {dim} for the batch, but query {x.shape} and key {key.shape} differ in it",
            arithmetic=f"{x.shape[dim]} against {key.shape[dim]}",
            candidates=(propose(edit, weight=STRONG),),
            weight=STRONG,
        )
