"""The forward reads a variable that does not exist."""

import ast
import difflib
from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.files import Change, File
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.frames import list_names, read_locals
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.suspect import STRONG, Suspect, propose

# What the usual short names stand for.
_IMPORTS = {
    "F": "import torch.nn.functional as F", "nn": "from torch import nn",
    "np": "import numpy as np", "torch": "import torch", "math": "import math",
}  # fmt: skip
EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            x = F.relu(conv(x))
            return self.fc(x.mean((2, 3)))


    model, args = Net(), (torch.randn(2, 3, 8, 8),)
    """,
    old="(conv(",
    new="(self.conv(",
    blames="",
    repair="write self.conv instead of conv",
)


@cause(
    code="CP044", name="undefined-name", family="missing-attribute", prior=1198, examples=EXAMPLE
)
def undefined_name(crash: Crash) -> Iterator[Suspect]:
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
    new = f"self.{near[0]}" if near else local[0] if local else ""

    def change(file: File, node: ast.FunctionDef) -> Iterator[Change]:
        for part in ast.walk(node):
            if not isinstance(part, ast.Name) or not isinstance(part.ctx, ast.Load):
                continue
            if part.id == name:
                yield file.replace(part, new)

    edit = change_method(method, f"write {new} instead of {name}", change) if new else None
    yield Suspect(
        module=method.fqn,
        message=f"there is no variable {name!r} in the {method.name} of "
        + describe_module(crash, method.fqn)
        + (f": it is an attribute of the module, {new}" if near else ""),
        arithmetic=f"{new} is a {type(getattr(module, near[0])).__name__}" if near else "",
        candidates=(propose(edit, weight=STRONG),) if edit is not None else (),
        weight=STRONG,
        advice=(f"import it: {_IMPORTS[name]}",) if name in _IMPORTS else (),
    )
