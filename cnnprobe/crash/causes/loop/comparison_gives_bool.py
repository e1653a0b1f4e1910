import ast
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_assigned_value
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.crash.suspect import Candidate

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      labels = [0, 1, 2, 0]
      predicted = model(torch.randn(4, 8)).argmax(1)
-     return (predicted == labels).sum()
+     return (predicted == torch.tensor(labels)).sum()
"""
EXAMPLE = Example(_PROGRAM, repair="write predicted == torch.tensor(labels)")


@cause("CP0L3", "comparison-gives-bool", EXAMPLE, stage="around", family="not-a-tensor", prior=845)
def comparison_gives_bool(crash: Crash) -> Suspects:
    """A comparison gives one True or False where a tensor of them is needed.

    Why it happens: a tensor compared with a list or with None, and a list compared with a list,
    are compared as a whole. `is` never looks at values.
    What to do: make tensors of both: predicted == torch.tensor(labels).
    Known exceptions: none.
    Source: torch.eq takes a tensor or a number; section 6.10 of the reference of Python.
    """
    if not isinstance(crash.error, AttributeError) or not isinstance(crash.error.obj, bool):
        return
    line = read_failing_line(crash)
    for node in _list_comparisons(crash, line):
        sides = (node.left, node.comparators[0])
        values = [_read(line, side) for side in sides]
        if isinstance(node.ops[0], ast.Is | ast.IsNot):
            yield blame(
                None,
                f"{ast.unparse(node)} compares objects, not values, and gives one bool",
                f"write {ast.unparse(sides[0])} == {ast.unparse(sides[1])}",
            )
            return
        if any(isinstance(value, list | tuple) for value in values):
            yield _explain(crash, node, sides, values)
            return


def _list_comparisons(crash: Crash, line: FailingLine) -> Iterator[ast.Compare]:
    """The comparison whose result has the attribute that is missing."""
    for node in line.nodes:
        value: ast.AST | None = node.value if isinstance(node, ast.Attribute) else None
        if isinstance(value, ast.Name):
            value = find_assigned_value(crash.error, value.id)
        if isinstance(value, ast.Compare) and len(value.comparators) == 1:
            yield value


def _read(line: FailingLine, node: ast.expr) -> Any:
    match node:  # tolist() is not called again by the line's own reader
        case ast.Call(func=ast.Attribute(value=owner, attr="tolist"), args=[]):
            value = line.evaluate(owner)
            return value.tolist() if isinstance(value, Tensor) and not value.is_meta else None
    return line.evaluate(node)


def _explain(
    crash: Crash, node: ast.Compare, sides: tuple[ast.expr, ast.expr], values: list[Any]
) -> Suspect:
    text = ast.unparse(node)
    shown = " with ".join(
        f"a tensor {tuple(v.shape)}" if isinstance(v, Tensor) else f"a {type(v).__name__}"
        for v in values
    )
    return blame(
        None,
        f"{text} compares {shown} as a whole, and gives one bool",
        _make_tensors(crash, node, sides, values),
        arithmetic=text,
    )


def _make_tensors(
    crash: Crash, node: ast.Compare, sides: tuple[ast.expr, ast.expr], values: list[Any]
) -> Candidate:
    """The comparison of tensors: each side that is none is made one."""
    texts = [
        ast.unparse(side) if isinstance(value, Tensor) else f"torch.tensor({ast.unparse(side)})"
        for side, value in zip(sides, values, strict=True)
    ]
    code = ast.unparse(node).replace(ast.unparse(sides[0]), texts[0], 1)
    code = code.removesuffix(ast.unparse(sides[1])) + texts[1]

    def check() -> str:
        a, b = (torch.as_tensor(value) for value in values)
        return f"the comparison gives {tuple((a == b.to(a.device)).shape)}"

    return propose(
        Check(
            title=f"write {code} instead of {ast.unparse(node)}",
            code=code,
            check=check,
            written=replace_expression(crash.error, node, code),
        )
    )
