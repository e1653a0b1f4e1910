import ast
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_MAKERS = ("torch.tensor", "torch.Tensor", "torch.FloatTensor", "torch.LongTensor")

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      rows = [torch.randn(8) for _ in range(4)]
-     return model(torch.tensor(rows))
+     return model(torch.stack(rows))
"""
_SECOND = """
  class Heads(nn.Module):
      def __init__(self):
          super().__init__()
          self.heads = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
      def forward(self, x):
          rows = [head(x) for head in self.heads]
-         return torch.tensor(rows).mean(0)
+         return torch.stack(rows).mean(0)
  model, args = Heads(), (torch.randn(4, 8),)
"""
EXAMPLES = (
    Example(_PROGRAM, repair="write torch.stack(rows)"),
    Example(_SECOND, blames="", repair="write torch.stack(rows)", on_meta=False),
)


@cause(
    "CP0A3",
    "tensor-of-tensors",
    EXAMPLES,
    stage=("forward", "loss"),
    family="not-a-tensor",
    prior=795,
)
def tensor_of_tensors(crash: Crash) -> Suspects:
    """torch.tensor() got a list of tensors instead of numbers.

    Why it happens: torch.tensor copies numbers into a new tensor. Tensors of several values are
    no numbers.
    What to do: torch.stack(list) joins tensors of one shape along a new dim, torch.cat along an
    existing one.
    Known exceptions: tensors of one value each are taken for numbers.
    Source: PyTorch, torch.tensor and torch.stack.
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        value = _find_list(line, call)
        shapes = list(dict.fromkeys(tuple(v.shape) for v in value))
        if not value or shapes == [()]:
            continue
        name = ast.unparse(call.func)
        yield blame(
            crash.owner if crash.stage == "forward" else None,
            f"{name} makes a tensor of numbers, but got {len(value)} tensors of {shapes[0]}",
            propose(_stack(crash, call, value, is_alike=len(shapes) == 1)),
            arithmetic=f"{len(value)} tensors of {len(shapes)} shape{'s' * (len(shapes) != 1)}",
            tensors=tuple(value[:2]),
        )
        return


def _find_list(line: FailingLine, call: ast.Call) -> list[Tensor]:
    if not call.args or ast.unparse(call.func) not in _MAKERS:
        return []
    value: Any = line.evaluate(call.args[0])
    if not isinstance(value, list | tuple):
        return []
    return list(value) if all(isinstance(v, Tensor) for v in value) else []


def _stack(crash: Crash, call: ast.Call, value: list[Tensor], *, is_alike: bool) -> Edit:
    text = f"torch.stack({ast.unparse(call.args[0])})"
    title = f"write {text} instead of {ast.unparse(call)}"
    if not is_alike:
        return Advice(title=f"{title}, once they have one shape", code=text)
    method = find_failing_method(crash) if crash.stage == "forward" else None
    if method is not None and (edit := replace_node(method, call, text)) is not None:
        return edit
    return Check(
        title=title,
        code=text,
        check=lambda: f"it gives {tuple(torch.stack(value).shape)}",
        written=replace_expression(crash.error, call, text),
    )
