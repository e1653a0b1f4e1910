import ast
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import (
    STRONG,
    USUAL,
    Candidates,
    Crash,
    Example,
    Suspects,
    blame,
    cause,
    propose,
)
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import find_assigned_value
from cnnprobe.crash.facts.pairs import read_pair
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_COMPARING = ("eq", "ne", "equal")
_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      output = model(torch.randn(4, 8))
-     return (torch.max(output, 1) == y).sum()
+     return (torch.max(output, 1).indices == y).sum()
"""
_NAMED = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      predicted = model(torch.randn(4, 8)).max(1)
-     return predicted.eq(y).float().mean()
+     return predicted.indices.eq(y).float().mean()
"""
EXAMPLES = (
    Example(_PROGRAM, repair="write torch.max(output, 1).indices instead"),
    Example(_NAMED, repair="write predicted.indices instead"),
)


@cause("CP0L2", "values-and-indices", EXAMPLES, stage="around", family="not-a-tensor", prior=870)
def values_and_indices(crash: Crash) -> Suspects:
    """Values with their indices, as torch.max along a dim gives them, are used as one tensor.

    Why it happens: torch.max(x, 1), sort and topk return two tensors: the greatest values, and
    where they stand. A comparison with them is a single False, which has no sum.
    What to do: take the indices as predicted classes, the values as scores.
    Known exceptions: torch.max(x) without a dim gives one tensor.
    Source: torch.max, torch.sort and torch.topk, "returns a namedtuple".
    """
    if not isinstance(crash.error, AttributeError | TypeError):
        return
    line = read_failing_line(crash)
    for node, is_class in _list_used(crash, line):
        if (pair := read_pair(line, node)) is None:
            continue
        name, shape = ast.unparse(node), tuple(pair.values.shape)
        yield blame(
            None,
            f"{name} is a pair of values and indices, each {shape}, not a tensor",
            *_take(crash, node, pair, is_class=is_class),
            arithmetic=f"torch.{type(pair).__name__} along a dim gives both",
            tensors=(pair.values, pair.indices),
        )
        return


def _list_used(crash: Crash, line: FailingLine) -> list[tuple[ast.expr, bool]]:
    """The expressions that may be a pair, and whether each is compared with classes."""
    found: list[tuple[ast.expr, bool]] = []
    nodes = list(line.nodes)
    for read in (node for node in line.nodes if isinstance(node, ast.Name)):
        value = find_assigned_value(crash.error, read.id)
        if isinstance(value, ast.Compare) and isinstance(line.names.get(read.id), bool):
            nodes += list(ast.walk(value))
    for node in nodes:
        match node:
            case ast.Compare(left=left, comparators=[right]):
                found += [(left, _is_class(line, right)), (right, _is_class(line, left))]
            case ast.Call(func=ast.Attribute(value=owner), args=args):
                found += [(part, False) for part in (owner, *args)]
            case ast.Attribute(value=owner, attr=name):
                found.append((owner, name in _COMPARING))
            case ast.Subscript(value=owner):
                found.append((owner, False))
            case ast.BinOp(left=left, right=right):
                found += [(left, False), (right, False)]
    return found


def _is_class(line: FailingLine, node: ast.expr) -> bool:
    value = line.evaluate(node)
    return isinstance(value, Tensor) and not value.is_floating_point()


def _take(crash: Crash, node: ast.expr, pair: Any, *, is_class: bool) -> Candidates:
    """The part that is meant first: indices, where they are compared with classes."""
    for part, said in (("indices", "the classes"), ("values", "the scores")):
        text, value = f"{ast.unparse(node)}.{part}", getattr(pair, part)
        weight = STRONG if (part == "indices") == is_class else USUAL
        yield propose(
            Check(
                title=f"write {text} instead of {ast.unparse(node)}, for {said}",
                code=text,
                check=lambda value=value: f"it is {tuple(value.shape)} {value.dtype}",  # type: ignore[misc]
                written=replace_expression(crash.error, node, text),
            ),
            weight=weight,
        )
