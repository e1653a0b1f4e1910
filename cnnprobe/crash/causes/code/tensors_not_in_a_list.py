import ast
import copy
from typing import Any

import torch
from torch import Tensor

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.a = nn.Linear(4, 3)
          self.b = nn.Linear(4, 3)
          self.head = nn.Linear(6, 2)
      def forward(self, x):
-         return self.head(torch.cat(self.a(x), self.b(x), dim=1))
+         return self.head(torch.cat([self.a(x), self.b(x)], dim=1))
  model, args = Net(), (torch.randn(5, 4),)
"""
_LOOP = """
  model = nn.Linear(4, 2)
  def run(model):
      first, second = torch.randn(3, 4), torch.randn(2, 4)
-     return model(torch.cat(first, second))
+     return model(torch.cat([first, second]))
"""
EXAMPLES = (
    Example(_PROGRAM, blames="", repair="write torch.cat([self.a(x), self.b(x)], dim=1)"),
    Example(_LOOP, repair="write torch.cat([first, second])"),
)


@cause(
    "CP055",
    "tensors-not-in-a-list",
    EXAMPLES,
    stage=("forward", "loss"),
    family="not-a-tensor",
    prior=1199,
)
def tensors_not_in_a_list(crash: Crash) -> Suspects:
    """torch.cat or torch.stack gets tensors one by one, but expects one list of them.

    Why it happens: the brackets are forgotten, and the second tensor is taken for the dim.
    What to do: write torch.cat([a, b], dim=1).
    Known exceptions: none.
    Source: torch.cat and torch.stack in the documentation of PyTorch.
    """
    is_forward = crash.stage == "forward"
    method = find_failing_method(crash) if is_forward else None
    is_error = isinstance(crash.error, TypeError) and crash.leaf is None
    if not is_error or (is_forward and method is None):
        return
    line = read_failing_line(crash)
    for call in [node for node in line.nodes if isinstance(node, ast.Call)]:
        name = operations.resolve_name(ast.unparse(call.func).rpartition(".")[2])
        tensors = [a for a in call.args if isinstance(line.evaluate(a), Tensor)]
        if name not in operations.select(trait="sequence") or tensors[:1] != call.args[:1]:
            continue
        new = copy.deepcopy(call)
        others = [a for a in call.args if a not in tensors]
        new.args = [ast.List(elts=tensors, ctx=ast.Load()), *others]
        edit = _write(crash, call, ast.unparse(new), [line.evaluate(node) for node in tensors])
        message = (
            f"{ast.unparse(call.func)} expects one list of tensors but got "
            f"{len(tensors)} tensor{'s' * (len(tensors) != 1)} one by one"
        )
        fqn = method.fqn if method is not None else None
        yield blame(fqn, message, edit, arithmetic=ast.unparse(call))


def _write(crash: Crash, call: ast.Call, text: str, values: list[Any]) -> Edit | None:
    """The call with its list: run in a copy of the model, or by itself where it is the loop's."""
    if crash.stage == "forward":
        method = find_failing_method(crash)
        return replace_node(method, call, text) if method is not None else None
    join = ast.unparse(call.func)
    is_plain = len(values) == len(call.args) and not call.keywords and join.startswith("torch.")

    def check() -> str:
        return f"it gives {tuple(getattr(torch, join.rpartition('.')[2])(values).shape)}"

    title = f"write {text} instead of {ast.unparse(call)}"
    written = replace_expression(crash.error, call, text)
    if not is_plain:
        return Advice(title=title, code=text, written=written)
    return Check(title=title, code=text, written=written, check=check)
