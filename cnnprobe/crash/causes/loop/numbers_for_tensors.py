import ast
import functools
from collections.abc import Sequence
from typing import Any

import torch

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import read_attribute, read_failing_line
from cnnprobe.operations import find_function

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
      losses = [model(torch.randn(4, 8)).mean().item() for _ in range(3)]
-     return torch.stack(losses).mean()
+     return torch.tensor(losses).mean()
"""
EXAMPLE = Example(_PROGRAM, repair="write torch.tensor(losses)")


@cause("CP0J4", "numbers-for-tensors", EXAMPLE, stage="around", family="not-a-tensor", prior=832)
def numbers_for_tensors(crash: Crash) -> Suspects:
    """torch.stack or torch.cat got Python numbers instead of tensors.

    Why it happens: .item() and .tolist() give numbers, which have no dims to join.
    What to do: torch.tensor(numbers) makes one tensor of them.
    Known exceptions: a list that mixes tensors and numbers needs the tensors' .item() too.
    Source: torch.stack, torch.tensor.
    """
    line = read_failing_line(crash)
    for node in line.nodes if isinstance(crash.error, TypeError) else ():
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        info = find_function(node.func.attr)
        if info is None or info.effect != "joins" or not node.args:
            continue
        given: Any = read_attribute(node.args[0], line.names)
        if not isinstance(given, list | tuple) or not given:
            continue
        if not all(isinstance(one, int | float) for one in given):
            continue
        text = f"torch.tensor({ast.unparse(node.args[0])})"
        edit = Check(
            title=f"write {text} instead of {ast.unparse(node)}",
            code=text,
            check=functools.partial(_join, given),
            written=replace_expression(crash.error, node, text),
        )
        kind = type(given[0]).__name__
        yield blame(
            None,
            f"{ast.unparse(node.func)} joins tensors, but {ast.unparse(node.args[0])} is a list of "
            f"{len(given)} numbers ({kind})",
            propose(edit),
            arithmetic=ast.unparse(node),
        )
        return


def _join(numbers: Sequence[float]) -> str:
    return f"it gives {tuple(torch.tensor(numbers).shape)}"
