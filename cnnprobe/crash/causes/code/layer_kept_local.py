import ast

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.facts.frames import find_missing
from cnnprobe.crash.facts.methods import Method, find_failing_method, find_method, open_method

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1 = nn.Linear(4, 4)
-         fc2 = nn.Linear(4, 2)
+         self.fc2 = nn.Linear(4, 2)
      def forward(self, x):
          return self.fc2(F.relu(self.fc1(x)))
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.fc2 = nn.Linear(4, 2) in __init__")


@cause("CP0D2", "layer-kept-local", EXAMPLE, family="missing-attribute", prior=1091)
def layer_kept_local(crash: Crash) -> Suspects:
    """A layer is kept in a local variable of __init__, so that the module does not have it.

    Why it happens: self. is forgotten before the name in __init__.
    What to do: write self. before it.
    Known exceptions: none.
    Source: torch.nn.Module.__setattr__ registers what is assigned to self.
    """
    subject, name = find_missing(crash.error)
    if (method := find_failing_method(crash)) is None or subject is not method.module:
        return
    if (found := _find_local(method, name)) is None:
        return
    edit = _register(found, name)
    message = (
        f"{crash.describe_module(method.fqn)} has no attribute {name!r}: "
        f"__init__ keeps it in a local variable {name}"
    )
    arithmetic = f"line {found[2].lineno} lacks self."
    yield blame(
        method.fqn, message, edit, arithmetic=arithmetic, weight=STRONG + 1, advice=(edit.title,)
    )


def _find_local(method: Method, name: str) -> tuple[Method, File, ast.Assign] | None:
    """The assignment `name = ...` in __init__ that lacks its self."""
    init = find_method(method.module, method.fqn, "__init__")
    try:
        file, node = open_method(init.function.__code__)  # type: ignore[union-attr]
    except (AttributeError, UnknownPlaceError):
        return None
    for one in ast.walk(node):
        targets = one.targets if isinstance(one, ast.Assign) else []
        if init is not None and [ast.unparse(target) for target in targets] == [name]:
            return init, file, one  # type: ignore[return-value]
    return None


def _register(found: tuple[Method, File, ast.Assign], name: str) -> Edit:
    init, file, node = found
    text, start = ast.unparse(node.value), file.span(node)[0]
    return SetAttribute(
        title=f"write self.{name} = {text} in __init__",
        code=f"self.{name} = {text}",
        module=init.fqn,
        name=name,
        value=lambda _module: eval(text, dict(init.function.__globals__)),  # noqa: S307 - theirs
        written=lambda: [TextChange(file.path, start, start, "self.")],
    )
