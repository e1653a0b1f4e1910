import ast

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.values import read_attribute, read_failing_line
from cnnprobe.crash.facts.words import quote

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
      for p in model.parameters():
-         p.grad.zero_()
+         p.grad = None
"""
_SPARE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
          self.spare = nn.Linear(4, 2)
      def forward(self, x):
          return self.fc(x)
  model = Net()
  def run(model):
      model(torch.randn(3, 4)).mean().backward()
      for p in model.parameters():
-         p.grad.clamp_(-1, 1)
+         p.grad is None or p.grad.clamp_(-1, 1)
"""
EXAMPLES = (
    Example(_PROGRAM, repair="if p.grad is not None", is_tried=False),
    Example(_SPARE, repair="call 'spare' in the forward or take it out", is_tried=False),
)


@cause("CP0G6", "missing-gradient", EXAMPLES, stage="loss", family="missing-attribute", prior=860)
def missing_gradient(crash: Crash) -> Suspects:
    """A gradient is used that is None.

    Why it happens: backward() keeps gradients of leaves alone. Before a backward, after
    zero_grad(), and on a parameter that the loss does not reach, the gradient is None.
    What to do: retain_grad() before the backward keeps that of another tensor; else ask whether it
    is None.
    Known exceptions: none.
    Source: PyTorch, torch.Tensor.retain_grad and torch.Tensor.grad.
    """
    if not isinstance(crash.error, AttributeError | TypeError):
        return
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Attribute) and n.attr == "grad"):
        value = line.evaluate(node.value)
        value = read_attribute(node.value, line.names) if value is None else value
        if not isinstance(value, Tensor) or (value.is_leaf and value.grad is not None):
            continue
        name = ast.unparse(node.value)
        reason, title = (
            "no backward has reached it since its gradient was cleared",
            f"ask first: if {name}.grad is not None, and call it after backward()",
        )
        if not value.is_leaf:
            reason = "it is computed, and backward() keeps gradients of leaves alone"
            title = f"call {name}.retain_grad() before the backward"
        elif not value.requires_grad:
            reason, title = "it does not require grad", f"set {name}.requires_grad_(True) before"
        else:
            reason, title = _judge_parameter(crash, value) or (reason, title)
        message = f"{name}.grad is None: {reason}"
        arithmetic = f"{name} is {tuple(value.shape)}, is_leaf={value.is_leaf}"
        yield blame(None, message, title, arithmetic=arithmetic, tensors=(value,))
        return


def _judge_parameter(crash: Crash, value: Tensor) -> tuple[str, str] | None:
    """A parameter of a layer that the latest forward did not call."""
    called = {call.fqn for call in crash.trace.calls}
    for fqn, module in crash.modules.items():
        names = [name for name, p in module._parameters.items() if p is value]
        if not names or fqn in called or not called:
            continue
        what = f"it is {names[0]!r} of {crash.describe_module(fqn)}, which the forward never calls"
        return (
            what,
            f"call {quote(fqn)} in the forward or take it out, or skip what has no gradient",
        )
    return None
