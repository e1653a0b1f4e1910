"""A matrix product whose inner sizes differ."""

import functools
from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.parts import change_part
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.suspect import Candidate, Suspect, propose
from cnnprobe.operations import resolve_name

EXAMPLE = Example(
    """
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(8, 8)
            self.key = nn.Linear(8, 8)

        def forward(self, x):
            q, k = self.query(x), self.key(x)
            return torch.softmax(q @ k, -1) @ x


    model, args = Attention(), (torch.randn(2, 5, 8),)
    """,
    old="q @ k",
    new="q @ k.transpose(-2, -1)",
    blames="",
    repair="k.transpose(-2, -1)",
)


@cause(
    code="CP035", name="matmul-inner-sizes", family="shape-mismatch", prior=396, examples=EXAMPLE
)
def matmul_inner_sizes(crash: Crash) -> Iterator[Suspect]:
    """The last dim of the first factor of a matrix product differs from the second's last but one.

    Why it happens: one of the two is not transposed, as the keys in q @ k.transpose(-2, -1).
    What to do: transpose the factor that is the wrong way round.
    Known exceptions: none.
    Source: documentation of torch.matmul.
    """
    call = crash.call
    if call is None or call.fqn is not None or len(call.inputs) < 2:
        return
    a, b = call.inputs[:2] if resolve_name(call.kind) == "matmul" else call.inputs[-2:]
    if resolve_name(call.kind) not in ("matmul", "rmatmul", "baddbmm", "addmm", "addbmm"):
        return
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] == b.shape[-2]:
        return
    if isinstance(b.source, str):  # a weight of the user's own
        return
    candidates: list[Candidate] = []
    for part, like, dim in ((b, a, -1), (a, b, -2)):
        if part.shape[dim] == like.shape[dim]:
            code, change = "{x}.transpose(-2, -1)", functools.partial(_transpose, dim=dim)
            edit = change_part(crash, call, part, change, code, verb="transpose", like=like)
            candidates.append(propose(edit))
    yield Suspect(
        module=crash.owner,
        message=f"{call.kind} in {describe_module(crash, crash.owner)}: the last dim of {a.shape}"
        f" and the last but one of {b.shape} differ",
        arithmetic=f"{a.shape[-1]} against {b.shape[-2]}; {write_parts(crash, (a, b))}",
        candidates=tuple(candidates),
    )


def _transpose(x: Tensor, like: Tensor, *, dim: int) -> Tensor:
    """`x` transposed, where that fits and it does not fit as it is."""
    fits = min(x.dim(), like.dim()) < 2 or x.shape[-3 - dim] == like.shape[dim]
    return x if fits else x.transpose(-2, -1)
