import ast
import types
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.arrivals import list_operands
from cnnprobe.crash.facts.frames import find_assigned_value, read_arguments, read_locals
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_attribute, read_failing_line
from cnnprobe.recorder.inventory import class_of

_ASSIGNED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
          self.pool = nn.MaxPool2d(2)
      def forward(self, x):
          x = self.conv1(x)
-         x = self.pool
+         x = self.pool(x)
          return self.conv2(x)
  model, args = Net(), (torch.randn(2, 3, 12, 12),)
"""
_PASSED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 4)
      def forward(self, x):
-         x = F.relu(self.fc1)
+         x = F.relu(self.fc1(x))
          return self.fc2(x)
  model, args = Net(), (torch.randn(2, 6),)
"""
EXAMPLES = (
    Example(_ASSIGNED, blames="", repair="write self.pool(x) instead of self.pool"),
    Example(_PASSED, blames="", repair="write self.fc1(x) instead of self.fc1"),
)


@cause("CP0K0", "module-for-tensor", EXAMPLES, family="not-a-tensor", prior=899)
def module_for_tensor(crash: Crash) -> Suspects:
    """A layer or a function stands where its output was meant: it was not called.

    Why it happens: x = self.pool makes x the layer; self.pool(x) is what it computes.
    What to do: call it with the tensor.
    Known exceptions: a module of your own may take another module as an argument.
    Source: torch.nn.Module.__call__ runs forward.
    """
    method = find_failing_method(crash)
    if method is None or not isinstance(crash.error, TypeError | AttributeError):
        return
    for node, what in _list_passed(crash):
        text = ast.unparse(node)
        made = find_assigned_value(crash.error, text) if isinstance(node, ast.Name) else node
        if made is None:
            continue
        called = ast.unparse(made)
        first = [text] if isinstance(node, ast.Name) else []
        edits = [
            replace_node(method, made, f"{called}({name})")
            for name in dict.fromkeys([*first, *_list_tensors(crash)])
        ]
        yield blame(
            method.fqn,
            f"{text} is the {what} itself, not its output: {called} is not called",
            *(propose(edit, weight=STRONG) for edit in edits[:3] if edit is not None),
            arithmetic=f"{text} = {called}" if first else "",
            weight=STRONG + 1,
            advice=(f"call it: {called}(x)",),
        )
        return


def _list_passed(crash: Crash) -> Iterator[tuple[ast.expr, str]]:
    """The parts of the failing line that are layers where a tensor is meant, with their kind."""
    line = read_failing_line(crash)
    for node in (*list_operands(line), *_list_given(crash, line.nodes)):
        value = read_attribute(node, line.names)
        if isinstance(value, nn.Module) and _is_misused(node, line.nodes[0]):
            yield node, f"layer {class_of(value).__name__}"
        elif isinstance(value, types.FunctionType | types.BuiltinFunctionType):
            yield node, f"function {value.__name__}"


def _list_given(crash: Crash, nodes: list[ast.AST]) -> Iterator[ast.expr]:
    """The first argument of a stock layer that raised."""
    given: Any = read_arguments(crash.error, crash.leaf) if crash.leaf is not None else None
    if given is not None and given[0] and callable(given[0][0]):
        yield from (node.args[0] for node in nodes if isinstance(node, ast.Call) and node.args)


def _is_misused(node: ast.expr, root: ast.AST) -> bool:
    """Whether a layer is more than the owner of a method or attribute that it has."""
    asked = root.func if isinstance(root, ast.Call) else root
    if isinstance(asked, ast.Attribute) and asked.value is node:
        return hasattr(Tensor, asked.attr) and not hasattr(nn.Module, asked.attr)
    return not isinstance(root, ast.Subscript)


def _list_tensors(crash: Crash) -> list[str]:
    """The names of the failing function that are tensors."""
    found = read_locals(crash.error)
    return [name for name, value in found.items() if isinstance(value, Tensor)]
