from collections.abc import Callable
from typing import Any

from cnnprobe.crash.cause import POSSIBLE, USUAL, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.dims import find_turn, leave_out
from cnnprobe.crash.facts.products import MatrixProduct, find_product
from cnnprobe.crash.facts.words import operation, read_argument
from cnnprobe.operations import find

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv1d(6, 16, 3, padding=1)
          self.fc = nn.Linear(16, 4)
      def forward(self, x):
-         return self.fc(self.conv(x)).mean(1)
+         return self.fc(self.conv(x).transpose(1, 2)).mean(1)
  model, args = Net(), (torch.randn(2, 6, 50),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 32, 3)
          self.fc = nn.Linear(32, 5)
      def forward(self, x):
-         return self.fc(self.conv(x).mean([1, 2]))
+         return self.fc(self.conv(x).mean([2, 3]))
  model, args = Net(), (torch.randn(2, 3, 12, 12),)
"""
EXAMPLES = (
    Example(_FIRST, blames="fc", repair="x.transpose(1, -1)"),
    Example(_SECOND, blames="", repair="dim=(2, 3)"),
)


@cause("CP010", "features-on-another-dim", EXAMPLES, family="shape-mismatch", prior=798)
def features_on_another_dim(crash: Crash) -> Suspects:
    """A Linear expects its features on the last dim, and they are on another one.

    Why it happens: Conv1d and BatchNorm1d have the channels on dim 1, (N, C, L); Linear, LayerNorm
    and attention have the features last, (N, L, C). Or a mean has averaged the features away.
    What to do: transpose before the Linear, x.transpose(1, 2); average over the other dims.
    Known exceptions: the sizes may agree by chance, and in_features be what is wrong.
    Source: docs of torch.nn.Linear and torch.nn.Conv1d.
    """
    if (found := find_product(crash)) is None:
        return
    yield from _suspect_reduction(crash, found)
    shape = found.x.shape
    if len(shape) not in (2, 3) or shape[:-1].count(found.wanted) != 1:
        return
    dim = shape.index(found.wanted)
    moved = find_turn(crash, found.x, len(shape) - 1, found.wanted)
    edit = adapt_call(crash, lambda x: x.transpose(dim, -1), f"{{x}}.transpose({dim}, -1)")
    yield blame(
        found.module,
        f"{crash.describe_module(found.module)} expects its {found.wanted} features on "
        f"the last dim, but in {shape} they are on dim {dim}",
        *(() if moved is None else (leave_out(crash, moved),)),
        propose(edit),
        arithmetic=f"{shape[dim]} on dim {dim}, {shape[-1]} on the last",
        weight=USUAL if len(shape) == 3 else POSSIBLE,
    )


def _suspect_reduction(crash: Crash, found: MatrixProduct) -> Suspects:
    """A mean or maximum over the dim of the features: that of the others is what is meant."""
    call = next((row for _, row in crash.walk_back(found.x)), None)
    info = find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or info.effect != "reduces" or not call.inputs:
        return
    before, given = call.inputs[0].shape, read_argument(call, "dim")
    dims = {dim % len(before) for dim in (given if isinstance(given, tuple) else (given,)) if dim}
    if len(found.x.shape) != 2 or before[1:].count(found.wanted) != 1:
        return
    kept = before.index(found.wanted, 1)
    rest = tuple(dim for dim in range(1, len(before)) if dim != kept)
    if kept not in dims or len(dims) != len(rest):
        return
    right = rest if len(rest) > 1 else rest[0]

    def reduce(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(args[0], **{**kwargs, "dim": right})

    name = operation(call)
    title = f"use dim={right} in {name} at {{place}}"
    edit = rewrite_call(
        crash, call, reduce, title=title, code=f"dim={right}", keyword=("dim", right, 1)
    )
    message = (
        f"{crash.describe_call(call)} reduces dim {kept}, which has the {found.wanted} "
        f"features that {crash.describe_module(found.module)} expects"
    )
    yield blame(edit.module, message, edit, arithmetic=f"{before} became {found.x.shape}")
