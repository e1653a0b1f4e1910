import ast
from collections.abc import Iterator

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.frames import list_calls, read_arguments
from cnnprobe.crash.facts.methods import Method, find_failing_method, find_method, open_method

_PROGRAM = """
  class Block(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 4)
-     def forward(x):
+     def forward(self, x):
          return F.relu(self.fc(x))
  model, args = nn.Sequential(Block(), nn.Linear(4, 2)), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="write def forward(self, x) in Block")


@cause("CP048", "method-without-self", EXAMPLE, family="call-signature", prior=1200)
def method_without_self(crash: Crash) -> Suspects:
    """A method has no parameter self, so that its first parameter gets the module itself.

    Why it happens: self is forgotten in the definition of the method.
    What to do: write self before the other parameters.
    Known exceptions: none.
    Source: section 9.3.4, "Method Objects", of the tutorial of Python.
    """
    if not isinstance(crash.error, TypeError):
        return
    method, count = _find_called(crash)
    if method is None:
        return
    try:
        node = open_method(method.function.__code__)[1]
    except UnknownPlaceError:
        return
    names = [argument.arg for argument in node.args.args]
    is_self = "self" in names or _reads_layer(method, node, names[:1])
    if node.decorator_list or not names or is_self or len(names) != count:
        return

    def add_self(file: File, one: ast.FunctionDef) -> Iterator[TextChange]:
        start = file.span(one.args.args[0])[0]
        yield TextChange(file.path, start, start, "self, ")

    written = f"def {method.name}({', '.join(['self', *names])})"
    edit = change_method(method, f"write {written} in {method.kind}", add_self)
    message = (
        f"the {method.name} of {crash.describe_module(method.fqn)} has no parameter self: "
        "its first parameter gets the module itself"
    )
    arithmetic = f"{method.name}({', '.join(names)}), at line {node.lineno}"
    yield blame(method.fqn, message, edit, arithmetic=arithmetic, weight=STRONG + 1)


def _reads_layer(method: Method, node: ast.FunctionDef, names: list[str]) -> bool:
    """Whether a layer is read from the first parameter, which is self by another name then."""
    read = [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]
    own = [part for part in read if isinstance(part.value, ast.Name) and part.value.id in names]
    return any(part.attr in method.module._modules for part in own)


def _find_called(crash: Crash) -> tuple[Method | None, int]:
    """The method that was called, with how many arguments: a forward, or another of its class."""
    call, module = crash.call, crash.module
    given = read_arguments(crash.error, module)
    here = find_failing_method(crash)
    for node in list_calls(crash.error):
        if here is None or not isinstance(node.func, ast.Attribute):
            continue
        is_own = ast.unparse(node.func).startswith("self.")
        found = find_method(here.module, here.fqn, node.func.attr) if is_own else None
        if found is not None:
            return found, len(node.args)
    if module is None or call is None or given is None:
        return None, 0
    return find_method(module, call.fqn or ""), len(given[0])
