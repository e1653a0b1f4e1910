import ast

import torch
from torch import Tensor

from cnnprobe.crash.cause import LAST, Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.values import read_attribute, read_failing_line
from cnnprobe.crash.suspect import STRONG, Candidate

_FIRST = """
  model = nn.Linear(8, 3)
  def run(model):
      output = model(torch.randn(4, 8))
-     return output.softmax(1).numpy()
+     return output.softmax(1).detach().numpy()
"""
_SECOND = """
  model = nn.Linear(8, 3)
  def run(model):
-     return model(torch.randn(4, 8)).numpy()
+     return model(torch.randn(4, 8)).detach().numpy()
"""
_FORWARD = """
  import numpy as np
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 3)
      def forward(self, x):
-         return np.exp(self.fc(x))
+         return torch.exp(self.fc(x))
  model, args = Net(), (torch.randn(4, 8),)
"""
_OTHERWISE = {"concatenate": "cat", "power": "pow"}  # names of numpy's that torch has otherwise
EXAMPLES = (
    Example(_FORWARD, blames="", repair="write torch.exp instead of np.exp", on_meta=False),
    Example(_FIRST, repair="output.softmax(1).detach().numpy()"),
    Example(_SECOND, repair="model(torch.randn(4, 8)).detach().numpy()"),
)


@cause("CP095", "graph-to-numpy", EXAMPLES, stage=("forward", "around"), prior=820)
def graph_to_numpy(crash: Crash) -> Suspects:
    """A tensor that requires a gradient was given to numpy.

    Why it happens: numpy records no graph, so that what it computes could not be differentiated.
    What to do: detach the tensor: x.detach().cpu().numpy(). Run an evaluation under
    torch.no_grad(). A loss has to be computed with torch's own functions.
    Known exceptions: a tensor without a graph is given to numpy as it is.
    Source: PyTorch, torch.Tensor.numpy.
    """
    if not isinstance(crash.error, RuntimeError):
        return
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "numpy":
            continue
        value = line.evaluate(call.func.value)
        if isinstance(value, Tensor) and value.requires_grad:
            yield _suspect(crash, ast.unparse(call.func.value), value, call)
            return
    found = (read_frame(crash.error, "torch/_tensor.py", "__array__") or {}).get("self")
    if isinstance(found, Tensor) and found.requires_grad:
        yield _suspect(crash, "x", found)


def _suspect(crash: Crash, name: str, value: Tensor, call: ast.Call | None = None) -> Suspect:
    shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    code = f"{name}.detach().numpy()"
    if value.device.type not in ("cpu", "meta"):
        code = f"{name}.detach().cpu().numpy()"

    def check() -> str:
        array_of = (
            value.detach().new_empty(shape, device="cpu") if value.is_meta else value.detach().cpu()
        )
        return f"it gives an array of {array_of.numpy().shape}"

    detach = Check(
        title=f"write {code}",
        code=".detach()",
        check=check,
        written=None if call is None else replace_expression(crash.error, call, code),
    )
    title = "put 'with torch.no_grad():' around the forward, if this is not training"
    is_forward = crash.stage == "forward"
    return blame(
        crash.owner if is_forward else None,
        f"{name} requires a gradient, but numpy records no graph: what it computes could "
        "not be differentiated",
        *(_change_forward(crash, code, call) if is_forward else [propose(detach)]),
        propose(Advice(title=title, code="torch.no_grad()"), weight=LAST),
        arithmetic=f"{shape} {dtype}, requires_grad=True",
        tensors=(value,),
        raised_in="torch.Tensor.numpy",
    )


def _change_forward(crash: Crash, code: str, call: ast.Call | None) -> list[Candidate]:
    """Call the function of torch that has the same name, or detach the tensor."""
    method, line = find_failing_method(crash), read_failing_line(crash)
    if method is None:
        return []
    if call is not None:
        edit = replace_node(method, call, code)
        return [propose(edit, weight=LAST)] if edit is not None else []
    for node in (n.func for n in line.nodes if isinstance(n, ast.Call)):
        owner = read_attribute(node.value, line.names) if isinstance(node, ast.Attribute) else None
        if getattr(owner, "__name__", "") != "numpy" or not isinstance(node, ast.Attribute):
            continue
        name = _OTHERWISE.get(node.attr, node.attr)
        edit = replace_node(method, node, f"torch.{name}") if hasattr(torch, name) else None
        return [propose(edit, weight=STRONG)] if edit is not None else []
    return []
