"""A layer is kept in a local variable of __init__, as self. is forgotten."""

import ast
from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError
from cnnprobe.crash.facts.frames import find_missing
from cnnprobe.crash.facts.methods import (
    Method,
    find_failing_method,
    find_method,
    open_method,
)
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(4, 4)
            fc2 = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc2(F.relu(self.fc1(x)))


    model, args = Net(), (torch.randn(3, 4),)
    """,
    old="        fc2 =",
    new="        self.fc2 =",
    blames="",
    repair="write self.fc2 = nn.Linear(4, 2) in __init__",
)


@cause(
    code="CP0D2", name="layer-kept-local", family="missing-attribute", prior=1091, examples=EXAMPLE
)
def layer_kept_local(crash: Crash) -> Iterator[Suspect]:
    """A layer is kept in a local variable of __init__, so that the module does not have it.

    Why it happens: self. is forgotten before the name in __init__.
    What to do: write self. before it.
    Known exceptions: none.
    Source: torch.nn.Module.__setattr__ registers what is assigned to self.
    """
    subject, name = find_missing(crash.error)
    method = find_failing_method(crash)
    if method is None or subject is not method.module:
        return
    found = _find_local(method, name)
    if found is None:
        return
    edit = _register(found, name)
    yield Suspect(
        module=method.fqn,
        message=f"{describe_module(crash, method.fqn)} has no attribute {name!r}: "
        f"__init__ keeps it in a local variable {name}",
        arithmetic=f"line {found[2].lineno} lacks self.",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG + 1,
        advice=(edit.title,),
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
        value=lambda _module: eval(text, dict(init.function.__globals__)),  # noqa: S307 - as they wrote it
        written=lambda: [Change(file.path, start, start, "self.")],
    )
