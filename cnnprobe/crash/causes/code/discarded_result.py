"""A value is computed and thrown away, where it was to be assigned."""

import ast
from collections.abc import Iterator
from dataclasses import replace

from cnnprobe import operations
from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.methods import find_method, open_method
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Conv2d(3, 8, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.classifier = nn.Linear(8, 5)

        def forward(self, x):
            x = self.pool(F.relu(self.features(x)))
            torch.flatten(x, 1)
            return self.classifier(x)


    model, args = Net(), (torch.randn(2, 3, 16, 16),)
    """,
    old="        torch.flatten",
    new="        x = torch.flatten",
    blames="",
    repair="write x = torch.flatten(x, 1) instead of torch.flatten(x, 1)",
)
MINUS = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(12, 8)
            self.classifier = nn.Linear(8, 5)

        def forward(self, x):
            x = F.relu(self.body(x))
            x - self.classifier(x)
            return F.log_softmax(x, dim=1)


    model, args = Net(), (torch.randn(2, 12),)
    """,
    old="x - self",
    new="x = self",
    blames="",
    repair="write x = self.classifier(x) instead of x - self.classifier(x)",
)


@cause(code="CP097", name="discarded-result", prior=1300, examples=(EXAMPLE, MINUS))
def discarded_result(crash: Crash) -> Iterator[Suspect]:
    """A statement computes a value and throws it away, so that a later line gets the old one.

    Why it happens: x.view(...), F.relu(x) and a layer give a new tensor and leave x as it was.
    Or a minus was typed for the equals sign.
    What to do: assign the result: x = x.view(...).
    Known exceptions: operations whose name ends in an underscore change their tensor in place.
    Source: torch.Tensor.view and torch.flatten in the documentation of PyTorch.
    """
    found = [one for fqn in _list_run(crash) for one in _blame_statements(crash, fqn)]
    # The last statement that mends it wins: what comes later reads its result.
    found.sort(key=lambda one: -one[0])
    edits = tuple(one.candidates[0].edits[0] for _, one in found[::-1])
    for i, (_, one) in enumerate(found):
        more = [Candidate(edits=edits, weight=USUAL)] if i == 0 and len(found) > 1 else []
        yield replace(one, candidates=(*one.candidates, *more))


def _list_run(crash: Crash) -> list[str]:
    """One module of each class whose forward has run."""
    names = dict.fromkeys(c.fqn for c in crash.trace.calls if c.fqn is not None)
    kinds = {type(crash.modules[fqn]): fqn for fqn in reversed(names) if fqn in crash.modules}
    return list(kinds.values())


def _blame_statements(crash: Crash, fqn: str) -> Iterator[tuple[int, Suspect]]:
    """The statements of a forward whose value nobody keeps, with the index of their call."""
    method = find_method(crash.modules[fqn], fqn)
    try:
        file, function = open_method(method.function.__code__)  # type: ignore[union-attr]
    except (AttributeError, UnknownPlaceError):
        return
    for node in ast.walk(function):
        place = _find_place(file, function, node.value) if isinstance(node, ast.Expr) else None
        rows = _list_rows(crash, file, node.value) if place is not None else []  # type: ignore[attr-defined]
        if method is None or place is None or not rows:
            continue
        old, new = ast.unparse(node), _apply(file, node, place)  # type: ignore[arg-type]
        title = f"write {new} instead of {old}"
        edit = change_method(method, title, lambda _file, _node, place=place: [place], code=new)  # type: ignore[misc]
        if edit is None:
            continue
        row = crash.trace.calls[rows[-1]]
        shapes = [t.shape for t in (*row.inputs[:1], *row.outputs[:1])]
        yield (
            rows[-1],
            Suspect(
                module=fqn,
                message=f"{old} at line {node.lineno} of the forward of {describe_module(crash, fqn)} "  # type: ignore[attr-defined]
                "computes a value that nothing keeps",
                arithmetic=f"{shapes[1]} of {shapes[0]}" if len(shapes) == 2 else "",
                candidates=(propose(edit, weight=STRONG),),
                weight=STRONG + 1,
                needs_proof=True,
            ),
        )


def _find_place(file: File, function: ast.FunctionDef, value: ast.expr) -> Change | None:
    """Where an assignment is to be written, and to which name; None where it is no such slip."""
    if isinstance(value, ast.BinOp) and isinstance(value.left, ast.Name):
        start, end = file.span(value.left)[1], file.span(value.right)[0]
        is_call = isinstance(value.right, ast.Call)
        return Change(file.path, start, end, " = ") if is_call else None
    if not isinstance(value, ast.Call):
        return None
    known = {a.arg for a in function.args.args[1:]}
    known |= {n.id for n in ast.walk(function) if _is_stored(n)}  # type: ignore[attr-defined]
    read = [n for n in ast.walk(value) if isinstance(n, ast.Name) and n.id in known]
    start = file.span(value)[0]
    first = min(read, key=lambda n: (n.lineno, n.col_offset), default=None)
    return None if first is None else Change(file.path, start, start, f"{first.id} = ")


def _is_stored(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)


def _apply(file: File, node: ast.Expr, place: Change) -> str:
    start, end = file.span(node)
    return file.text[start : place.start] + place.text + file.text[place.end : end]


def _list_rows(crash: Crash, file: File, value: ast.expr) -> list[int]:
    """The recorded calls of a statement's value that gave a tensor and wrote in none."""
    call = value.right if isinstance(value, ast.BinOp) else value
    name = ast.unparse(call.func).rpartition(".")[2] if isinstance(call, ast.Call) else ""
    places = [f"{file.path}:{n}" for n in range(value.lineno, (value.end_lineno or 0) + 1)]
    return [
        i
        for i, row in enumerate(crash.trace.calls)
        if row.source in places
        and row.returned == "Tensor"
        and (row.fqn or row.kind).rpartition(".")[2] == name
        and not (row.fqn is None and operations.is_writing(row.kind))
    ]
