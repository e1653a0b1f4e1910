import ast
from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import STRONG, USUAL, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_BUILT_IN = {"max": ("min", "torch.maximum"), "min": ("max", "torch.minimum")}
_MAX = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(6, 4)
      def forward(self, x):
-         return max(self.fc(x), 0)
+         return torch.clamp(self.fc(x), min=0)
  model, args = Net(), (torch.randn(3, 6),)
"""
_IF = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(6, 4)
      def forward(self, x):
          x = self.fc(x)
-         if x > 0:
+         if (x > 0).any():
              x = 2 * x
          return x
  model, args = Net(), (torch.randn(3, 6),)
"""
EXAMPLES = (
    Example(_MAX, blames="", repair="write torch.clamp(self.fc(x), min=0)", on_meta=False),
    Example(_IF, blames="", repair="write (x > 0).any() instead of x > 0", on_meta=False),
)


@cause("CP0K7", "tensor-for-bool", EXAMPLES, prior=1004)
def tensor_for_bool(crash: Crash) -> Suspects:
    """A tensor of several values stands where one yes or no is expected.

    Why it happens: if x > 0 asks once for all values; max(x, 0) of Python asks so too.
    What to do: ask (x > 0).any() or .all(); choose value by value with torch.where; take
    torch.clamp or torch.maximum.
    Known exceptions: a tensor of one value is true where it is not zero.
    Source: torch.Tensor.any, torch.where, torch.clamp.
    """
    call, method = crash.call, find_failing_method(crash)
    is_bool = call is not None and call.fqn is None and call.kind.endswith("__bool__")
    if call is None or not is_bool or not call.inputs or method is None:
        return
    line, shape = read_failing_line(crash), call.inputs[0].shape
    changes = list(_list_changes(line))
    edits = [(replace_node(method, node, text), weight) for node, text, weight in changes]
    shown = ast.unparse(line.nodes[0]) if line.nodes else "the condition"
    yield blame(
        method.fqn,
        f"{shown} asks for one yes or no, but a tensor {shape} has one for each value",
        *(propose(edit, weight=weight) for edit, weight in edits if edit is not None),
        arithmetic=f"{shape} from {crash.describe_origin(call.inputs[0])}",
        weight=STRONG + 1,
        advice=("choose value by value: torch.where(condition, a, b)",),
    )


def _list_changes(line: FailingLine) -> Iterator[tuple[ast.expr, str, int]]:
    """What may be written in the place of a part of the failing line."""
    root = line.nodes[0] if line.nodes else None
    if isinstance(root, ast.Call) and getattr(root.func, "id", "") in _BUILT_IN:
        yield from _replace_built_in(line, root)
    elif isinstance(root, ast.expr):
        text = ast.unparse(root)
        asked = text if isinstance(root, ast.Name | ast.Call | ast.Attribute) else f"({text})"
        yield root, f"{asked}.any()", STRONG
        yield root, f"{asked}.all()", USUAL


def _replace_built_in(line: FailingLine, node: ast.Call) -> Iterator[tuple[ast.expr, str, int]]:
    """Torch's own function for max(a, b) and min(a, b)."""
    bound, function = _BUILT_IN[node.func.id]  # type: ignore[attr-defined]
    if len(node.args) != 2 or node.keywords:
        return
    numbers = [isinstance(line.evaluate(part), int | float) for part in node.args]
    a, b = map(ast.unparse, node.args)
    if numbers == [False, True]:
        yield node, f"torch.clamp({a}, {bound}={b})", STRONG
    elif numbers == [True, False]:
        yield node, f"torch.clamp({b}, {bound}={a})", STRONG
    elif isinstance(line.evaluate(node.args[0]), Tensor):
        yield node, f"{function}({a}, {b})", STRONG
