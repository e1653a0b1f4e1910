import ast
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.members import describe_value, is_uncalled, read_expression
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
_PROPERTY = """
  model = nn.Linear(8, 2)
  def run(model):
      x = torch.randn(3, 8)
-     if x.dtype() != torch.float32:
+     if x.dtype != torch.float32:
          x = x.float()
      return model(x)
"""
_METHOD = """
  model = nn.Linear(8, 2)
  def run(model):
      model(torch.randn(3, 8))
-     return model.state_dict["weight"]
+     return model.state_dict()["weight"]
"""
EXAMPLES = (
    Example(_PROGRAM, blames="", repair="write x.shape[0] instead of x.shape(0)"),
    Example(_PROPERTY, repair="write x.dtype instead of x.dtype()"),
    Example(_METHOD, repair="write model.state_dict()['weight']", is_tried=False),
)


@cause(
    "CP0A8",
    "wrong-brackets",
    EXAMPLES,
    stage=("forward", "around"),
    family="call-signature",
    prior=1191,
)
def wrong_brackets(crash: Crash) -> Suspects:
    """Brackets stand where none are meant, or of the wrong kind.

    Why it happens: x.shape is a value and x.size is a method; an image of Pillow has its size as
    a value. A layer is called, a list is indexed.
    What to do: write x.shape, x.shape[0] or x.size(0), image.size, layer(x), layers[i].
    Known exceptions: none.
    Source: torch.Tensor.size and torch.Tensor.shape in the documentation of PyTorch.
    """
    line = read_failing_line(crash)
    node = line.nodes[0] if line.nodes else None
    if not isinstance(crash.error, TypeError) or not isinstance(node, ast.Call | ast.Subscript):
        return
    is_call = isinstance(node, ast.Call)
    part = node.func if isinstance(node, ast.Call) else node.value
    value = read_expression(line, part)
    if isinstance(node, ast.Call) and not node.args and not node.keywords:
        text, is_property = ast.unparse(part), isinstance(part, ast.Attribute)
        if not is_property or value is None or callable(value):
            return
        message = f"{text} is a value, {_show(line, part, value)}: it is read, not called"
    else:
        text = _index_instead(line, node) if isinstance(node, ast.Call) else ""
        text = _call_instead(line, node) if isinstance(node, ast.Subscript) else text
        message = (
            f"{ast.unparse(part)} is {'indexed' if is_call else 'called'}, "
            f"not {'called' if is_call else 'indexed'}: {text}"
        )
    method = find_failing_method(crash) if crash.stage == "forward" else None
    if text and (method is not None or crash.stage != "forward"):
        owner = method.fqn if method is not None else None
        yield blame(owner, message, _rewrite(crash, line, node, text))


def _rewrite(
    crash: Crash, line: FailingLine, node: ast.Call | ast.Subscript, text: str
) -> Edit | None:
    """The other spelling: within a forward it is run, in the loop a property is read."""
    method = find_failing_method(crash) if crash.stage == "forward" else None
    if method is not None:
        return replace_node(method, node, text)
    title = f"write {text} instead of {ast.unparse(node)}"
    written = replace_expression(crash.error, node, text)
    if isinstance(node, ast.Subscript) or "[" in text:
        return Advice(title=title, code=text, written=written)

    def check() -> str:
        return f"it is {describe_value(read_expression(line, node.func))}"

    return Check(title=title, code=text, written=written, check=check)


def _show(line: FailingLine, node: ast.expr, value: Any) -> str:
    owner = read_expression(line, node.value) if isinstance(node, ast.Attribute) else None
    is_image = type(owner).__module__.startswith("PIL.") and ast.unparse(node).endswith(".size")
    return describe_value(value) + (" for width and height" if is_image else "")


def _index_instead(line: FailingLine, node: ast.Call) -> str:
    """The square brackets for x.shape(0), layers(0), x(0); "" where it is no such slip."""
    value = read_expression(line, node.func)
    if len(node.args) != 1 or node.keywords:
        return ""
    is_index = isinstance(line.evaluate(node.args[0]), int)
    if not is_index or not isinstance(value, Tensor | tuple | list | nn.ModuleList):
        return ""
    return f"{ast.unparse(node.func)}[{ast.unparse(node.args[0])}]"


def _call_instead(line: FailingLine, node: ast.Subscript) -> str:
    """The parentheses for x.size[0], self.fc[x], model.state_dict["fc.weight"]."""
    text, key = ast.unparse(node.value), ast.unparse(node.slice)
    owner = (
        read_expression(line, node.value.value) if isinstance(node.value, ast.Attribute) else None
    )
    name = node.value.attr if isinstance(node.value, ast.Attribute) else ""
    if isinstance(owner, nn.Module | Optimizer) and is_uncalled(owner, name):
        is_generator = name in ("parameters", "children", "modules", "buffers")
        return f"list({text}())[{key}]" if is_generator else f"{text}()[{key}]"
    is_method = isinstance(owner, Tensor) and callable(getattr(owner, name, None))
    is_layer = isinstance(line.evaluate(node.value), nn.Module)
    return f"{text}({key})" if is_method or is_layer else ""
