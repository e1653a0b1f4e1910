from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.facts.words import quote
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Aux(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 10)
      def forward(self, x):
          return self.fc(x.mean((2, 3)))
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.stem = nn.Conv2d(3, 8, 3)
          self.aux = Aux()
          self.top = nn.Conv2d(8, 16, 3)
      def forward(self, x):
          x = self.stem(x)
          return self.top(x), self.aux(x)
- parts = list(Net().children())
+ parts = [part for part in Net().children() if not isinstance(part, Aux)]
  model, args = nn.Sequential(*parts), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="1", repair="leave '1' out of the nn.Sequential")


@cause("CP0A7", "head-inside-sequence", EXAMPLE, family="shape-mismatch", prior=1310)
def head_inside_sequence(crash: Crash) -> Suspects:
    """A head stands in the middle of a Sequential, so that what follows gets its logits.

    Why it happens: nn.Sequential(*model.children()) runs one child after the other, in the order of
    __init__. An auxiliary head is a branch of the model, not a step on the way.
    What to do: leave the head out of the list, or write a forward of your own.
    Known exceptions: none.
    Source: Inception3 and GoogLeNet of torchvision have their auxiliary heads among their children.
    """
    if (call := crash.call) is None or not call.inputs:
        return
    head = next((row for _, row in crash.walk_back(call.inputs[0])), None)
    for row in (head, *_list_above(crash, head)):
        if row is None or not _is_head(crash, row) or not _is_step(crash, row.fqn or ""):
            continue
        fqn = row.fqn or ""
        edit = Remove(title=f"leave {quote(fqn)} out of the nn.Sequential", module=fqn)
        message = f"{crash.describe_module(fqn)} is a head in the middle of an nn.Sequential"
        arithmetic = f"it makes {row.outputs[0].shape} of {row.inputs[0].shape}"
        yield blame(fqn, message, edit, arithmetic=arithmetic, weight=STRONG + 1, needs_proof=True)


def _list_above(crash: Crash, row: ModuleCall | None) -> Iterator[ModuleCall]:
    """The completed calls that hold a call."""
    while row is not None and row.parent is not None:
        row = crash.trace.calls[row.parent]
        if row.completed:
            yield row


def _is_head(crash: Crash, row: ModuleCall) -> bool:
    """Whether a module of several parts has made logits of a map."""
    module = crash.modules.get(row.fqn) if row.fqn is not None else None
    layers = [m for m in module.modules() if m._parameters] if module is not None else []
    shapes = [t.shape for t in (*row.inputs[:1], *row.outputs[:1])]
    ends = bool(layers) and isinstance(layers[-1], nn.Linear) and bool(module and module._modules)
    return ends and [len(shape) for shape in shapes] == [4, 2]


def _is_step(crash: Crash, fqn: str) -> bool:
    """Whether a module stands in a plain Sequential, and not last."""
    parent = crash.modules.get(fqn.rpartition(".")[0]) if fqn else None
    names = list(parent._modules) if type(parent) is nn.Sequential else []
    return fqn.rpartition(".")[2] in names[:-1]
