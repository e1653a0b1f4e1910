import ast
import sys
import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import replace_expression
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
EXAMPLES = (
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
    """The code calls what is no function: a file of Python's, a state_dict, a tensor.

    Why it happens: torch.utils.data.dataloader is the file that holds the class DataLoader. A
    saved model.state_dict() is a dict of tensors. A name was given another value.
    What to do: name the class or the function; build the model and load the state_dict into it.
    Known exceptions: none.
    Source: torch.nn.Module.load_state_dict; Python, "Calls".
    """
    if not isinstance(crash.error, TypeError):
        return
    line = read_failing_line(crash)
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
