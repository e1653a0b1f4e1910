import functools

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.edits.parts import change_part
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates
from cnnprobe.operations import read_name, resolve_name
from cnnprobe.records.trace import ModuleCall

_RANKS = {"mm": 2, "bmm": 3}  # what they take; matmul takes any

_FIRST = """
  class Attention(nn.Module):
      def __init__(self):
          super().__init__()
          self.query = nn.Linear(8, 8)
          self.key = nn.Linear(8, 8)
      def forward(self, x):
          q, k = self.query(x), self.key(x)
-         return torch.softmax(q @ k, -1) @ x
+         return torch.softmax(q @ k.transpose(-2, -1), -1) @ x
  model, args = Attention(), (torch.randn(2, 5, 8),)
"""
_SECOND = """
  class Scores(nn.Module):
      def __init__(self):
          super().__init__()
          self.query = nn.Linear(8, 8)
      def forward(self, x):
-         return torch.mm(self.query(x), x.transpose(1, 2))
+         return torch.matmul(self.query(x), x.transpose(1, 2))
  model, args = Scores(), (torch.randn(2, 5, 8),)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="k.transpose(-2, -1)"),
    Example(_SECOND, blames="", repair="use torch.matmul"),
)


@cause("CP035", "matmul-mismatch", EXAMPLES, family="shape-mismatch", prior=396)
def matmul_mismatch(crash: Crash) -> Suspects:
    """The two factors of a matrix product do not fit each other.

    Why it happens: the last dim of the first factor has to be as large as the last but one of the
    second, but one of them is not transposed; or torch.mm, which takes matrices alone, gets a
    batch.
    What to do: transpose the factor that is the wrong way round, as in q @ k.transpose(-2, -1), or
    use torch.matmul.
    Known exceptions: none.
    Source: documentation of torch.matmul, torch.mm and torch.bmm.
    """
    call = crash.call
    name = resolve_name(call.kind) if call is not None and call.fqn is None else ""
    if call is None or name not in ("matmul", "rmatmul", "baddbmm", "addmm", "addbmm"):
        return
    factors = call.inputs[-2:]
    if len(factors) < 2 or min(len(t.shape) for t in factors) < 2:
        return
    a, b = factors
    fits, rank = a.shape[-1] == b.shape[-2], _RANKS.get(read_name(call.kind), len(a.shape))
    is_rank_wrong = {len(a.shape), len(b.shape)} != {rank} and read_name(call.kind) in _RANKS
    if (fits and not is_rank_wrong) or (isinstance(b.source, str) and not is_rank_wrong):
        return  # a weight of the user's own
    yield blame(
        crash.owner,
        f"{call.kind} in {crash.describe_module(crash.owner)}"
        + (
            f" takes tensors of {rank} dims"
            if is_rank_wrong
            else f": the last dim of {a.shape} and the last but one of {b.shape} differ"
        ),
        *(
            (propose(_use_matmul(crash, call), weight=STRONG),)
            if is_rank_wrong
            else tuple(_transpose_factors(crash, call))
        ),
        arithmetic=f"{a.shape[-1]} against {b.shape[-2]}; {write_parts(crash, (a, b))}",
        weight=USUAL,
    )


def _use_matmul(crash: Crash, call: ModuleCall) -> RewriteCall:
    return rewrite_call(
        crash,
        call,
        lambda _func, args, kwargs: torch.matmul(*args, **kwargs),
        title=f"use torch.matmul instead of {read_name(call.kind)} at {{place}}",
        code="torch.matmul",
        respell="torch.matmul({x}, {rest})",
    )


def _transpose_factors(crash: Crash, call: ModuleCall) -> Candidates:
    a, b = call.inputs[-2:]
    for part, like, dim in ((b, a, -1), (a, b, -2)):
        if part.shape[dim] == like.shape[dim]:
            code, change = "{x}.transpose(-2, -1)", functools.partial(_transpose, dim=dim)
            yield propose(change_part(crash, call, part, change, code, verb="transpose", like=like))


def _transpose(x: Tensor, like: Tensor, *, dim: int) -> Tensor:
    """`x` transposed, where that fits and it does not fit as it is."""
    fits = min(x.dim(), like.dim()) < 2 or x.shape[-3 - dim] == like.shape[dim]
    return x if fits else x.transpose(-2, -1)
