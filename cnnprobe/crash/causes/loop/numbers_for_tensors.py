import ast
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.members import read_expression
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.operations import find_function

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
      losses = [model(torch.randn(4, 8)).mean().item() for _ in range(3)]
-     return torch.stack(losses).mean()
+     return torch.tensor(losses).mean()
"""
_ARRAYS = """
  import numpy as np
  model = nn.Linear(8, 2)
  def run(model):
      rows = [np.zeros(8, "float32") for _ in range(3)]
-     return model(torch.stack(rows))
+     return model(torch.from_numpy(np.stack(rows)))
"""
_SAMPLES = """
  model = nn.Linear(8, 2)
  def run(model):
      batch = [(torch.randn(8), 1), (torch.randn(8), 0)]
-     return model(torch.stack(batch))
+     return model(torch.stack([sample[0] for sample in batch]))
"""
EXAMPLES = (
    Example(_PROGRAM, repair="write torch.tensor(losses)"),
    Example(_ARRAYS, repair="write torch.from_numpy(np.stack(rows))"),
    Example(_SAMPLES, repair="write torch.stack([sample[0] for sample in batch])"),
)


@cause("CP0J4", "numbers-for-tensors", EXAMPLES, stage="around", family="not-a-tensor", prior=832)
def numbers_for_tensors(crash: Crash) -> Suspects:
    """torch.stack or torch.cat got numbers, arrays or samples instead of tensors.

    Why it happens: .item() and .tolist() give numbers, which have no dims to join. NumPy's arrays
    are no tensors. A batch of a data set is a list of samples, each a tensor with its label.
    What to do: torch.tensor(numbers) makes one tensor of them, torch.from_numpy(np.stack(arrays))
    of arrays; take the tensors out of samples.
    Known exceptions: a list that mixes tensors and numbers needs the tensors' .item() too.
    Source: torch.stack, torch.tensor, torch.from_numpy.
    """
    line = read_failing_line(crash)
    for node in line.nodes if isinstance(crash.error, TypeError) else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        info = find_function(node.func.attr)
        if info is None or info.effect != "joins" or not node.args:
            continue
        given: Any = read_expression(line, node.args[0])
        if not isinstance(given, list | tuple) or not given:
            continue
        if (judged := _judge(ast.unparse(node.func), ast.unparse(node.args[0]), given)) is None:
            continue
        said, text, check = judged
        edit = Check(
            title=f"write {text} instead of {ast.unparse(node)}",
            code=text,
            check=check,
            written=replace_expression(crash.error, node, text),
        )
        message = f"{ast.unparse(node.func)} joins tensors, but {said}"
        yield blame(None, message, propose(edit), arithmetic=ast.unparse(node))
        return


def _judge(
    function: str, name: str, given: Sequence[Any]
) -> tuple[str, str, Callable[[], str]] | None:
    """What the list holds, what to write instead, and what comes of it."""
    first, count = given[0], len(given)
    if all(isinstance(one, int | float) for one in given):
        said = f"{name} is a list of {count} numbers ({type(first).__name__})"
        return said, f"torch.tensor({name})", lambda: _show(torch.tensor(given))
    if all(type(one).__module__ == "numpy" for one in given):
        join = "stack" if function.endswith("stack") else "concatenate"
        arrays = getattr(sys.modules["numpy"], join)
        said = f"{name} is a list of {count} NumPy arrays of {tuple(first.shape)}"
        code = f"torch.from_numpy(np.{join}({name}))"
        return said, code, lambda: _show(torch.from_numpy(arrays(given)))
    if all(isinstance(one, tuple | list) and one and isinstance(one[0], Tensor) for one in given):
        said = f"{name} is a list of {count} samples, each a {type(first).__name__} of {len(first)}"
        join = function.rpartition(".")[2]
        code = f"{function}([sample[0] for sample in {name}])"
        return said, code, lambda: _show(getattr(torch, join)([one[0] for one in given]))
    return None


def _show(made: Tensor) -> str:
    return f"it gives {tuple(made.shape)}"
