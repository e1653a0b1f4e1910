import ast

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import parse_function
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
-     loss = model(torch.randn(4, 8)).mean().item()
+     loss = model(torch.randn(4, 8)).mean()
      loss.backward()
"""
EXAMPLE = Example(_PROGRAM, repair="drop .item()", is_tried=False)


@cause("CP0G5", "number-for-loss", EXAMPLE, stage="loss", family="detached-graph", prior=865)
def number_for_loss(crash: Crash) -> Suspects:
    """backward() was called on a Python number instead of a tensor.

    Why it happens: .item() gives a number, which has no graph and no backward.
    What to do: call backward() on the tensor, and take .item() of it for printing alone.
    Known exceptions: none.
    Source: PyTorch, torch.Tensor.item.
    """
    if not isinstance(crash.error, AttributeError) or crash.error.name != "backward":
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Attribute) and n.attr == "backward"):
        value, name = line.evaluate(node.value), ast.unparse(node.value)
        if not isinstance(value, int | float):
            continue
        item = _find_item(crash, name)
        title = f"call backward() on a tensor: drop .item() from what {name} is made of"
        written = None
        if item is not None and isinstance(item.func, ast.Attribute):
            owner = item.func.value
            title = f"drop .item() at line {item.lineno}: {name} = {ast.unparse(owner)}"
            written = replace_expression(crash.error, item, ast.unparse(owner))
        message = f"{name} is the number {value:.4g}, which has no graph and no backward"
        arithmetic = f"{name} is a {type(value).__name__}"
        yield blame(
            None, message, propose(Advice(title=title, written=written)), arithmetic=arithmetic
        )
        return


def _find_item(crash: Crash, name: str) -> ast.Call | None:
    """The call of .item() whose value a name is."""
    for node in ast.walk(parse_function(crash.error) or ast.Pass()):
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            call = node.value
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".item"):
                return call
    return None
