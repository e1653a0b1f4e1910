"""Two tensors with different numbers of dims that do not broadcast."""

from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.parts import change_part, match_inputs
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.facts.operands import Operands, can_broadcast, find_operands
from cnnprobe.crash.suspect import Candidate, Suspect, propose
from cnnprobe.operations import read_name

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.gate = nn.Linear(8, 8)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x = self.conv(x)
            gate = torch.sigmoid(self.gate(x.mean((2, 3))))
            return self.head(x * gate)


    model, args = Net(), (torch.randn(2, 3, 9, 9),)
    """,
    old="x * gate",
    new="x * gate[:, :, None, None]",
    blames="",
    repair="gate[..., None, None]",
)


@cause(
    code="CP034", name="broadcast-mismatch", family="shape-mismatch", prior=397, examples=EXAMPLE
)
def broadcast_mismatch(crash: Crash) -> Iterator[Suspect]:
    """Two tensors of different shapes meet in an operation that cannot broadcast them.

    Why it happens: shapes are aligned from their last dim, so that (N, C) does not fit
    (N, C, H, W): its dims have to be followed by two of size 1.
    What to do: index with None where a dim is missing: x[:, :, None, None].
    Known exceptions: dims of size 1 fit every size.
    Source: documentation of torch, "Broadcasting semantics".
    """
    pair = find_operands(crash)
    if pair is None or pair.parameter is not None or (pair.is_even and pair.is_sum):
        return
    candidates = list(match_inputs(crash, (pair.a, pair.b)))
    if not pair.is_even:
        candidates += _add_dims(crash, pair)
    yield Suspect(
        module=crash.owner,
        message=f"{read_name(pair.call.kind)} in {describe_module(crash, crash.owner)}:"
        f" {pair.a.shape} and {pair.b.shape} do not fit",
        arithmetic=write_parts(crash, (pair.a, pair.b)),
        candidates=tuple(candidates),
    )


def _add_dims(crash: Crash, pair: Operands) -> Iterator[Candidate]:
    """(N, C) against (N, C, H, W): the missing dims belong at the end."""
    small, large = sorted((pair.a, pair.b), key=lambda t: len(t.shape))
    missing = len(large.shape) - len(small.shape)
    if not can_broadcast(large.shape[: len(small.shape)], small.shape):
        return

    def add_dims(x: Tensor, other: Tensor) -> Tensor:
        return x[(..., *[None] * (other.dim() - x.dim()))]

    code = "{x}[..., " + ", ".join(["None"] * missing) + "]"
    edit = change_part(crash, pair.call, small, add_dims, code, verb="add dims to", like=large)
    yield propose(edit)
