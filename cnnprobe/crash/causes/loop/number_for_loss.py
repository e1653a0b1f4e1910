import ast
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import parse_function
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.facts.words import count_of

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
-     loss = model(torch.randn(4, 8)).mean().item()
+     loss = model(torch.randn(4, 8)).mean()
      loss.backward()
"""
_PARTS = """
  model = nn.Linear(8, 2)
  def run(model):
      output = model(torch.randn(4, 8))
      losses = {"low": output.mean(), "high": output.square().mean()}
-     losses.backward()
+     sum(losses.values()).backward()
"""
EXAMPLES = (
    Example(_PROGRAM, repair="drop .item()", is_tried=False),
    Example(_PARTS, repair="call sum(losses.values()).backward()"),
)


@cause("CP0G5", "number-for-loss", EXAMPLES, stage="loss", family="detached-graph", prior=865)
def number_for_loss(crash: Crash) -> Suspects:
    """backward() was called on a Python number, or on a dict or list, instead of a tensor.

    Why it happens: .item() gives a number, which has no graph and no backward; several losses are
    kept in a dict or list, as detectors of torchvision return them.
    What to do: call backward() on the tensor, and take .item() of it for printing alone; of several
    losses, call it on their sum.
    Known exceptions: none.
    Source: PyTorch, torch.Tensor.item.
    """
    if not isinstance(crash.error, AttributeError) or crash.error.name != "backward":
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Attribute) and n.attr == "backward"):
        value, name = line.evaluate(node.value), ast.unparse(node.value)
        if isinstance(value, dict | list | tuple) and value:
            yield _suspect_parts(crash, node, value)
            return
        if not isinstance(value, int | float):
            continue
        item = _find_item(crash, name)
        title = f"call backward() on a tensor: drop .item() from what {name} is made of"
        written = None
        if item is not None and isinstance(item.func, ast.Attribute):
            owner = item.func.value
            title = f"drop .item() at line {item.lineno}: {name} = {ast.unparse(owner)}"
            written = replace_expression(crash.error, item, ast.unparse(owner))
        elif value == 0 and _is_summed(crash, name):
            title = "look at what the loop runs over: it is empty, so that nothing was added"
        message = f"{name} is the number {value:.4g}, which has no graph and no backward"
        arithmetic = f"{name} is a {type(value).__name__}"
        yield blame(
            None, message, propose(Advice(title=title, written=written)), arithmetic=arithmetic
        )
        return


def _is_summed(crash: Crash, name: str) -> bool:
    """Whether a loop adds to a name, which is still what it began with."""
    tree = parse_function(crash.error) or ast.Pass()
    sums = (n for loop in ast.walk(tree) if isinstance(loop, ast.For) for n in ast.walk(loop))
    return any(isinstance(n, ast.AugAssign) and ast.unparse(n.target) == name for n in sums)


def _find_item(crash: Crash, name: str) -> ast.Call | None:
    """The call of .item() whose value a name is."""
    for node in ast.walk(parse_function(crash.error) or ast.Pass()):
        if isinstance(node, ast.Assign) and [ast.unparse(t) for t in node.targets] == [name]:
            call = node.value
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".item"):
                return call
    return None


def _suspect_parts(crash: Crash, node: ast.Attribute, value: Any) -> Suspect:
    """Several losses in a dict or a list: their sum has a backward."""
    name = ast.unparse(node.value)
    text = f"sum({name}.values())" if isinstance(value, dict) else f"sum({name})"
    parts = list(value.values()) if isinstance(value, dict) else list(value)
    kind = type(value).__name__
    is_loss = [isinstance(p, Tensor) and p.numel() == 1 and p.requires_grad for p in parts]
    edit = Check(
        title=f"call {text}.backward()",
        code=f"{text}.backward()",
        check=lambda: f"the sum is {float(sum(parts)):.4g}" if all(is_loss) else "",
        written=replace_expression(crash.error, node.value, text),
    )
    return blame(
        None,
        f"{name} is a {kind} of {count_of(len(parts), 'part')}, which has no backward",
        propose(edit),
        arithmetic=f"{sum(is_loss)} of them are losses with a graph",
    )
