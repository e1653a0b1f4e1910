import ast
import copy

from torch import Tensor

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.method import replace_node
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
EXAMPLE = Example(_PROGRAM, blames="", repair="write torch.cat([self.a(x), self.b(x)], dim=1)")


@cause("CP055", "tensors-not-in-a-list", EXAMPLE, family="not-a-tensor", prior=1199)
def tensors_not_in_a_list(crash: Crash) -> Suspects:
    """torch.cat or torch.stack gets tensors one by one, but expects one list of them.

    Why it happens: the brackets are forgotten, and the second tensor is taken for the dim.
    What to do: write torch.cat([a, b], dim=1).
    Known exceptions: none.
    Source: torch.cat and torch.stack in the documentation of PyTorch.
    """
    method = find_failing_method(crash)
    if method is None or not isinstance(crash.error, TypeError) or crash.leaf is not None:
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
        edit = replace_node(method, call, ast.unparse(new))
        message = (
            f"{ast.unparse(call.func)} expects one list of tensors but got "
            f"{len(tensors)} tensor{'s' * (len(tensors) != 1)} one by one"
        )
        yield blame(method.fqn, message, edit, arithmetic=ast.unparse(call))
