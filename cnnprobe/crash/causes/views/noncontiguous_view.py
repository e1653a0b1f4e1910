import ast
import contextlib

from torch import Tensor

from cnnprobe.crash.cause import USUAL, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.files import UnknownPlaceError
from cnnprobe.crash.edits.places import find_called, is_function
from cnnprobe.crash.edits.reshaping import reshape_otherwise
from cnnprobe.crash.facts.features import is_failing_view
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.words import operation
from cnnprobe.operations import find, resolve_name
from cnnprobe.records.trace import ModuleCall, TensorInfo

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 6, 3)
          self.fc = nn.Linear(6 * 6 * 6, 2)
      def forward(self, x):
          x = self.conv(x).permute(0, 2, 3, 1)
          x = F.relu(x)
-         return self.fc(x.view(x.size(0), -1))
+         return self.fc(x.reshape(x.size(0), -1))
  model, args = Net(), (torch.randn(4, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="use x.reshape(x.size(0), -1) instead of")


@cause("CP008", "noncontiguous-view", EXAMPLE, prior=806)
def noncontiguous_view(crash: Crash) -> Suspects:
    """view() needs a contiguous tensor, and got one whose dims were moved.

    Why it happens: permute, transpose and some slices change the order of the dims and leave the
    elements where they are; view() moves no elements either, so that its sizes cannot be had.
    What to do: use reshape(), which copies where it has to, or contiguous().view().
    Known exceptions: check that the order of the dims is what is meant: reshape() hides it.
    Source: docs of torch.Tensor.view and torch.Tensor.reshape.
    """
    if (call := crash.call) is None or call.fqn is not None or resolve_name(call.kind) != "view":
        return
    if not (sizes := read_sizes(call)) or not call.inputs or is_failing_view(call):
        return
    x, shown, owner = call.inputs[0], _write_sizes(call, sizes), crash.owner

    def reshape(x: Tensor, *sizes: int) -> Tensor:
        return x.reshape(*sizes)

    edits = [
        reshape_otherwise(crash, call, reshape, f"{{x}}{n}({shown})", respell=f"{{x}}{n}({{rest}})")
        for n in (".reshape", ".contiguous().view")
    ]
    message = (
        f"view in {crash.describe_module(owner)} needs a contiguous tensor, but "
        f"{_find_mover(crash, x)} made {x.shape} non-contiguous"
    )
    arithmetic = f"shape {x.shape}, strides {x.strides}; view{sizes}"
    yield blame(owner, message, edits[0], propose(edits[1], weight=USUAL), arithmetic=arithmetic)


def _write_sizes(call: ModuleCall, sizes: tuple[int, ...]) -> str:
    """The sizes as they are written in the call; as numbers, where that is not known."""
    with contextlib.suppress(UnknownPlaceError):
        file, node = find_called(call.source, operation(call))
        if node.args and not node.keywords and not is_function(file, node):
            return ", ".join(map(ast.unparse, node.args))
    return ", ".join(map(str, sizes))


def _find_mover(crash: Crash, x: TensorInfo) -> str:
    """The latest call that moves dims or takes a part; else what made the tensor."""
    for _, call in crash.walk_back(x):
        operation = find(call)
        if operation is not None and operation.effect in ("turns", "selects", "expands"):
            return crash.describe_call(call)
    return crash.describe_origin(x)
