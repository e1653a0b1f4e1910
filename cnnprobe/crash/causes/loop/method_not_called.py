import ast

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.members import is_uncalled
from cnnprobe.crash.facts.values import read_attribute, read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
      model(torch.randn(4, 8)).mean().backward()
-     torch.nn.utils.clip_grad_norm_(model.parameters, 1.0)
+     torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
EXAMPLE = Example(_PROGRAM, repair="write model.parameters()", is_tried=False)


@cause("CP0J1", "method-not-called", EXAMPLE, stage="around", family="call-signature", prior=830)
def method_not_called(crash: Crash) -> Suspects:
    """A method is passed where what it gives is meant: its parentheses are missing.

    Why it happens: model.parameters is the method, model.parameters() the parameters.
    What to do: write the parentheses.
    Known exceptions: a function that calls what it is given takes the method itself.
    Source: torch.nn.Module.parameters.
    """
    if not isinstance(crash.error, TypeError | AttributeError):
        return
    line = read_failing_line(crash)
    calls = [node for node in line.nodes if isinstance(node, ast.Call)]
    given = [part for c in calls for part in (*c.args, *(k.value for k in c.keywords))]
    for node in (part for part in given if isinstance(part, ast.Attribute)):
        if not is_uncalled(read_attribute(node.value, line.names), node.attr):
            continue
        name = ast.unparse(node)
        written = replace_expression(crash.error, node, f"{name}()")
        title = f"write {name}(), with parentheses"
        yield blame(
            None,
            f"{name} is a method, which is passed without being called",
            propose(Advice(title=title, code=f"{name}()", written=written)),
            arithmetic=ast.unparse(calls[0]),
        )
        return
