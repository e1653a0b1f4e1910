import ast

import torch

from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import change_input
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.unpacking import describe_sizes, find_unpacking, lacks_batch

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(6, 2)
      def forward(self, x):
-         n, features = x.shape
+         n, features, _ = x.shape
          return self.fc(x.mean(1)) / n
  model, args = Net(), (torch.randn(4, 5, 6),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write n, features, _ instead of n, features")


@cause("CP050", "sizes-unpacked", EXAMPLE, family="shape-mismatch", prior=1193)
def sizes_unpacked(crash: Crash) -> Suspects:
    """The sizes of a tensor are unpacked into another number of names than it has dims.

    Why it happens: the code is written for images and gets sequences, or the other way round.
    Or the batch dimension is missing.
    What to do: write a name for each dim, or read single sizes: x.size(0).
    Known exceptions: none.
    Source: torch.Tensor.size in the documentation of PyTorch.
    """
    found, method = find_unpacking(crash), find_failing_method(crash)
    if found is None or method is None or not isinstance(found.value, torch.Size):
        return
    surplus = found.given - found.wanted
    text = ast.unparse(found.names).strip("()") + ", _" * surplus
    is_sample = lacks_batch(crash, found)
    edit: Edit | None = replace_node(method, found.names, text) if surplus > 0 else None
    if is_sample:
        title = "add the batch dimension: x.unsqueeze(0)"
        edit = change_input(lambda x: x[None], "{x}[None]", title=title)
    message = describe_sizes(found)
    arithmetic = f"{tuple(found.value)} for {found.wanted} names"
    # A sample without its batch: missing-batch says it better where it knows.
    yield blame(
        method.fqn, message, edit, arithmetic=arithmetic, weight=POSSIBLE if is_sample else STRONG
    )
