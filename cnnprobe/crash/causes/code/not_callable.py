import ast
import sys
import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.values import read_attribute, read_failing_line

_MODULE = """
  model = nn.Linear(8, 2)
  def run(model):
      model(torch.randn(4, 8))
      rows = [torch.ones(8)] * 4
-     return torch.utils.data.dataloader(rows)
+     return torch.utils.data.DataLoader(rows)
"""
_STATE = """
  model = nn.Linear(8, 2)
  def run(model):
-     saved = {"weight": torch.ones(2, 8), "bias": torch.zeros(2)}
+     saved = nn.Linear(8, 2)
+     saved.load_state_dict({"weight": torch.ones(2, 8), "bias": torch.zeros(2)})
      model(torch.randn(4, 8))
      return saved(torch.randn(4, 8))
"""
_CLOSURE = """
  model = nn.Linear(8, 2)
  def run(model):
      optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
      loss = model(torch.randn(4, 8)).sum()
      loss.backward()
-     optimizer.step(loss)
+     optimizer.step()
"""
EXAMPLES = (
    Example(_CLOSURE, repair="call optimizer.step() without an argument", is_tried=False),
    Example(_MODULE, repair="write torch.utils.data.DataLoader instead", is_tried=False),
    Example(_STATE, repair="load it into a model", is_tried=False),
)


@cause(
    "CP0K1",
    "not-callable",
    EXAMPLES,
    stage=("forward", "around"),
    family="call-signature",
    prior=1089,
)
def not_callable(crash: Crash) -> Suspects:
    """The code calls something that is not callable: an imported module, a state_dict, a tensor.

    Why it happens: torch.utils.data.dataloader is the file that holds the class DataLoader. A
    saved model.state_dict() is a dict of tensors. A name was given another value.
    What to do: name the class or the function; build the model and load the state_dict into it.
    Known exceptions: none.
    Source: torch.nn.Module.load_state_dict; Python, "Calls".
    """
    if not isinstance(crash.error, TypeError):
        return
    line = read_failing_line(crash)
    if (given := _find_closure(crash)) is not None:
        yield blame(
            None,
            f"optimizer.step() got {given} as its closure, a function that computes the loss",
            propose(Advice(title="call optimizer.step() without an argument")),
            arithmetic="step(closure=None)",
        )
        return
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        value, text = read_attribute(call.func, line.names), ast.unparse(call.func)
        if value is None or callable(value) or (found := _judge(value, text)) is None:
            continue
        what, near, title = found
        written = replace_expression(crash.error, call.func, near) if near else None
        title = f"write {near} instead of {text}" if near else title
        yield blame(
            crash.owner if crash.stage == "forward" else None,
            f"{text} is {what}, which cannot be called",
            propose(Advice(title=title, code=near, written=written)) if title else None,
            arithmetic=ast.unparse(call),
            weight=STRONG,
        )
        return


def _find_closure(crash: Crash) -> str | None:
    """What the step of an optimizer was given that is no function, in words."""
    for frame in list_frames(crash.error):
        value = frame.f_locals.get("closure")
        is_step = frame.f_code.co_name == "step" and "/torch/optim/" in get_path(frame)
        if is_step and value is not None and not callable(value):
            is_tensor = isinstance(value, Tensor)
            return f"a tensor {tuple(value.shape)}" if is_tensor else f"a {type(value).__name__}"
    return None


def _judge(value: Any, text: str) -> tuple[str, str, str] | None:
    """What a value is, what may be written in its place, and what else to do."""
    if isinstance(value, types.ModuleType):
        return f"the Python module {value.__name__}", _find_namesake(value, text), ""
    if isinstance(value, Mapping) and any(isinstance(v, Tensor) for v in value.values()):
        title = f"load it into a model: model = ...; model.load_state_dict({text})"
        return f"a state_dict of {len(value)} tensors", "", title
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}", "", ""
    return None


def _find_namesake(module: types.ModuleType, text: str) -> str:
    """The class or function of a module's name, in it or in the package that holds it."""
    package, _, name = module.__name__.rpartition(".")
    above, _, _ = text.rpartition(".")
    holders = ((sys.modules.get(package), above), (module, text))
    for holder, written in holders if above else holders[1:]:
        for other, value in vars(holder).items() if holder is not None else ():
            if other.casefold() == name.casefold() and callable(value):
                return f"{written}.{other}"
    return ""
