import ast
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         x = x.view(x.shape(0), -1)
+         x = x.view(x.shape[0], -1)
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 2, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write x.shape[0] instead of x.shape(0)")


@cause("CP0A8", "wrong-brackets", EXAMPLE, family="call-signature", prior=1191)
def wrong_brackets(crash: Crash) -> Suspects:
    """Parentheses stand where square brackets are meant, or the other way round.

    Why it happens: x.shape is a value and x.size is a method; a layer is called, a list is indexed.
    What to do: write x.shape[0] or x.size(0), layer(x), layers[i].
    Known exceptions: none.
    Source: torch.Tensor.size and torch.Tensor.shape in the documentation of PyTorch.
    """
    method, line = find_failing_method(crash), read_failing_line(crash)
    node = line.nodes[0] if line.nodes else None
    if method is None or not isinstance(crash.error, TypeError):
        return
    if isinstance(node, ast.Call):
        part, text = node.func, _index_instead(line, node)
    elif isinstance(node, ast.Subscript):
        part, text = node.value, _call_instead(line, node)
    else:
        return
    edit = replace_node(method, node, text) if text else None
    if not text:
        return
    is_call = isinstance(node, ast.Call)
    message = (
        f"{ast.unparse(part)} is {'indexed' if is_call else 'called'}, "
        f"not {'called' if is_call else 'indexed'}: {text}"
    )
    yield blame(method.fqn, message, edit)


def _index_instead(line: FailingLine, node: ast.Call) -> str:
    """The square brackets for x.shape(0), layers(0), x(0); "" where it is no such slip."""
    value = line.evaluate(node.func)
    if len(node.args) != 1 or node.keywords:
        return ""
    is_index = isinstance(line.evaluate(node.args[0]), int)
    if not is_index or not isinstance(value, Tensor | torch.Size | list | nn.ModuleList):
        return ""
    return f"{ast.unparse(node.func)}[{ast.unparse(node.args[0])}]"


def _call_instead(line: FailingLine, node: ast.Subscript) -> str:
    """The parentheses for x.size[0] and self.fc[x]."""
    if isinstance(line.evaluate(node.value), nn.Module) or _is_method(line, node.value):
        return f"{ast.unparse(node.value)}({ast.unparse(node.slice)})"
    return ""


def _is_method(line: FailingLine, node: ast.expr) -> bool:
    owner: Any = line.evaluate(node.value) if isinstance(node, ast.Attribute) else None
    name = node.attr if isinstance(node, ast.Attribute) else ""
    return isinstance(owner, Tensor) and callable(getattr(owner, name, None))
