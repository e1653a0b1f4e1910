import ast

from torch import Tensor
from torch.optim import Optimizer

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.frames import find_frames, parse_function, read_names
from cnnprobe.crash.facts.saved import describe_keeper, find_changed_parameter, find_saved
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.facts.words import shorten

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
          self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 2)
      def forward(self, x):
          features = self.body(x)
          return self.a(features), self.b(features)
  model = Net()
  def run(model):
      optimizer, y = torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(4).long()
      a, b = model(torch.randn(4, 8))
      F.cross_entropy(a, y).backward(retain_graph=True)
+     F.cross_entropy(b, y).backward()
      optimizer.step()
-     F.cross_entropy(b, y).backward()
"""
EXAMPLE = Example(
    _PROGRAM,
    blames="body.2",
    repair="call optimizer.step() after the last backward()",
    is_tried=False,
)


@cause(
    "CP083",
    "parameter-changed-before-backward",
    EXAMPLE,
    stage="backward",
    family="inplace-autograd",
    prior=850,
)
def parameter_changed(crash: Crash) -> Suspects:
    """A parameter was changed in place between the forward and the backward that needs it.

    Why it happens: the backward needs the weights that the forward has used. A step of an
    optimizer, or an initialisation, in between changes them. It is usual with two losses over one
    forward, and with a generator and a discriminator.
    What to do: call every backward before the first step, or run the forward again after it.
    Known exceptions: a weight whose input needs no gradient is not saved, and may be changed.
    Source: PyTorch, "Autograd mechanics", in-place correctness checks.
    """
    for saved in find_saved(crash).modified[:1]:
        parameter = find_changed_parameter(crash, saved)
        if parameter is not None:
            owner = crash.owner_of_parameter(parameter)
            is_own = owner in crash.modules
            step = _find_step(crash, parameter)
            shown, place = step if step is not None else ("optimizer.step()", "")
            title = f"call {shown} after the last backward(), or run the forward again after it"
            yield blame(
                owner if is_own else None,
                f"the parameter '{parameter}' was changed in place between the forward "
                f"and the backward that needs it{f', by {shown} at {place}' if place else ''}",
                title,
                arithmetic=f"{describe_keeper(crash, saved.node)} saved it for its backward "
                f"({saved.node.name()})",
            )


def _find_step(crash: Crash, parameter: str) -> tuple[str, str] | None:
    """The step that changed a parameter, as it is written, and its line.

    It is the last before the failing line of an optimizer that holds the parameter.
    """
    owner, _, name = parameter.rpartition(".")
    module = crash.modules.get(owner)
    value = module._parameters.get(name) if module is not None else None
    tree, names = parse_function(crash.error), read_names(crash.error)
    frames = find_frames(crash.error)
    last = frames[-1].lineno or 0 if frames else 0
    found = [
        (call.lineno, ast.unparse(call))
        for call in (ast.walk(tree) if tree is not None else ())
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "step"
        and _holds(read_attribute(call.func.value, names), value)
        and call.lineno < last
    ]
    if not found:
        return None
    line, text = max(found)
    return text, shorten(f"{frames[-1].filename}:{line}")


def _holds(optimizer: object, parameter: Tensor | None) -> bool:
    groups = optimizer.param_groups if isinstance(optimizer, Optimizer) else []
    return any(one is parameter for group in groups for one in group["params"])
