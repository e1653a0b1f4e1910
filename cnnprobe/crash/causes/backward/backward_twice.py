from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.saved import (
    find_carried,
    find_keepers,
    find_saved,
    get_number,
    name_parameters,
    walk_nodes,
)
from cnnprobe.crash.facts.words import quote

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.g = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.ReLU(), nn.Conv2d(4, 1, 1))
          self.d = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(32, 1))
      def forward(self, z):
          return self.d(self.g(z))
  model = Net()
  def run(model):
      bce, fake = nn.BCEWithLogitsLoss(), model.g(torch.randn(4, 8, 1, 1))
-     bce(model.d(fake), torch.zeros(4, 1)).backward()
+     bce(model.d(fake.detach()), torch.zeros(4, 1)).backward()
      bce(model.d(fake), torch.ones(4, 1)).backward()
"""
_SECOND = """
  model = nn.Linear(6, 4)
  def run(model):
      output = model(torch.randn(5, 6))
-     output.pow(2).mean().backward()
+     output.pow(2).mean().backward(retain_graph=True)
      output.exp().mean().backward()
"""
EXAMPLES = (
    Example(
        _FIRST,
        blames="g",
        repair="detach() what 'g' gives for the earlier backward",
        is_tried=False,
    ),
    Example(_SECOND, repair="run the forward again before each backward()", is_tried=False),
)


@cause("CP084", "backward-twice", EXAMPLES, stage="backward", prior=830)
def backward_twice(crash: Crash) -> Suspects:
    """A backward went through a graph that an earlier backward has freed.

    Why it happens: backward() frees what it has used. A second one over the same forward, or over
    a part of it that is carried into the next step, finds nothing.
    What to do: detach what is carried over, run the forward again, or add the losses and call
    backward() once. retain_graph=True keeps the graph; memory grows with it.
    Known exceptions: operations that save nothing (sum, add) can be passed twice.
    Source: PyTorch, torch.Tensor.backward, retain_graph.
    """
    saved = find_saved(crash)
    freed = saved.freed
    if saved.modified or not freed or saved.broke_off:
        return
    if any(find_keepers(crash)) or any(find_carried(crash)):
        return
    calls = crash.trace.calls
    start = calls[0].sequence if calls else None
    numbers = [(one.node, get_number(one.node)) for one in freed] if start is not None else []
    old = [node for node, n in numbers if n is not None and start is not None and n < start[0]]
    part = _find_part(crash, old)
    why, title = (
        "its graph was freed by an earlier backward over the same forward",
        "run the forward again before each backward()",
    )
    if old:
        whose = f"what {quote(part)} gave" if part else "a part of its graph"
        why = f"{whose} belongs to an earlier forward and was freed by an earlier backward"
        title = (
            f"detach() what {quote(part)} gives for the earlier backward"
            if part
            else "detach() what is carried over from the earlier step"
        )
    retain = Advice(
        title="add the losses and call backward() once, or pass retain_graph=True to the first "
        "call",
        code="retain_graph=True",
    )
    message = f"backward() ran a second time: {why}"
    arithmetic = (
        f"{len(freed)} saved tensor{'s are' if len(freed) > 1 else ' is'} gone, "
        f"first that of {freed[0].node.name()}"
    )
    yield blame(part or None, message, title, propose(retain), arithmetic=arithmetic)


def _find_part(crash: Crash, nodes: list[Any]) -> str:
    """The one part below the model that made some nodes, by the parameters they lead to; or ""."""
    names = name_parameters(crash)
    found = {
        names[id(variable)]
        for node in walk_nodes(*nodes)
        if id(variable := getattr(node, "variable", None)) in names
    }
    paths = [fqn.split(".")[:-1] for fqn in found]
    return ".".join([parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1])
