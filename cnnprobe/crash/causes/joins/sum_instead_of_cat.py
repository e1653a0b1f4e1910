from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.channels import Lack, find_lack, list_expected
from cnnprobe.crash.facts.halvings import list_halvings
from cnnprobe.crash.facts.joins import list_ancestors, write_parts
from cnnprobe.crash.facts.operands import find_operands
from cnnprobe.records.trace import ModuleCall, TensorInfo

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.image = nn.Linear(12, 32)
          self.table = nn.Linear(5, 8)
          self.head = nn.Linear(40, 2)
      def forward(self, x, y):
-         return self.head(self.image(x) + self.table(y))
+         return self.head(torch.cat([self.image(x), self.table(y)], dim=1))
  model, args = Net(), (torch.randn(4, 12), torch.randn(4, 5))
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.down = nn.Conv2d(3, 8, 3, padding=1)
          self.middle = nn.Conv2d(8, 16, 3, padding=1)
          self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
          self.out = nn.Conv2d(16, 2, 1)
      def forward(self, x):
          skip = self.down(x)
          x = self.up(self.middle(F.max_pool2d(skip, 2)))
-         return self.out(x + skip)
+         return self.out(torch.cat([x, skip], dim=1))
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="torch.cat([a, b], dim=1)"),
    Example(_SECOND, blames="", repair="torch.cat([a, b], dim=1)"),
)


@cause("CP0A6", "sum-instead-of-cat", EXAMPLES, family="channel-mismatch", prior=860)
def sum_instead_of_cat(crash: Crash) -> Suspects:
    """Two tensors are added, but the next layer expects the channels of both side by side.

    Why it happens: a skip connection is written with + as in a ResNet, while the layer after it
    was made for a concatenation as in a U-Net.
    What to do: torch.cat([a, b], dim=1).
    Known exceptions: in a residual block a sum is meant, and the layer after it is wrong.
    Source: Ronneberger et al. 2015, "U-Net", section 2, arXiv:1505.04597.
    """
    pair = find_operands(crash)
    if pair is not None and pair.is_sum and pair.is_even and len(pair.a.shape) > 1:
        total = pair.a.shape[1] + pair.b.shape[1]
        if total in list_expected(crash) and pair.a.shape[2:] == pair.b.shape[2:]:
            yield _suspect(crash, pair.call, (pair.a, pair.b), total)
        return
    lack = find_lack(crash)
    if lack is not None:
        yield from _suspect_earlier(crash, lack)


def _suspect_earlier(crash: Crash, lack: Lack) -> Suspects:
    """The latest sum on the way to a layer that lacks channels, if nothing changed them since."""
    for _, call in crash.walk_back(lack.x):
        info = operations.find(call)
        parts = [t for t in call.inputs if len(t.shape) == len(lack.x.shape)][:2]
        if info is not None and info.name == "add" and len(parts) == 2:
            total = parts[0].shape[1] + parts[1].shape[1]
            if total == lack.expected and not _is_residual(crash, *parts):
                yield _suspect(crash, call, parts, total)
            return
        if not call.outputs or call.outputs[0].shape[1:2] != lack.x.shape[1:2]:
            return


def _is_residual(crash: Crash, a: TensorInfo, b: TensorInfo) -> bool:
    """Whether one comes from the other at one resolution, as in a residual block."""
    for one, other in ((a, b), (b, a)):
        later = list_ancestors(crash, other)
        if one.source in later or one.source is None:
            since = later - list_ancestors(crash, one)
            calls = [crash.trace.calls[i] for i in since]
            return not any(h.call in calls for h in list_halvings(crash, other))
    return False


def _suspect(crash: Crash, call: ModuleCall, parts: Sequence[TensorInfo], total: int) -> Suspect:
    shapes = {t.shape for t in parts}

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = [a for a in args[:2] if isinstance(a, Tensor) and tuple(a.shape) in shapes]
        return torch.cat(given, dim=1) if len(given) == 2 else func(*args, **kwargs)

    counts = " + ".join(str(t.shape[1]) for t in parts)
    title = "concatenate the two instead of adding them: torch.cat([a, b], dim=1)"
    edit = rewrite_call(crash, call, rewrite, title=title, code="torch.cat([a, b], dim=1)")
    message = (
        f"{crash.describe_call(call)} adds two tensors, but the layer after it expects"
        f" {counts} = {total} channels"
    )
    return blame(edit.module, message, edit, arithmetic=write_parts(crash, parts), needs_proof=True)
