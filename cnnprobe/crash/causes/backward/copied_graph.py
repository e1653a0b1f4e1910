import ast
import copy
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.saved import find_keepers, write_detached
from cnnprobe.crash.facts.words import quote
from cnnprobe.recorder.inventory import class_of

_PROGRAM = """
  import copy
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body, self.fc = nn.Linear(4, 8), nn.Linear(8, 2)
          self.features = None
      def forward(self, x):
          x = self.body(x)
-         self.features = x
+         self.features = x.detach()
          return self.fc(x)
  model = Net()
  def run(model):
      model(torch.randn(3, 4)).sum().backward()
      best = copy.deepcopy(model)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="keep 'features' without its graph")


@cause("CP0F3", "graph-in-deepcopy", EXAMPLE, stage="around", prior=880)
def copied_graph(crash: Crash) -> Suspects:
    """What was copied with copy.deepcopy holds a tensor with a graph.

    Why it happens: a module keeps an activation or a loss as an attribute. copy.deepcopy copies
    only leaves, not what an operation made.
    What to do: keep it detached, or copy the state_dict, which holds parameters and buffers only.
    Known exceptions: parameters and detached tensors are copied.
    Source: PyTorch, torch.Tensor.__deepcopy__.
    """
    outer = read_frame(crash.error, "copy.py", "deepcopy")
    inner = read_frame(crash.error, "torch/_tensor.py", "__deepcopy__")
    tensor, copied = (inner or {}).get("self"), (outer or {}).get("x")
    if not isinstance(tensor, Tensor) or tensor.grad_fn is None:
        return
    shape = tuple(tensor.shape)
    if not isinstance(copied, nn.Module):
        message = (
            f"copy.deepcopy got a {type(copied).__name__} that holds a tensor of {shape} "
            "with a graph"
        )
        arithmetic = f"it was made by {tensor.grad_fn.name()}"
        yield blame(None, message, "copy it detached: x.detach().clone()", arithmetic=arithmetic)
        return
    holder = Crash(error=crash.error, model=copied)
    kept = list(find_keepers(holder))
    for fqn, name, value in kept:
        if any(part is tensor for part in tree_leaves(value)):
            title = "or keep a copy of the weights alone: copy.deepcopy(model.state_dict())"
            other = propose(Advice(title=title, code="copy.deepcopy(model.state_dict())"))
            yield blame(
                fqn,
                f"copy.deepcopy cannot copy the attribute {name!r} of {quote(fqn)}: it "
                f"holds a tensor of {shape} with a graph",
                propose(_detach(holder, fqn, name, value)),
                other,
                arithmetic=f"it was made by {tensor.grad_fn.name()}; only leaves are copied",
            )
            return


def _detach(holder: Crash, fqn: str, name: str, value: Any) -> Check:
    """The attribute detached where it is kept; the parameters of the trial's copy are shared."""
    model = holder.model

    def check() -> str:
        memo: dict[int, Any] = {id(t): t for m in holder.modules.values() for t in _list_own(m)}
        kept = [part for _, _, one in find_keepers(holder) for part in tree_leaves(one)]
        memo |= {id(t): t.detach() for t in kept if isinstance(t, Tensor)}
        copy.deepcopy(model, memo)
        return "the model is copied with it detached"

    code = f"self.{name} = {write_detached('x', value)}"
    return Check(
        title=f"keep {name!r} without its graph: {code}",
        code=code,
        module=fqn,
        check=check,
        written=_write_detached(holder.modules[fqn], name) if isinstance(value, Tensor) else None,
    )


def _list_own(module: nn.Module) -> list[Tensor]:
    found = [*module._parameters.values(), *module._buffers.values()]
    return [t for t in found if t is not None]


def _write_detached(module: nn.Module, name: str) -> Callable[[], list[TextChange]]:
    """`self.name = x.detach()`, where nothing else reads the attribute."""
    kind = class_of(module)

    def written() -> list[TextChange]:
        file = open_file(inspect.getfile(kind))
        classes = [
            n
            for n in ast.walk(file.tree)
            if isinstance(n, ast.ClassDef) and n.name == kind.__name__
        ]
        parts = [part for node in classes for part in ast.walk(node)]
        reads = [n for n in parts if isinstance(n, ast.Attribute) and n.attr == name]
        values = [
            part.value
            for part in parts
            if isinstance(part, ast.Assign)
            and ast.unparse(part.targets[0]) == f"self.{name}"
            and not isinstance(part.value, ast.Constant)
        ]
        is_read = any(isinstance(node.ctx, ast.Load) for node in reads)
        if len(values) != 1 or is_read:  # what is computed from it would lose its gradient
            raise UnknownPlaceError
        text = file.source(values[0])
        is_plain = isinstance(values[0], ast.Name | ast.Attribute | ast.Call | ast.Subscript)
        return [file.replace(values[0], f"{text if is_plain else f'({text})'}.detach()")]

    return written
