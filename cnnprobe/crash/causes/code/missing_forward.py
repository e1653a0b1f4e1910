import ast
import difflib
import inspect
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.edits.method import change_method, replace_node
from cnnprobe.crash.facts.frames import list_calls, read_names
from cnnprobe.crash.facts.methods import (
    find_failing_method,
    find_method,
    lacks_forward,
    open_method,
)
from cnnprobe.crash.facts.values import read_attribute
from cnnprobe.crash.facts.words import quote
from cnnprobe.recorder.inventory import class_of

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
-     def foward(self, x):
+     def forward(self, x):
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="rename the method foward to forward")
_INDENTED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
-         def forward(self, x):
+     def forward(self, x):
-             return self.fc(x)
+         return self.fc(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
INDENTED = Example(_INDENTED, blames="", repair="indent the forward at line 10 as __init__ is")
_LIST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)])
+         self.layers = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
      def forward(self, x):
          return self.layers(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
LIST = Example(_LIST, blames="layers", repair="make 'layers' an nn.Sequential")


@cause("CP042", "missing-forward", (EXAMPLE, INDENTED, LIST), prior=1100)
def missing_forward(crash: Crash) -> Suspects:
    """A module is called, but its class has no method named forward; or a list of modules is.

    Why it happens: the name is misspelt, or the method stands inside __init__ by its indentation.
    An nn.ModuleList only holds modules; a Python list does not even register them.
    What to do: define forward(self, x) at the level of __init__. Call the modules of a list one by
    one, or make the list an nn.Sequential.
    Known exceptions: none.
    Source: torch.nn.Module.forward in the documentation of PyTorch.
    """
    module, call = crash.module, crash.call
    yield from _blame_plain_list(crash)
    if module is None or call is None or not lacks_forward(module):
        return
    fqn = call.fqn or ""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        yield _blame_list(crash, fqn, module)
        return
    edit, has = _misspelt(fqn, module) or _indented(fqn, module) or (None, "")
    methods = ", ".join(_list_methods(module))
    has = has or (f"; it has {methods}" if methods else "")
    kind = class_of(module).__name__
    message = f"the class {kind} has no method named forward{has}"
    advice = (f"define forward(self, x) in {kind}, indented as __init__ is",)
    yield blame(fqn, message, edit, advice=advice)


def _list_methods(module: nn.Module) -> list[str]:
    own = [kind for kind in class_of(module).__mro__ if not kind.__module__.startswith("torch.")]
    found = [name for kind in own for name, v in vars(kind).items() if inspect.isfunction(v)]
    return [name for name in found if not name.startswith("__")]


def _misspelt(fqn: str, module: nn.Module) -> tuple[Edit | None, str] | None:
    near = difflib.get_close_matches("forward", _list_methods(module), n=1, cutoff=0.6)
    if (method := find_method(module, fqn, near[0]) if near else None) is None:
        return None

    def rename(file: File, node: ast.FunctionDef) -> list[TextChange]:
        at = file.text.index(f"def {node.name}", *file.span(node))
        return [TextChange(file.path, at, at + len(f"def {node.name}"), "def forward")]

    title = f"rename the method {near[0]} to forward"
    return change_method(method, title, rename, name="forward"), f"; it has {near[0]!r}"


def _indented(fqn: str, module: nn.Module) -> tuple[Edit | None, str] | None:
    """The forward that stands inside of __init__, by its indentation."""
    if (method := find_method(module, fqn, "__init__")) is None:
        return None
    try:
        inner = open_method(method.function.__code__)[1].body[-1]
    except UnknownPlaceError:
        return None
    if not isinstance(inner, ast.FunctionDef) or inner.name != "forward":
        return None

    def outdent(file: File, node: ast.FunctionDef) -> Iterator[TextChange]:
        depth = inner.col_offset - node.col_offset
        for number in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1):
            start = file.offset(number, 0)
            if not file.text[start : start + depth].strip(" \t"):
                yield TextChange(file.path, start, start + depth, "")

    title = f"indent the forward at line {inner.lineno} as __init__ is"
    edit = change_method(method, title, outdent, name="forward")
    return edit, f": line {inner.lineno} defines it inside __init__"


def _blame_list(crash: Crash, fqn: str, module: nn.Module) -> Suspect:
    children = list(module._modules)

    def chain(old: nn.Module) -> nn.Module:
        return nn.Sequential(*(old._modules[name] for name in children))  # type: ignore[arg-type]

    title = f"make {quote(fqn)} an nn.Sequential, or call its modules one by one"
    edit: Edit = _call_element(crash) or Exchange(
        title=title, code="nn.Sequential(*...)", module=fqn, layer=chain
    )
    kind = type(module).__name__
    message = f"{quote(fqn)} is an nn.{kind}: it only holds modules, and cannot be called itself"
    return blame(fqn, message, edit)


def _blame_plain_list(crash: Crash) -> Suspects:
    """A list or dict of layers that is called; its layers are not registered either."""
    method, calls = find_failing_method(crash), list_calls(crash.error)
    if method is None or not calls or not isinstance(crash.error, TypeError):
        return
    written = ast.unparse(calls[0].func)
    held = read_attribute(calls[0].func, read_names(crash.error))
    layers = list(held.values()) if isinstance(held, dict) else held
    is_held = isinstance(layers, list | tuple) and len(layers) > 1 and written.startswith("self.")
    if not is_held or not all(isinstance(layer, nn.Module) for layer in layers):
        return
    edit: Edit = _call_element(crash) or SetAttribute(
        title=f"write {written} = nn.Sequential(*...) in __init__",
        code="nn.Sequential(*...)",
        module=method.fqn,
        name=written.removeprefix("self."),
        value=lambda _module: nn.Sequential(*layers),
    )
    message = f"{written} is a {type(held).__name__} of layers, which cannot be called itself"
    arithmetic = "the parameters of its layers are not registered either"
    yield blame(method.fqn, message, edit, arithmetic=arithmetic)


def _call_element(crash: Crash) -> Edit | None:
    """`for layer in self.layers: x = self.layers(x)`: the one of the loop is meant."""
    method = find_failing_method(crash)
    calls = list_calls(crash.error)
    if method is None or not calls:
        return None
    called = calls[0].func
    try:
        tree = open_method(method.function.__code__)[1]
    except UnknownPlaceError:
        return None
    for loop in [node for node in ast.walk(tree) if isinstance(node, ast.For)]:
        is_same = ast.unparse(loop.iter) == ast.unparse(called)
        if is_same and isinstance(loop.target, ast.Name) and calls[0] in list(ast.walk(loop)):
            return replace_node(method, called, loop.target.id)
    return None
