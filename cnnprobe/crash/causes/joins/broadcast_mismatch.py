import functools
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import change_name
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.parts import change_part, match_inputs
from cnnprobe.crash.facts.channels import suspect_channels
from cnnprobe.crash.facts.joins import list_ancestors, write_parts
from cnnprobe.crash.facts.operands import Operands, find_operands, list_embeddings, write_index
from cnnprobe.crash.facts.words import count_elements
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.operations import find, find_signature, read_name
from cnnprobe.records.trace import TensorInfo

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
          self.gate = nn.Linear(8, 8)
      def forward(self, x):
          x = self.conv(x)
          gate = torch.sigmoid(self.gate(x.mean((2, 3))))
-         return x * gate
+         return x * gate[:, :, None, None]
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
      def forward(self, x):
          x = self.conv(x)
-         return x - x.mean((2, 3))
+         return x - x.mean((2, 3), keepdim=True)
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
_THIRD = """
  class Overlap(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 3, 1)
      def forward(self, x, labels):
          share = self.conv(x).softmax(1)
-         return (share * labels).sum((2, 3))
+         return (share * F.one_hot(labels, 3).movedim(-1, 1)).sum((2, 3))
  model = Overlap()
  args = (torch.randn(2, 1, 5, 4), torch.randint(0, 3, (2, 5, 4)))
"""
EXAMPLES = (
    Example(_THIRD, blames="", repair="F.one_hot(labels, 3).movedim(-1, 1)"),
    Example(_FIRST, blames="", repair="gate[..., None, None]"),
    Example(_SECOND, blames="", repair="keepdim=True"),
)


@cause("CP034", "broadcast-mismatch", EXAMPLES, family="shape-mismatch", prior=397)
def broadcast_mismatch(crash: Crash) -> Suspects:
    """Two tensors of different shapes meet in an operation that cannot broadcast them.

    Why it happens: shapes are aligned from their last dim, so that (N, C) does not fit
    (N, C, H, W): its dims have to be followed by two of size 1.
    What to do: index with None where a dim is missing, x[:, :, None, None]; or reduce with
    keepdim=True.
    Known exceptions: dims of size 1 fit every size.
    Source: documentation of torch, "Broadcasting semantics".
    """
    pair = find_operands(crash)
    if pair is None or (pair.is_even and (pair.is_sum or pair.parameter is not None)):
        return
    message = (
        f"{read_name(pair.call.kind)} in {crash.describe_module(crash.owner)}:"
        f" {pair.a.shape} and {pair.b.shape} do not fit"
    )
    arithmetic = write_parts(crash, (pair.a, pair.b))
    small, large = sorted((pair.a, pair.b), key=lambda t: (len(t.shape), count_elements(t.shape)))
    candidates = list(_permute(crash, pair))
    if not candidates:
        candidates += match_inputs(crash, (pair.a, pair.b))
    else:
        message += "; they are the same sizes in another order"
    if pair.is_even:
        yield from suspect_channels(crash, small, large, message, arithmetic)
    else:
        encoded = list(_encode(crash, pair, small, large))
        candidates += [*_keep_dims(crash, small), *encoded]
        candidates += [] if encoded else _add_dims(crash, pair, small, large)
        if encoded:
            message += f"; the {small.dtype} numbers of classes are no map for each class"
    if pair.parameter is not None and not candidates:
        return
    yield blame(
        crash.owner,
        message,
        *candidates,
        arithmetic=arithmetic,
        weight=STRONG if pair.parameter is not None else USUAL,
        needs_proof=pair.parameter is not None,
    )


def _permute(crash: Crash, pair: Operands) -> Candidates:
    """The channels of one of them are last, and those of the other in dim 1, as torch has them."""
    rank = len(pair.a.shape)
    if not pair.is_even or rank < 3 or pair.parameter is not None:
        return
    first = (0, rank - 1, *range(1, rank - 1))  # of (N, H, W, C): (N, C, H, W)
    for info, like in ((pair.a, pair.b), (pair.b, pair.a)):
        if tuple(info.shape[i] for i in first) != like.shape:
            continue
        code = f"{{x}}.permute({', '.join(map(str, first))})"
        change = functools.partial(_permute_tensor, order=first, shape=info.shape)
        edit = change_name(crash, info, change, code) or change_part(
            crash, pair.call, info, change, code, verb="permute", like=like
        )
        # Where both can be turned, it is the one whose channels are the shorter dim.
        yield propose(edit, weight=STRONG if rank > 3 or info.shape[-1] < info.shape[1] else USUAL)


