import ast

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_EXPORT = """
  model = nn.Linear(4, 2)
  def run(model):
      x = torch.randn(3, 4)
-     return torch.export.export(model, x)
+     return torch.export.export(model, (x,))
"""
EXAMPLE = Example(_EXPORT, repair="pass the arguments in a tuple: (x,)", is_tried=False)


@cause("CP0M6", "export-arguments", EXAMPLE, stage="around", family="call-signature", prior=1007)
def export_arguments(crash: Crash) -> Suspects:
    """torch.export or torch.jit.trace got no example of the model's arguments, or not as a tuple.

    Why it happens: torch.export.export takes a tuple of all arguments, also where there is one;
    torch.jit.trace runs the model on an example.
    What to do: torch.export.export(model, (x,)); torch.jit.trace(model, x).
    Known exceptions: none.
    Source: torch.export.export, "args"; torch.jit.trace, "example_inputs".
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        name, given = ast.unparse(call.func), call.args[1:]
        is_named = any(k.arg and "example" in k.arg for k in call.keywords)
        if name.endswith("jit.trace") and not given and not is_named and call.args:
            title = f"pass an example of its input: {name}({ast.unparse(call.args[0])}, x)"
            yield blame(None, f"{name} got no example of the model's input", title)
            return
        if name.endswith("export.export") and given and _is_tensor(line, given[0]):
            code = f"({ast.unparse(given[0])},)"
            written = replace_expression(crash.error, given[0], code)
            title = f"pass the arguments in a tuple: {code}"
            message = f"{name} expects a tuple of arguments, but got a tensor"
            yield blame(None, message, propose(Advice(title=title, code=code, written=written)))
            return


def _is_tensor(line: FailingLine, node: ast.expr) -> bool:
    """Whether an argument is a tensor: a known one, or one that a function of torch's makes."""
    is_made = isinstance(node, ast.Call) and ast.unparse(node.func).startswith("torch.")
    return is_made or isinstance(line.evaluate(node), Tensor)
