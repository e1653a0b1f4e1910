from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import Candidate, Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.recorder.inventory import class_of, named_modules

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.layers = [nn.Linear(6, 8), nn.Linear(8, 4)]
+         self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 4)])
      def forward(self, x):
          for layer in self.layers:
              x = layer(x)
          return x
  model = Net()
  def run(model):
      torch.optim.SGD(model.parameters(), lr=0.1)
"""
_SECOND = """
  model = nn.Linear(6, 4)
  def run(model):
-     parameters = model.parameters()
+     parameters = list(model.parameters())
      print(sum(p.numel() for p in parameters))
      torch.optim.Adam(parameters)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="nn.ModuleList"),
    Example(_SECOND, blames="", repair="pass model.parameters() itself"),
)


@cause("CP090", "empty-parameters", EXAMPLES, stage="step", prior=790)
def empty_parameters(crash: Crash) -> Suspects:
    """An optimizer got no parameters.

    Why it happens: layers in a plain list or dict are not registered, so that parameters() is
    empty. A generator that was read once is empty afterwards.
    What to do: use nn.ModuleList or nn.ModuleDict, and pass model.parameters() itself.
    Known exceptions: a model without weights has nothing to train.
    Source: PyTorch, torch.optim.Optimizer and torch.nn.ModuleList.
    """
    found = read_frame(crash.error, "torch/optim/optimizer.py", "__init__")
    if found is None or found.get("param_groups") != []:
        return
    hidden = _find_hidden(crash)
    if hidden is not None:
        yield _suspect_hidden(*hidden)
        return
    parameters = list(crash.model.parameters()) if crash.model is not None else []
    why, candidate = _judge(crash, parameters)
    frozen = sum(not p.requires_grad for p in parameters)
    message = f"the optimizer got no parameters: {why}"
    arithmetic = (
        f"{len(parameters)} parameters, {frozen} of them frozen" if crash.model is not None else ""
    )
    yield blame("" if crash.model is not None else None, message, candidate, arithmetic=arithmetic)


def _judge(crash: Crash, parameters: list[nn.Parameter]) -> tuple[str, Candidate]:
    if crash.model is not None and not parameters:
        advice = Advice(title="make its layers attributes in __init__: self.fc = nn.Linear(...)")
        return f"{class_of(crash.model).__name__} has no layers with weights", propose(advice)
    if parameters and not any(p.requires_grad for p in parameters):
        advice = Advice(title="set requires_grad_(True) on what is to be trained")
        return "all are frozen, and the frozen ones were filtered out", propose(advice)
    title = (
        "pass model.parameters() itself: a generator that was read once (in a sum, say) is empty "
        "afterwards"
    )
    if not parameters:
        return "nothing was in it, so that it was read before", propose(Advice(title=title))
    edit = Check(
        title=title,
        code="model.parameters()",
        check=lambda: f"it gives {len(parameters)} parameters",
    )
    return f"the model has {len(parameters)}, so that the iterator was read before", propose(edit)


def _find_hidden(crash: Crash) -> tuple[str, str, Any] | None:
    """The plain list or dict of layers: fqn, name and value; only of a model without parameters."""
    if crash.model is None or next(crash.model.parameters(), None) is not None:
        return None
    for fqn, module, _ in named_modules(crash.model):
        for name, value in module.__dict__.items():
            is_plain = isinstance(value, list | tuple | dict) and name != "_modules"
            if is_plain and any(isinstance(m, nn.Module) for m in tree_leaves(value)):
                return fqn, name, value
    return None


def _suspect_hidden(fqn: str, name: str, value: Any) -> Suspect:
    kind = "ModuleDict" if isinstance(value, dict) else "ModuleList"
    inner = [m for m in tree_leaves(value) if isinstance(m, nn.Module)]
    count = sum(p.numel() for m in inner for p in m.parameters() if not is_lazy(p))
    title = f"make it an nn.{kind}: self.{name} = nn.{kind}(...)"
    if isinstance(value, tuple) and len(value) == 1:
        title = f"drop the comma at the end of 'self.{name} = ...'"

    def check() -> str:
        registered = sum(p.numel() for p in nn.ModuleList(inner).parameters() if not is_lazy(p))
        return f"{registered:,} elements of parameters are registered then" if registered else ""

    return blame(
        fqn,
        f"the optimizer got no parameters: the {len(inner)} layers in '{name}' are in a "
        f"plain {type(value).__name__}, which does not register them",
        propose(Check(title=title, code=f"nn.{kind}", module=fqn, check=check)),
        arithmetic=f"parameters() gives 0 elements; the layers in '{name}' have {count:,}",
    )
