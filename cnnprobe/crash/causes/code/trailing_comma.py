from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.method import change_method, drop_commas
from cnnprobe.crash.facts.arrivals import find_arrival
from cnnprobe.crash.facts.methods import find_method
from cnnprobe.crash.facts.source import find_one_tuples

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 4, 3)
          self.fc = nn.Linear(4 * 36, 2)
      def forward(self, x):
-         x = F.relu(self.conv(x)),
+         x = F.relu(self.conv(x))
          return self.fc(torch.flatten(x, 1))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="", repair="drop the trailing comma in the forward of the model (Net), line 13"
)
_LAYER = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1 = nn.Linear(4, 4)
-         self.fc2 = nn.Linear(4, 2),
+         self.fc2 = nn.Linear(4, 2)
      def forward(self, x):
          return self.fc2(self.fc1(x))
  model, args = Net(), (torch.randn(3, 4),)
"""
LAYER = Example(_LAYER, blames="", repair="drop the comma at the end of 'self.fc2 = ...'")


@cause("CP052", "trailing-comma", (EXAMPLE, LAYER), family="not-a-tensor", prior=899)
def trailing_comma(crash: Crash) -> Suspects:
    """A comma at the end of a line makes a tuple of what stands before it.

    Why it happens: a line was copied from a list of arguments; `x = f(x),` is valid Python.
    What to do: drop the comma. The parameters of a layer in a tuple are not registered either.
    Known exceptions: none.
    Source: section 6.15, "Expression lists", of the Python language reference.
    """
    yield from _blame_layers(crash)
    found = find_arrival(crash)
    if found is None or not isinstance(found.value, tuple) or len(found.value) != 1:
        return
    fqn = crash.owner if found.maker is None else found.maker.fqn or crash.owner
    method = find_method(crash.modules[fqn], fqn)
    comma = next(find_one_tuples(method.function), None) if method is not None else None
    if method is None or comma is None:
        return
    where = crash.describe_module(fqn)
    title = f"drop the trailing comma in the forward of {where}, line {comma.lineno}"
    edit = change_method(method, title, drop_commas)
    message = f"{found.message}: a trailing comma at line {comma.lineno} makes it a tuple"
    yield blame(fqn, message, edit, arithmetic=f"in the forward of {where}")


def _blame_layers(crash: Crash) -> Suspects:
    """A layer that a comma has wrapped: `self.fc = nn.Linear(8, 2),`."""
    owner, call = crash.modules.get(crash.owner), crash.call
    if owner is None or crash.leaf is not None or call is None or call.fqn is None:
        return
    for name, value in owner.__dict__.items():
        if not isinstance(value, tuple) or len(value) != 1 or not isinstance(value[0], nn.Module):
            continue
        edit = SetAttribute(
            title=f"drop the comma at the end of 'self.{name} = ...'",
            code=f"self.{name} = {value[0]}",
            module=crash.owner,
            name=name,
            value=lambda module, name=name: module.__dict__[name][0],  # type: ignore[misc]
        )
        child = f"{crash.owner}.{name}" if crash.owner else name
        message = (
            f"'{child}' is a 1-tuple of a {type(value[0]).__name__}, not the layer: "
            "a trailing comma made it"
        )
        arithmetic = f"self.{name} is a tuple, so that its parameters are not registered either"
        yield blame(crash.owner, message, edit, arithmetic=arithmetic)
