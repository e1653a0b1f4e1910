import ast
import functools
from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit, refill
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.facts.frames import find_missing
from cnnprobe.crash.facts.methods import Method, find_class, find_failing_method, open_method
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.recorder.inventory import class_of, named_modules

_PROGRAM = """
  class Net(nn.Module):
-     def _init_(self):
+     def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
      def forward(self, x):
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="", repair="write __init__ instead of _init_ in Net", on_meta=False
)


@cause("CP0E2", "setup-not-run", EXAMPLE, family="missing-attribute", prior=1091)
def setup_not_run(crash: Crash) -> Suspects:
    """An attribute is set by a method that has not run.

    Why it happens: __init__ is misspelt, _init_, so that Python never calls it; or layers are
    made in a method such as build, and nothing calls it.
    What to do: spell __init__ with two underscores on each side; call the method in __init__.
    Known exceptions: none.
    Source: "Basic customization" in the Python language reference.
    """
    subject, name = find_missing(crash.error)
    method = find_failing_method(crash)
    if method is None or subject is not method.module or not isinstance(subject, nn.Module):
        return
    found = _find_maker(method, name) if name else None
    if found is not None:
        message = (
            f"{crash.describe_module(method.fqn)} has no attribute {name!r}: "
            f"{found.name} sets it, but has not run"
        )
        yield blame(method.fqn, message, found, needs_proof=True)


@dataclass(frozen=True, kw_only=True)
class RunMethod(Edit):
    """Let every module of the class run a method of its own that sets attributes."""

    name: str

    def apply(self, twin: ModelCopy) -> None:
        """Run the method; what it has set is taken back."""
        kind = class_of(twin.module(self.module))
        modules = [m for _, m, first in named_modules(twin.model) if first and class_of(m) is kind]
        for module in modules:
            kept = dict(module.__dict__)
            twin.undo.append(functools.partial(refill, module.__dict__, kept))
            for registry in ("_modules", "_parameters", "_buffers"):
                module.__dict__[registry] = dict(kept[registry])
            getattr(kind, self.name)(module)
            module.training = kept["training"]


def _find_maker(method: Method, name: str) -> RunMethod | None:
    """Another method of the class that assigns an attribute, and takes no arguments."""
    try:
        file, failing = open_method(method.function.__code__)
    except UnknownPlaceError:
        return None
    owner = find_class(file.tree, failing)
    for node in owner.body if owner is not None else ():
        stored = [n for n in ast.walk(node) if isinstance(n, ast.Attribute)]
        sets = any(n.attr == name and isinstance(n.ctx, ast.Store) for n in stored)
        if not isinstance(node, ast.FunctionDef) or node is failing or not sets:
            continue
        if node.name == "__init__" or len(node.args.args) - len(node.args.defaults) != 1:
            return None
        return _run_method(method, file, owner, node)
    return None


def _run_method(
    method: Method, file: File, owner: ast.ClassDef | None, node: ast.FunctionDef
) -> RunMethod:
    """The method as __init__ where it is a slip for it, else called by __init__."""
    body = owner.body if owner is not None else []
    inits = [n for n in body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    is_slip = not inits and node.name.strip("_") in ("init", "int")

    def write() -> list[TextChange]:
        if is_slip:
            at = file.text.index(node.name, file.span(node)[0])
            return [TextChange(file.path, at, at + len(node.name), "__init__")]
        last = inits[-1].body[-1]
        end, spaces = file.span(last)[1], " " * last.col_offset
        return [TextChange(file.path, end, end, f"\n{spaces}self.{node.name}()")]

    title = f"call self.{node.name}() at the end of __init__"
    if is_slip:
        title = f"write __init__ instead of {node.name} in {method.kind}"
    code = "__init__" if is_slip else f"self.{node.name}()"
    return RunMethod(title=title, code=code, module=method.fqn, name=node.name, written=write)
