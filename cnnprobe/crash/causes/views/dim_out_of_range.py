from collections.abc import Callable
from typing import Any

from cnnprobe.crash.cause import USUAL, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.facts.dims import explain_rank, propose_rank
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.words import count_of, read_argument
from cnnprobe.operations import find_signature, resolve_name
from cnnprobe.records.trace import ModuleCall

# torch's names of arguments that are dims.
_NAMES = ("dim", "dims", "dim0", "dim1", "start_dim", "end_dim", "source", "destination")

_FIRST = """
- model = nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=2))
+ model = nn.Sequential(nn.Linear(8, 4), nn.Softmax(dim=1))
  args = (torch.randn(3, 8),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
          x = F.relu(self.conv(x))
-         x = x.flatten(1)
          return self.fc(x.mean(dim=(2, 3)))
  model, args = Net(), (torch.randn(5, 3, 9, 9),)
"""
EXAMPLES = (
    Example(_FIRST, blames="1", repair="set dim=-1 in '1'", on_meta=False),
    Example(_SECOND, blames="", repair="leave out flatten"),
)


@cause("CP011", "dim-out-of-range", EXAMPLES, family="shape-mismatch", prior=200)
def dim_out_of_range(crash: Crash) -> Suspects:
    """An operation works on a dim that its tensor does not have.

    Why it happens: it was written for maps or sequences and got a table; the batch dim is
    missing; or a flatten, a squeeze or a reduction before it dropped a dim.
    What to do: print the shape that arrives; keep the dim, or count anew. dim=-1 is the last dim.
    Known exceptions: none.
    Source: docs of the operation; dims are counted from 0, and from -1 backwards.
    """
    if (call := crash.call) is None or not call.inputs:
        return
    x, dims = call.inputs[0], _list_dims(crash, call)
    name = resolve_name(call.kind)
    room = len(x.shape) + (call.fqn is None and name in ("unsqueeze", "stack"))
    wrong = [dim for dim in dims if not -room <= dim < room]
    is_permute = call.fqn is None and name == "permute" and len(dims) != room
    if not wrong and not is_permute:
        return
    rank = len(dims) if is_permute else max(dim + 1 if dim >= 0 else -dim for dim in wrong)
    has = f"which {x.shape} does not have" if not is_permute else f"but {x.shape} has {room}"
    what = count_of(len(dims), "dim") if is_permute else f"dim {wrong[0] if wrong else ''}"
    yield blame(
        call.fqn if call.fqn is not None else crash.owner,
        f"{crash.describe_call(call)} works on {what}, {has}",
        *propose_rank(crash, x, rank),
        *_propose_dims(crash, call, dims),
        arithmetic=explain_rank(crash, x, rank),
        weight=USUAL,
    )


def _list_dims(crash: Crash, call: ModuleCall) -> list[int]:
    """The dims that a layer or a function was asked for."""
    if call.fqn is not None:
        values = [getattr(crash.leaf, name, None) for name in _NAMES] if crash.leaf else []
    elif resolve_name(call.kind) == "permute":
        return list(read_sizes(call))
    else:
        signature = find_signature(call.kind)
        names = [name for name in _NAMES if signature and name in signature.names]
        values = [read_argument(call, name) for name in names]
    flat = [each for value in values for each in (value if isinstance(value, tuple) else (value,))]
    return [each for each in flat if type(each) is int]


def _propose_dims(crash: Crash, call: ModuleCall, dims: list[int]) -> Candidates:
    """The same call with dim=-1, or with the dim of the channels where it adds one."""
    signature = find_signature(call.kind) if call.fqn is None else None
    if call.fqn is not None and hasattr(crash.leaf, "dim"):
        yield propose(configure(crash, call.fqn, dim=-1))
    if signature is None or "dim" not in signature.names or len(dims) != 1:
        return
    position = signature.names.index("dim")
    for dim in (1, -1) if resolve_name(call.kind) == "unsqueeze" else (-1,):
        yield propose(_use_dim(crash, call, dim, position))


def _use_dim(crash: Crash, call: ModuleCall, dim: int, position: int) -> RewriteCall:
    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "dim" in kwargs:
            return func(*args, **{**kwargs, "dim": dim})
        return func(*args[:position], dim, *args[position + 1 :], **kwargs)

    name = "the last dim" if dim == -1 else f"dim {dim}"
    title = f"use {name} at {{place}}: dim={dim}"
    return rewrite_call(
        crash, call, rewrite, title=title, code=f"dim={dim}", keyword=("dim", dim, position)
    )
