"""The forward has no parameter self."""

import ast
from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.frames import read_arguments
from cnnprobe.crash.facts.methods import find_method, open_method
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(x):
            return F.relu(self.fc(x))


    model, args = nn.Sequential(Block(), nn.Linear(4, 2)), (torch.randn(3, 4),)
    """,
    old="forward(x)",
    new="forward(self, x)",
    blames="0",
    repair="write def forward(self, x) in Block",
)


@cause(
    code="CP048",
    name="forward-without-self",
    family="call-signature",
    prior=1200,
    examples=EXAMPLE,
)
def forward_without_self(crash: Crash) -> Iterator[Suspect]:
    """The forward has no parameter self, so that its first parameter gets the module itself.

    Why it happens: self is forgotten in the definition of the method.
    What to do: write self before the other parameters.
    Known exceptions: none.
    Source: section 9.3.4, "Method Objects", of the tutorial of Python.
    """
    call, module = crash.call, crash.module
    method = (
        find_method(module, call.fqn or "") if module is not None and call is not None else None
    )
    given = read_arguments(crash.error, module)
    if method is None or given is None or not isinstance(crash.error, TypeError):
        return
    try:
        node = open_method(method.function.__code__)[1]
    except UnknownPlaceError:
        return
    names = [argument.arg for argument in node.args.args]
    reads_self = any(isinstance(n, ast.Name) and n.id == "self" for n in ast.walk(node))
    if not names or "self" in names or not reads_self or len(names) != len(given[0]):
        return

    def add_self(file: File, one: ast.FunctionDef) -> Iterator[Change]:
        start = file.span(one.args.args[0])[0]
        yield Change(file.path, start, start, "self, ")

    written = f"def forward({', '.join(['self', *names])})"
    edit = change_method(method, f"write {written} in {method.kind}", add_self)
    yield Suspect(
        module=method.fqn,
        message=f"the forward of {describe_module(crash, method.fqn)} has no parameter self: its "
        "first parameter gets the module itself",
        arithmetic=f"forward({', '.join(names)}), at line {node.lineno}",
        candidates=(propose(edit, weight=STRONG),) if edit is not None else (),
        weight=STRONG + 1,
    )
