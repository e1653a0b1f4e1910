import ast
import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe import operations
from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.methods import Method, find_failing_method
from cnnprobe.crash.facts.unpacking import Unpacking, find_unpacking
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv1d(4, 24, 3, padding=1)
          self.out = nn.Conv1d(12, 2, 1)
      def forward(self, x):
-         a, b = self.conv(x).chunk(3, dim=1)
+         a, b = self.conv(x).chunk(2, dim=1)
          return self.out(a * torch.sigmoid(b))
  model, args = Net(), (torch.randn(2, 4, 10),)
"""
EXAMPLE = Example(
    _PROGRAM,
    blames="",
    repair="write self.conv(x).chunk(2, dim=1) instead of self.conv(x).chunk(3, dim=1)",
)
_STATE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.lstm = nn.LSTM(4, 8, batch_first=True)
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         out, h, c = self.lstm(x)
+         out, (h, c) = self.lstm(x)
          return self.fc(h[-1])
  model, args = Net(), (torch.randn(3, 5, 4),)
"""
STATE = Example(_STATE, blames="", repair="write out, (h, c) instead of out, h, c")
_POOL = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.pool = nn.MaxPool2d(2)
+         self.pool = nn.MaxPool2d(2, return_indices=True)
          self.unpool = nn.MaxUnpool2d(2)
      def forward(self, x):
          x, where = self.pool(x)
          return self.unpool(x, where)
  model, args = Net(), (torch.randn(3, 2, 8, 8),)
"""
POOL = Example(_POOL, blames="pool", repair="set return_indices=True in 'pool'")


@cause("CP049", "unpacking-count", (EXAMPLE, STATE, POOL), family="call-signature", prior=1194)
def unpacking_count(crash: Crash) -> Suspects:
    """A line unpacks a result into another number of names than it has parts.

    Why it happens: a layer returns one tensor, whose first dim is then unpacked. A GRU returns one
    state, an LSTM a pair of them. A chunk or split has another number of parts.
    What to do: write as many names as there are parts; one tensor needs no unpacking.
    Known exceptions: none.
    Source: "Outputs" of nn.LSTM and nn.GRU in the documentation of PyTorch.
    """
    found, method = find_unpacking(crash), find_failing_method(crash)
    if found is None or method is None or isinstance(found.value, torch.Size):
        return
    what = "one tensor" if isinstance(found.value, Tensor) else _count(found.given, "part")
    who = crash.describe_call(found.row) if found.row is not None else ast.unparse(found.whole)
    what += f" of {tuple(found.value.shape)}" if isinstance(found.value, Tensor) else ""
    if not found.is_whole:
        what += f" in the place of {ast.unparse(found.names)}"
    message = f"{who} gives {what}, but {_count(found.wanted, 'name')} unpack it"
    arithmetic = f"{_count(found.wanted, 'name')} for {found.given}"
    if isinstance(found.value, Tensor):
        arithmetic += f", the size of its first dim: {tuple(found.value.shape)}"
    layer = crash.modules.get(found.row.fqn or "") if found.row is not None else None
    keeps = getattr(layer, "return_indices", None) is False and found.wanted == 2
    fqn = found.row.fqn or "" if keeps and found.row is not None else ""
    edits = [propose(configure(crash, fqn, return_indices=True), weight=STRONG + 1)] if fqn else []
    candidates = (*edits, *_propose_texts(method, found))
    yield blame(fqn or method.fqn, message, *candidates, arithmetic=arithmetic)


def _count(n: int, thing: str) -> str:
    return f"{n} {thing}{'s' * (n != 1)}"


def _propose_texts(method: Method, found: Unpacking) -> Candidates:
    """Other names, or another number of parts."""
    names = [ast.unparse(name) for name in found.names.elts]
    if isinstance(found.value, Tensor):
        texts: list[tuple[ast.expr, str]] = [(found.names, names[0])]
        if found.is_whole and "_" not in names[1:]:
            texts.append((found.whole, f"{ast.unparse(found.whole)}.chunk({found.wanted}, dim=1)"))
    else:
        texts = [*_change_parts(found), *_change_names(found, names)]
    for node, text in texts:
        edit = replace_node(method, node, text)
        if edit is not None:
            yield propose(edit, weight=STRONG if node is texts[0][0] else USUAL)


def _change_parts(found: Unpacking) -> Iterator[tuple[ast.expr, str]]:
    """The chunk with as many parts as there are names."""
    name = operations.resolve_name(found.row.kind) if found.row is not None else ""
    if name not in operations.select(argument="chunks"):
        return
    new = copy.deepcopy(found.whole)
    for node in ast.walk(new):
        if isinstance(node, ast.Constant) and node.value == found.given:
            node.value = found.wanted
            yield found.whole, ast.unparse(new)
            return


def _change_names(found: Unpacking, names: list[str]) -> Iterator[tuple[ast.expr, str]]:
    """As many names as there are parts, nested as they are."""
    if found.wanted < found.given:
        yield found.names, ", ".join([*names, *"_" * (found.given - found.wanted)])
        return
    left = iter(names)
    try:
        written = [_write(part, left) for part in found.value]
    except StopIteration:
        return
    if next(left, None) is None:
        yield found.names, ", ".join(written)


def _write(part: object, names: Iterator[str]) -> str:
    """The names for a part: (h, c) for a pair."""
    if isinstance(part, tuple):
        return f"({', '.join(_write(one, names) for one in part)})"
    return next(names)
