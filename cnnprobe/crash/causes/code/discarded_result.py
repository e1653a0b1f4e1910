from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.edits.method import change_method
from cnnprobe.crash.facts.discarded import Discarded, list_discarded, list_discarded_inputs
from cnnprobe.crash.facts.methods import find_method
from cnnprobe.crash.facts.source import evaluate
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.features = nn.Conv2d(3, 8, 3, padding=1)
          self.pool = nn.AdaptiveAvgPool2d(1)
          self.classifier = nn.Linear(8, 5)
      def forward(self, x):
          x = self.pool(F.relu(self.features(x)))
-         torch.flatten(x, 1)
+         x = torch.flatten(x, 1)
          return self.classifier(x)
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLE = Example(
    _PROGRAM, blames="", repair="write x = torch.flatten(x, 1) instead of torch.flatten(x, 1)"
)
_MINUS = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body = nn.Linear(12, 8)
          self.classifier = nn.Linear(8, 5)
      def forward(self, x):
          x = F.relu(self.body(x))
-         x - self.classifier(x)
+         x = self.classifier(x)
          return F.log_softmax(x, dim=1)
  model, args = Net(), (torch.randn(2, 12),)
"""
MINUS = Example(
    _MINUS, blames="", repair="write x = self.classifier(x) instead of x - self.classifier(x)"
)


@cause("CP097", "discarded-result", (EXAMPLE, MINUS), prior=1300)
def discarded_result(crash: Crash) -> Suspects:
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
    for statement, position in list_discarded_inputs(crash):
        yield _blame(statement, None, "", "", _change_argument(statement, position))


def _list_run(crash: Crash) -> list[str]:
    """One module of each class whose forward has run."""
    names = dict.fromkeys(c.fqn for c in crash.trace.calls if c.fqn is not None)
    kinds = {type(crash.modules[fqn]): fqn for fqn in reversed(names) if fqn in crash.modules}
    return list(kinds.values())


def _blame_statements(crash: Crash, fqn: str) -> Iterator[tuple[int, Suspect]]:
    """The statements of a forward whose value nobody keeps, with the index of their call."""
    method = find_method(crash.modules[fqn], fqn)
    for one in list_discarded(method) if method is not None else ():
        rows = _list_rows(crash, one)
        title = f"write {one.new} instead of {one.old}"
        edit = change_method(method, title, lambda *_, one=one: [one.change], code=one.new)  # type: ignore[arg-type]
        if rows and edit is not None:
            row = crash.trace.calls[rows[-1]]
            shapes = [t.shape for t in (*row.inputs[:1], *row.outputs[:1])]
            where = f" of the forward of {crash.describe_module(fqn)}"
            numbers = f"{shapes[1]} of {shapes[0]}" if len(shapes) == 2 else ""
            yield rows[-1], _blame(one, fqn, where, numbers, edit)


def _blame(one: Discarded, fqn: str | None, where: str, numbers: str, edit: Edit) -> Suspect:
    message = f"{one.old} at line {one.node.lineno}{where} computes a value that nothing keeps"
    arithmetic = f"it makes {numbers}" if numbers else ""
    return blame(fqn, message, edit, arithmetic=arithmetic, weight=STRONG + 1, needs_proof=True)


def _list_rows(crash: Crash, one: Discarded) -> list[int]:
    """The recorded calls of a statement that gave a tensor and wrote in none."""
    node, path = one.node, one.change.path
    places = [f"{path}:{n}" for n in range(node.lineno, (node.end_lineno or 0) + 1)]
    return [
        i
        for i, row in enumerate(crash.trace.calls)
        if row.source in places
        and row.returned == "Tensor"
        and (row.fqn or row.kind).rpartition(".")[2] == one.call
        and not (row.fqn is None and operations.is_writing(row.kind))
    ]


def _change_argument(one: Discarded, position: int) -> Edit:
    """The model called with what the statement computes."""
    name = one.new.partition(" ")[0]

    def change(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        value = evaluate(one.node.value, {**one.names, name: args[position]})
        return (*args[:position], value, *args[position + 1 :]), kwargs

    title = f"write {one.new} instead of {one.old}"
    return ChangeArguments(title=title, code=one.new, function=change, written=lambda: [one.change])
