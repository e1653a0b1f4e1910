import ast
from collections.abc import Iterator
from typing import Any

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.operations import resolve_name

# Functions that take no number but sizes, dims and counts.
_SIZED = (
    *("view", "reshape", "expand", "repeat", "tile", "flatten", "unflatten", "permute", "movedim"),
    *("squeeze", "unsqueeze", "transpose", "narrow", "split", "chunk", "pixel_shuffle"),
    *("zeros", "ones", "empty", "rand", "randn", "new_zeros", "new_ones"),
    *("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool2d"),
    *("avg_pool2d", "max_pool2d"),
)
_SETTINGS = ("kernel_size", "stride", "padding", "dilation", "output_size", "output_padding")

_DIVIDED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
          self.fc = nn.Linear(8 * 36, 4)
      def forward(self, x):
          x = self.conv(x)
-         x = x.view(x.size(0), x.numel() / x.size(0))
+         x = x.view(x.size(0), x.numel() // x.size(0))
          return self.fc(x)
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
_KEPT = """
  class Net(nn.Module):
      def __init__(self, size=8):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
          self.half = size / 2
      def forward(self, x):
          x = self.conv(x)
-         return x.reshape(x.size(0), 8 * self.half * self.half)
+         return x.reshape(x.size(0), int(8 * self.half * self.half))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
_LAYER = """
- model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(8 / 2))
+ model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AvgPool2d(8 // 2))
  args = (torch.randn(1, 3, 8, 8),)
"""
_SLICE = """
  model = nn.Linear(8, 2)
  def run(model):
      x = model(torch.randn(4, 8))
-     return x[: x.size(0) / 2]
+     return x[: x.size(0) // 2]
"""
EXAMPLES = (
    Example(_DIVIDED, blames="", repair="write x.numel() // x.size(0)"),
    Example(_KEPT, blames="", repair="write int(8 * self.half * self.half)"),
    Example(_LAYER, blames="1", repair="set kernel_size=4, stride=4 in '1'"),
    Example(_SLICE, repair="write x.size(0) // 2", is_tried=False),
)


@cause(
    "CP0K3",
    "float-size",
    EXAMPLES,
    stage=("forward", "around"),
    family="call-signature",
    prior=1003,
)
def float_size(crash: Crash) -> Suspects:
    """A size is a float: 4704.0 where a whole number is expected.

    Why it happens: / gives a float in Python, also where nothing remains: 8 / 2 is 4.0.
    What to do: divide with //, or take int(...).
    Known exceptions: scale_factor and probabilities are floats.
    Source: Python, "Binary arithmetic operations"; torch.Tensor.view.
    """
    if not isinstance(crash.error, TypeError):
        return
    is_forward = crash.stage == "forward"
    if is_forward and crash.call is not None and (found := _find_settings(crash)):
        name, value = next(iter(found.items()))
        whole = {key: _to_whole(old) for key, old in found.items()}
        edit = configure(crash, crash.call.fqn or "", **whole)
        message = f"{crash.describe_call(crash.call)} has {name} {value}, a float"
        yield blame(crash.call.fqn, message, edit, arithmetic=f"{name}={value}")
        return
    line = read_failing_line(crash)
    method = find_failing_method(crash) if is_forward else None
    if (method is None) == is_forward or (node := next(_list_floats(line), None)) is None:
        return
    text = ast.unparse(node)
    whole_text = f"int({text})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
        whole_text = f"{ast.unparse(node.left)} // {ast.unparse(node.right)}"
    title = f"write {whole_text} instead of {text}"
    written = replace_expression(crash.error, node, whole_text)
    change: Edit | None = Advice(title=title, code=whole_text, written=written)
    if method is not None:
        change = replace_node(method, node, whole_text)
    yield blame(
        method.fqn if method is not None else None,
        f"{ast.unparse(line.nodes[0])} expects whole numbers, but {text} is a float",
        propose(change, weight=STRONG) if change is not None else None,
        weight=STRONG + 1,
    )


def _find_settings(crash: Crash) -> dict[str, Any]:
    """The settings of the failing layer that are floats."""
    found = {name: getattr(crash.leaf, name, None) for name in _SETTINGS}
    return {k: v for k, v in found.items() if crash.leaf is not None and _is_float(v)}


def _is_float(value: Any) -> bool:
    return any(isinstance(v, float) for v in (value if isinstance(value, tuple) else (value,)))


def _to_whole(value: Any) -> Any:
    return tuple(map(int, value)) if isinstance(value, tuple) else int(value)


def _list_floats(line: FailingLine) -> Iterator[ast.expr]:
    """The arguments of the failing call that are floats."""
    root = line.nodes[0] if line.nodes else None
    if isinstance(root, ast.Subscript):
        slices = [n for n in ast.walk(root.slice) if isinstance(n, ast.Slice)]
        ends = [end for one in slices for end in (one.lower, one.upper, one.step)]
        yield from (end for end in ends if end is not None and _gives_float(line, end))
        return
    if not isinstance(root, ast.Call):
        return
    if resolve_name(ast.unparse(root.func).rpartition(".")[2]) not in _SIZED:
        return
    given = [*root.args, *(keyword.value for keyword in root.keywords)]
    flat = [part for node in given for part in getattr(node, "elts", [node])]
    yield from (node for node in flat if _gives_float(line, node))


def _gives_float(line: FailingLine, node: ast.expr) -> bool:
    """Whether an expression of numbers gives a float."""
    if isinstance(node, ast.BinOp):
        parts = (node.left, node.right)
        return isinstance(node.op, ast.Div) or any(_gives_float(line, part) for part in parts)
    return isinstance(line.evaluate(node), float)
