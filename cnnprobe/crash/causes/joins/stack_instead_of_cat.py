from collections.abc import Callable
from typing import Any

import torch

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.places import find_called
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.facts.words import read_argument
from cnnprobe.operations import find

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.colour = nn.Conv2d(3, 8, 3)
          self.depth = nn.Conv2d(1, 8, 3)
          self.fuse = nn.Conv2d(16, 4, 1)
      def forward(self, image, depth):
-         both = torch.stack([self.colour(image), self.depth(depth)], dim=1)
+         both = torch.cat([self.colour(image), self.depth(depth)], dim=1)
          return self.fuse(both)
  model, args = Net(), (torch.randn(2, 3, 9, 9), torch.randn(2, 1, 9, 9))
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="torch.cat instead of torch.stack")


@cause("CP0H9", "stack-instead-of-cat", EXAMPLE, family="shape-mismatch", prior=861)
def stack_instead_of_cat(crash: Crash) -> Suspects:
    """Tensors are stacked along a new dim where the next layer expects them side by side.

    Why it happens: torch.stack makes a new dim, (N, 2, C, H, W); torch.cat makes (N, 2C, H, W).
    What to do: torch.cat(tensors, dim=1).
    Known exceptions: reported only where the forward passes with torch.cat.
    Source: torch.stack and torch.cat.
    """
    if crash.call is None or not crash.inputs:
        return
    for _, row in crash.walk_back(crash.inputs[0]):
        info = find(row) if row.fqn is None else None
        if info is None or not row.outputs or row.outputs[0].shape != crash.inputs[0].shape:
            return
        if info.name != "stack":
            continue
        given = read_argument(row, "dim")
        dim = given if isinstance(given, int) else 0

        def join(_func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return torch.cat(args[0] if args else kwargs["tensors"], dim)  # noqa: B023 - it returns

        def write(source: str = row.source) -> list[TextChange]:
            file, call = find_called(source, "stack")
            return [file.replace(call.func, file.source(call.func).replace("stack", "cat"))]

        title = "use torch.cat instead of torch.stack at {place}"
        edit = rewrite_call(crash, row, join, title=title, code="torch.cat", written=write)
        what = crash.describe_call(crash.call)
        yield blame(
            edit.module,
            f"{crash.describe_call(row)} makes a new dim, {row.outputs[0].shape}, but {what} "
            f"expects the tensors side by side",
            edit,
            arithmetic=write_parts(crash, row.inputs),
            weight=STRONG,
            needs_proof=True,
        )
        return
