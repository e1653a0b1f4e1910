"""A module is called whose class has no forward."""

import ast
import difflib
import inspect
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.methods import (
    find_method,
    lacks_forward,
    open_method,
)
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.recorder.inventory import class_of

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def foward(self, x):
            return self.fc(x)


    model, args = Net(), (torch.randn(3, 4),)
    """,
    old="def foward",
    new="def forward",
    blames="",
    repair="rename the method foward to forward",
)
INDENTED = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

            def forward(self, x):
                return self.fc(x)


    model, args = Net(), (torch.randn(3, 4),)
    """,
    old="        def forward(self, x):\n            return",
    new="    def forward(self, x):\n        return",
    blames="",
    repair="indent the forward at line 11 as __init__ is",
)


@cause(code="CP042", name="missing-forward", prior=1100, examples=(EXAMPLE, INDENTED))
def missing_forward(crash: Crash) -> Iterator[Suspect]:
    """A module is called, but its class has no method named forward.

    Why it happens: the name is misspelt, or the method stands inside __init__ by its indentation.
    What to do: define forward(self, x) at the level of __init__.
    Known exceptions: none.
    Source: torch.nn.Module.forward in the documentation of PyTorch.
    """
    module, call = crash.module, crash.call
    if module is None or call is None or not lacks_forward(module):
        return
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return  # module-list-called
    fqn = call.fqn or ""
    edit, has = _misspelt(fqn, module) or _indented(fqn, module) or (None, "")
    methods = ", ".join(_list_methods(module)) or "none"
    kind = class_of(module).__name__
    yield Suspect(
        module=fqn,
        message=f"the class {kind} has no method named forward{has or f'; it has {methods}'}",
        candidates=(propose(edit, weight=STRONG),) if edit is not None else (),
        weight=STRONG,
        advice=(f"define forward(self, x) in {kind}, indented as __init__ is",),
    )


def _list_methods(module: nn.Module) -> list[str]:
    own = [kind for kind in class_of(module).__mro__ if not kind.__module__.startswith("torch.")]
    found = [name for kind in own for name, v in vars(kind).items() if inspect.isfunction(v)]
    return [name for name in found if not name.startswith("__")]


def _misspelt(fqn: str, module: nn.Module) -> tuple[Edit | None, str] | None:
    near = difflib.get_close_matches("forward", _list_methods(module), n=1, cutoff=0.6)
    method = find_method(module, fqn, near[0]) if near else None
    if method is None:
        return None

    def rename(file: File, node: ast.FunctionDef) -> list[Change]:
        at = file.text.index(f"def {node.name}", *file.span(node))
        return [Change(file.path, at, at + len(f"def {node.name}"), "def forward")]

    title = f"rename the method {near[0]} to forward"
    return change_method(method, title, rename, name="forward"), f"; it has {near[0]!r}"


def _indented(fqn: str, module: nn.Module) -> tuple[Edit | None, str] | None:
    """The forward that stands inside of __init__, by its indentation."""
    method = find_method(module, fqn, "__init__")
    if method is None:
        return None
    try:
        inner = open_method(method.function.__code__)[1].body[-1]
    except UnknownPlaceError:
        return None
    if not isinstance(inner, ast.FunctionDef) or inner.name != "forward":
        return None

    def outdent(file: File, node: ast.FunctionDef) -> Iterator[Change]:
        depth = inner.col_offset - node.col_offset
        for number in range(inner.lineno, (inner.end_lineno or inner.lineno) + 1):
            start = file.offset(number, 0)
            if not file.text[start : start + depth].strip(" \t"):
                yield Change(file.path, start, start + depth, "")

    title = f"indent the forward at line {inner.lineno} as __init__ is"
    edit = change_method(method, title, outdent, name="forward")
    return edit, f": line {inner.lineno} defines it inside __init__"
