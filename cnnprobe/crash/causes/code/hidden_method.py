import ast
import copy
import traceback
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.facts.frames import find_expression, list_frames
from cnnprobe.crash.facts.methods import find_class, find_method, open_method
from cnnprobe.crash.facts.values import read_attribute

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self, train=True):
          super().__init__()
-         self.train = train
+         self.is_train = train
          self.fc = nn.Linear(4, 3)
      def forward(self, x):
          return self.fc(x)
  model = Net()
  def run(model):
      model.train()
      return model(torch.randn(2, 4)).sum()
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.is_train instead of self.train in Net")


@cause("CP0E1", "hidden-method", EXAMPLE, stage=("forward", "around"), prior=1196)
def hidden_method(crash: Crash) -> Suspects:
    """An attribute of an object has the name of a method of its class, and hides it.

    Why it happens: Python looks up an attribute of the object before one of its class. An option
    that is kept as self.train makes model.train() call that option.
    What to do: give the attribute another name. self.training tells the mode of a module.
    Known exceptions: an attribute that can be called may be meant to replace the method.
    Source: "Instance attributes" in the Python language reference, section 3.2.
    """
    owner, name = _find_hidden(crash.error) if isinstance(crash.error, TypeError) else (None, "")
    if not name:
        return
    value, kind = vars(owner)[name], type(owner).__name__
    fqn = next((key for key, module in crash.modules.items() if module is owner), None)
    who = crash.describe_module(fqn) if fqn is not None else f"the {kind}"
    yield blame(
        fqn,
        f"{who} has an attribute {name!r}, which hides the method {name} of its class",
        _rename(owner, name),
        arithmetic=f"{name} is {value!r:.40}, a {type(value).__name__}, which cannot be called",
        evidence=("self.training tells whether a module is in train mode",)
        if name in ("train", "eval") and isinstance(owner, nn.Module)
        else (),
    )


def _find_hidden(error: BaseException) -> tuple[Any, str]:
    """Whose method of which name was called, but is hidden; torch may have called it too."""
    frame = list_frames(error)[-1]
    node = find_expression(traceback.extract_tb(error.__traceback__)[-1])
    function = node.func if isinstance(node, ast.Call) else None
    if not isinstance(function, ast.Attribute):
        return None, ""
    owner = read_attribute(function.value, {**frame.f_globals, **frame.f_locals})
    name = function.attr
    is_hidden = name in getattr(owner, "__dict__", {}) and not callable(vars(owner)[name])
    return (owner, name) if is_hidden and callable(getattr(type(owner), name, None)) else (None, "")


def _rename(owner: Any, old: str) -> Check:
    new, kind = f"is_{old}" if isinstance(vars(owner)[old], bool) else f"{old}_", type(owner)

    def check() -> str:
        twin = copy.copy(owner)
        del twin.__dict__[old]
        return (
            f"{old} is then the method of {kind.__name__}" if callable(getattr(twin, old)) else ""
        )

    def write() -> list[TextChange]:
        method = find_method(owner, "", "__init__")
        file, node = open_method(method.function.__code__)  # type: ignore[union-attr]
        found = [
            one
            for one in ast.walk(find_class(file.tree, node) or node)
            if isinstance(one, ast.Attribute) and ast.unparse(one) == f"self.{old}"
        ]
        return [file.replace(one, f"self.{new}") for one in found]

    title = f"write self.{new} instead of self.{old} in {kind.__name__}"
    return Check(title=title, code=f"self.{new}", check=check, written=write)
