import ast
from typing import Any

import torch

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice, Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.members import read_expression
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.suspect import Candidate

_MAKERS = (
    "torch.tensor", "torch.as_tensor", "torch.Tensor", "torch.FloatTensor", "torch.LongTensor",
    "torch.from_numpy",
)  # fmt: skip
_MOST_SHOWN = 4  # lengths of rows
_PROGRAM = """
  model = nn.Linear(3, 2)
  def run(model):
      rows = [[1.0, 2.0, 3.0], [4.0, 5.0]]
-     return model(torch.tensor(rows))
+     return model(nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True))
"""
EXAMPLE = Example(_PROGRAM, repair="pad_sequence")


@cause("CP0L9", "ragged-list", EXAMPLE, stage="around", family="not-a-tensor", prior=833)
def ragged_list(crash: Crash) -> Suspects:
    """A tensor is made of rows of different lengths.

    Why it happens: texts, boxes or signals differ in length. NumPy keeps such rows as an array of
    objects, which torch does not take.
    What to do: pad them to one length, torch.nn.utils.rnn.pad_sequence, or cut them.
    Known exceptions: none.
    Source: torch.tensor; torch.nn.utils.rnn.pad_sequence.
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        if ast.unparse(call.func) not in _MAKERS or not call.args:
            continue
        value = read_expression(line, call.args[0])
        lengths = _measure_rows(value)
        if len(set(lengths)) < 2:
            continue
        name = ast.unparse(call.args[0])
        shown = ", ".join(map(str, lengths[:_MOST_SHOWN]))
        yield blame(
            None,
            f"{ast.unparse(call.func)} got rows of different lengths: {shown}"
            + (", ..." if len(lengths) > _MOST_SHOWN else ""),
            _pad(crash, call, list(value)),
            arithmetic=f"{name} has {len(lengths)} rows of {min(lengths)} to {max(lengths)}",
        )
        return


def _measure_rows(value: Any) -> list[int]:
    """The length of each row of a list, or of an array of objects; empty where it has none."""
    is_array = type(value).__module__ == "numpy" and str(getattr(value, "dtype", "")) == "object"
    if not isinstance(value, list | tuple) and not is_array:
        return []
    rows = list(value)
    is_plain = all(hasattr(row, "__len__") and not isinstance(row, str | dict) for row in rows)
    return [len(row) for row in rows] if is_plain else []


def _pad(crash: Crash, call: ast.Call, rows: list[Any]) -> Candidate:
    """Rows of numbers as one tensor, filled up with zeros."""
    name = ast.unparse(call.args[0])
    padding = "torch.nn.utils.rnn.pad_sequence"
    code = f"{padding}([torch.tensor(row) for row in {name}], batch_first=True)"
    title = f"fill them up with zeros: {code}"
    if not all(isinstance(n, int | float) for row in rows for n in row):
        return propose(Advice(title="pad the rows to one length, or cut them to the shortest"))

    def check() -> str:
        made = [torch.tensor(row) for row in rows]
        return f"it gives {tuple(torch.nn.utils.rnn.pad_sequence(made, batch_first=True).shape)}"

    written = replace_expression(crash.error, call, code)
    return propose(Check(title=title, code=code, check=check, written=written))
