import ast
import difflib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.files import File, TextChange
from cnnprobe.crash.edits.method import ChangeMethod, change_method
from cnnprobe.crash.facts.frames import list_names, read_locals
from cnnprobe.crash.facts.methods import Method, find_failing_method

# What the usual short names stand for.
_IMPORTS = {
    "F": "import torch.nn.functional as F", "nn": "from torch import nn",
    "np": "import numpy as np", "torch": "import torch", "math": "import math",
}  # fmt: skip
_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         x = F.relu(conv(x))
+         x = F.relu(self.conv(x))
          return self.fc(x.mean((2, 3)))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.conv instead of conv")


@cause("CP044", "undefined-name", EXAMPLE, family="missing-attribute", prior=1198)
def undefined_name(crash: Crash) -> Suspects:
    """The forward reads a variable that does not exist.

    Why it happens: self. is forgotten before a layer, a variable is misspelt or used before its
    assignment, or a module is not imported.
    What to do: write self. before what __init__ has set; give a variable one name throughout.
    Known exceptions: none.
    Source: NameError in the Python language reference, section 4.2.2.
    """
    method, name = find_failing_method(crash), getattr(crash.error, "name", None)
    if not isinstance(crash.error, NameError) or method is None:
        return
    names = read_locals(crash.error)
    if not isinstance(name, str):  # UnboundLocalError does not say which
        name = next((n for n in list_names(crash.error) if n not in names), "")
    module = method.module
    places = (module._modules, module._parameters, module._buffers, module.__dict__)
    own = [n for place in places for n in place if not n.startswith("_")]
    near = difflib.get_close_matches(name, own, n=1, cutoff=0.8)
    local = difflib.get_close_matches(name, [n for n in names if n != "self"], n=1, cutoff=0.6)
    new = [f"self.{near[0]}"] if near else local or list(_list_tensors(names))
    edits = [_rename(method, name, other) for other in new]
    is_unbound = isinstance(crash.error, UnboundLocalError)
    where = f"in the {method.name} of {crash.describe_module(method.fqn)}"
    yield blame(
        method.fqn,
        f"{name!r} is read before it is assigned {where}"
        if is_unbound
        else f"there is no variable {name!r} {where}"
        + (f": it is an attribute of the module, {new[0]}" if near else ""),
        *(propose(edit, weight=STRONG) for edit in edits if edit is not None),
        arithmetic=f"{new[0]} is a {type(getattr(module, near[0])).__name__}" if near else "",
        advice=(f"import it: {_IMPORTS[name]}",) if name in _IMPORTS else (),
    )


def _list_tensors(names: dict[str, Any]) -> Iterator[str]:
    """The variables that hold a tensor, the latest first."""
    yield from [name for name, value in names.items() if isinstance(value, Tensor)][:-3:-1]


def _rename(method: Method, name: str, new: str) -> ChangeMethod | None:
    def change(file: File, node: ast.FunctionDef) -> Iterator[TextChange]:
        found = [n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id == name]
        assigned = [n.lineno for n in found if isinstance(n.ctx, ast.Store)]
        for part in (n for n in found if isinstance(n.ctx, ast.Load)):
            if part.lineno <= min(assigned, default=part.lineno):
                yield file.replace(part, new)

    return change_method(method, f"write {new} instead of {name}", change)
