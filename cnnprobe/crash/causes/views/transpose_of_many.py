import ast

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_failing_line

_FORWARD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 4, 3)
      def forward(self, x):
-         return self.conv(x.transpose(0, 3, 1, 2))
+         return self.conv(x.permute(0, 3, 1, 2))
  model, args = Net(), (torch.randn(2, 8, 8, 3),)
"""
_LOOP = """
  model = nn.Conv2d(3, 4, 3)
  def run(model):
      x = torch.randn(2, 8, 8, 3)
-     return model(x.transpose(0, 3, 1, 2))
+     return model(x.permute(0, 3, 1, 2))
"""
EXAMPLES = (
    Example(_FORWARD, blames="", repair="write x.permute(0, 3, 1, 2)"),
    Example(_LOOP, repair="write x.permute(0, 3, 1, 2)"),
)


@cause(
    "CP0N2",
    "transpose-of-many",
    EXAMPLES,
    stage=("forward", "around"),
    family="call-signature",
    prior=1196,
)
def transpose_of_many(crash: Crash) -> Suspects:
    """A transpose got an order of all dims, as NumPy's takes it.

    Why it happens: torch.Tensor.transpose swaps two dims; numpy.ndarray.transpose takes an order.
    What to do: x.permute(0, 3, 1, 2).
    Known exceptions: none.
    Source: torch.Tensor.permute and torch.Tensor.transpose.
    """
    if not isinstance(crash.error, TypeError):
        return
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        is_it = isinstance(call.func, ast.Attribute) and call.func.attr == "transpose"
        x = line.evaluate(call.func.value) if isinstance(call.func, ast.Attribute) else None
        order = [line.evaluate(part) for part in call.args]
        if not is_it or not isinstance(x, Tensor) or call.keywords:
            continue
        if len(order) != x.dim() or sorted(map(str, order)) != list(map(str, range(x.dim()))):
            continue
        owner = ast.unparse(call.func.value)  # type: ignore[attr-defined]
        code = f"{owner}.permute({', '.join(map(str, order))})"
        yield blame(
            crash.owner if crash.stage == "forward" else None,
            f"transpose swaps two dims, but got an order of all {len(order)}",
            _rewrite(crash, call, code, x, order),
            arithmetic=ast.unparse(call),
        )
        return


def _rewrite(crash: Crash, call: ast.Call, code: str, x: Tensor, order: list[int]) -> Edit | None:
    method = find_failing_method(crash) if crash.stage == "forward" else None
    if method is not None:
        return replace_node(method, call, code)
    return Check(
        title=f"write {code} instead of {ast.unparse(call)}",
        code=code,
        check=lambda: f"it gives {tuple(x.permute(order).shape)}",
        written=replace_expression(crash.error, call, code),
    )
