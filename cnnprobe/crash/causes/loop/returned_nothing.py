import ast

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import find_assigned_value
from cnnprobe.crash.facts.values import read_failing_line

# Methods that work on their owner and give nothing, or a list of keys.
_IN_PLACE = ("backward", "step", "zero_grad", "load_state_dict", "append", "extend", "update")
_LOSS = """
  model = nn.Linear(8, 2)
  def run(model):
-     loss = model(torch.randn(4, 8)).sum().backward()
+     loss = model(torch.randn(4, 8)).sum()
+     loss.backward()
      return loss.item()
"""
_MODEL = """
  model = nn.Linear(8, 2)
  def run(model):
-     model = model.load_state_dict(model.state_dict())
+     model.load_state_dict(model.state_dict())
      return model(torch.randn(4, 8))
"""
EXAMPLES = (
    Example(_LOSS, repair="call backward() on a line of its own", is_tried=False),
    Example(_MODEL, repair="call load_state_dict() on a line of its own", is_tried=False),
)


@cause("CP0K8", "returned-nothing", EXAMPLES, stage="around", family="not-a-tensor", prior=860)
def returned_nothing(crash: Crash) -> Suspects:
    """What a method gave back is used, but it works in place and gives nothing back.

    Why it happens: loss = criterion(output, target).backward() makes loss None;
    model = model.load_state_dict(state) makes model a report of missing keys.
    What to do: call the method on a line of its own.
    Known exceptions: model.to(device), model.eval() and model.train() give the model back.
    Source: torch.Tensor.backward; torch.nn.Module.load_state_dict.
    """
    if not isinstance(crash.error, TypeError | AttributeError):
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Name)):
        made = find_assigned_value(crash.error, node.id)
        method = made.func if isinstance(made, ast.Call) else None
        if not isinstance(method, ast.Attribute) or method.attr not in _IN_PLACE:
            continue
        value = line.names.get(node.id)
        is_report = method.attr == "load_state_dict" and hasattr(value, "missing_keys")
        if value is not None and not is_report:
            continue
        owner = ast.unparse(method.value)
        what = "a list of missing keys" if is_report else "None"
        kept = owner if isinstance(method.value, ast.Name) else node.id
        yield blame(
            None,
            f"{node.id} is {what}, which {method.attr}() returned at line {method.lineno}",
            propose(Advice(title=f"call {method.attr}() on a line of its own, and use {kept}")),
            arithmetic=f"{node.id} = {ast.unparse(made)}" if made is not None else "",
        )
        return