def _permute_tensor(
    x: Tensor, _like: Tensor | None = None, *, order: tuple[int, ...], shape: tuple[int, ...]
) -> Tensor:
    return x.permute(order) if tuple(x.shape) == shape else x


def _keep_dims(crash: Crash, small: TensorInfo) -> Candidates:
    """keepdim=True where a reduction dropped the dims."""
    call = crash.find_producer(small)
    info, signature = (find(call), find_signature(call.kind)) if call is not None else (None, None)
    if call is None or info is None or info.effect != "reduces" or signature is None:
        return
    if "keepdim" not in signature.names:
        return

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **{**kwargs, "keepdim": True})

    edit = rewrite_call(
        crash,
        call,
        rewrite,
        title="keep the reduced dims at {place}: keepdim=True",
        code="keepdim=True",
        keyword=("keepdim", True, signature.names.index("keepdim")),
    )
    yield propose(edit, weight=STRONG)


def _encode(crash: Crash, pair: Operands, small: TensorInfo, large: TensorInfo) -> Candidates:
    """Numbers of classes (N, H, W) against a map for each class (N, C, H, W): one-hot maps."""
    fits = (*large.shape[:1], *large.shape[2:]) == small.shape and len(large.shape) > 2
    if pair.parameter is not None or not fits or small.dtype != "int64":
        return
    classes = large.shape[1]
    bounds = crash.read_bounds(small)
    if bounds is not None and not (bounds[0] >= 0 and bounds[1] < classes):
        return

    def encode(x: Tensor, other: Tensor) -> Tensor:  # noqa: ARG001
        if x.is_meta:
            return x.new_empty(large.shape)
        return F.one_hot(x, classes).movedim(-1, 1)

    code = f"F.one_hot({{x}}, {classes}).movedim(-1, 1)"
    edit = change_part(crash, pair.call, small, encode, code, verb="encode", like=large)
    yield propose(edit, weight=STRONG)


def _add_dims(crash: Crash, pair: Operands, small: TensorInfo, large: TensorInfo) -> Candidates:
    """(N, C) or (N, H, W) against (N, C, H, W): None where a dim is missing."""
    if pair.name not in ("add", "mul", "div") and _is_made_of(crash, small, large):
        return  # a map minus its own logits
    rank, is_batched = len(large.shape), pair.parameter is None
    found = [p for p in list_embeddings(small.shape, large.shape) if is_batched or p[0] > 0]
    if small.dtype == "bool":
        found = [*found[-1:], *found[:-1]]  # a mask of the keys is in the last dim
    for places in found[: 2 if small.dtype == "bool" else 1]:

        def add_dims(x: Tensor, other: Tensor, places: tuple[int, ...] = places) -> Tensor:
            fits = other.dim() != rank or x.dim() != len(places)
            return (
                x if fits else x[tuple(slice(None) if i in places else None for i in range(rank))]
            )

        code = "{x}" + write_index(places, rank, is_batched=is_batched)
        edit = change_part(crash, pair.call, small, add_dims, code, verb="add dims to", like=large)
        yield propose(edit, weight=USUAL if places == found[0] else POSSIBLE)


def _is_made_of(crash: Crash, info: TensorInfo, origin: TensorInfo) -> bool:
    """Whether a tensor comes from another through layers with weights."""
    rows = list_ancestors(crash, info)
    if origin.source not in rows:
        return False
    later = [crash.trace.calls[i].fqn for i in rows - list_ancestors(crash, origin)]
    modules = [crash.modules.get(fqn) for fqn in later if fqn is not None]
    return any(m is not None and m._parameters for m in modules)
