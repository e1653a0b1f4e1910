import ast
import inspect
from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.edits.places import find_assigned, find_method
from cnnprobe.crash.facts.frames import read_arguments, read_names
from cnnprobe.crash.facts.methods import Method, find_failing_method, open_method
from cnnprobe.crash.facts.trees import list_nodes
from cnnprobe.crash.facts.values import read_attribute, read_failing_line
from cnnprobe.recorder.inventory import class_of

_SIZES = {"shape", "size", "dim", "ndim", "numel"}  # nn.LayerNorm(x.shape[1:]) is no slip
_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
-         self.relu = nn.ReLU
+         self.relu = nn.ReLU()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
          x = self.relu(self.conv(x))
          return self.fc(x.mean((2, 3)))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.relu = nn.ReLU() in __init__")
_APPLIED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 8, 3)
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         x = nn.ReLU(self.conv(x))
+         x = nn.ReLU()(self.conv(x))
          return self.fc(x.mean((2, 3)))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
APPLIED = Example(
    _APPLIED, blames="", repair="write nn.ReLU()(self.conv(x)) instead of nn.ReLU(self.conv(x))"
)


@cause("CP056", "missing-parentheses", (EXAMPLE, APPLIED), family="not-a-tensor", prior=1192)
def missing_parentheses(crash: Crash) -> Suspects:
    """A layer class is called with a tensor, which only constructs a layer.

    Why it happens: self.relu = nn.ReLU keeps the class and not a layer, or nn.ReLU(x) is written
    for nn.ReLU()(x). The first parentheses are for the options, the second for the tensor.
    What to do: construct the layer in __init__, with parentheses; in forward, call it.
    Known exceptions: none.
    Source: torch.nn.Module.__call__ runs forward; the class itself runs __init__.
    """
    method = find_failing_method(crash)
    if method is None or not isinstance(crash.error, TypeError | AttributeError | RuntimeError):
        return
    constructions = list(_list_constructions(crash, method))
    found = list(_list_arrived(crash)) if constructions else []
    for call, kind in constructions:
        if kind not in map(type, found) and not any(call is part for part in found):
            continue
        edit = _construct(method, call, kind)
        message = f"{ast.unparse(call)} only constructs a {kind.__name__} and does not apply it"
        arithmetic = f"{ast.unparse(call.func)} is the class {kind.__name__}, not a layer"
        advice = (f"construct the {kind.__name__} with its options first, then call it",)
        yield blame(method.fqn, message, edit, arithmetic=arithmetic, advice=advice)
        return


def _list_arrived(crash: Crash) -> Iterator[Any]:
    """What the failing layer got, what stands on the failing line, and its nodes."""
    given = read_arguments(crash.error, crash.leaf) if crash.leaf is not None else None
    yield from given[0] if given is not None else ()
    line = read_failing_line(crash)
    yield from line.nodes
    yield from (line.names.get(node.id) for node in line.nodes if isinstance(node, ast.Name))


def _list_constructions(crash: Crash, method: Method) -> Iterator[tuple[ast.Call, type[nn.Module]]]:
    """The calls of a layer's class in a method that pass data, and whose layer is not called."""
    try:
        tree = open_method(method.function.__code__)[1]
    except UnknownPlaceError:
        return
    names, calls = read_names(crash.error), [n for n in list_nodes(tree) if isinstance(n, ast.Call)]
    applied = {id(call.func) for call in calls}
    for call in calls:
        kind = read_attribute(call.func, names)
        is_layer = isinstance(kind, type) and issubclass(kind, nn.Module)
        if is_layer and call.args and id(call) not in applied and _reads_data(call.args[0], tree):
            yield call, kind


def _reads_data(node: ast.expr, tree: ast.FunctionDef) -> bool:
    """Whether an expression reads what the forward computes, and not only a size of it."""
    names = {a.arg for a in tree.args.args[1:]}
    names |= {
        n.id for n in list_nodes(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    reads = any(isinstance(n, ast.Name) and n.id in names for n in ast.walk(node))
    sizes = {n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)} & _SIZES
    return reads and not sizes and not isinstance(node, ast.Starred)


def _construct(method: Method, call: ast.Call, kind: type[nn.Module]) -> Edit | None:
    """The layer constructed in __init__ where it needs no options, else on the line."""
    options = [*call.args[1:], *call.keywords]
    try:
        inspect.signature(kind).bind(*call.args[1:], **{k.arg or "": k for k in call.keywords})
    except TypeError:
        return None
    function = ast.unparse(call.func)
    if function.startswith("self.") and not options:
        name = function.removeprefix("self.")
        return SetAttribute(
            title=f"write {function} = {_name(kind)}() in __init__",
            code=f"{_name(kind)}()",
            module=method.fqn,
            name=name,
            value=lambda _module: kind(),
            written=lambda: _call_assigned(method, name),
        )
    dim = inspect.signature(kind).parameters.get("dim")
    added = ["dim=1"] if dim is not None and dim.default is None and not options else []  # softmax
    first, rest = ast.unparse(call.args[0]), ", ".join([*map(ast.unparse, options), *added])
    return replace_node(method, call, f"{function}({rest})({first})")


def _name(kind: type[nn.Module]) -> str:
    return f"nn.{kind.__name__}" if hasattr(nn, kind.__name__) else kind.__name__


def _call_assigned(method: Method, name: str) -> list[TextChange]:
    """The class that __init__ assigns, with parentheses after it."""
    file, function = find_method(class_of(method.module), "__init__")
    end = file.span(find_assigned(function, name))[1]
    return [TextChange(file.path, end, end, "()")]
