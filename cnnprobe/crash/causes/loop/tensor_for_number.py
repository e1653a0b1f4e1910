import ast
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import FailingLine, read_failing_line

_NUMBERS = ("float", "int")
_ITEM = """
  model = nn.Linear(8, 2)
  def run(model):
      losses = model(torch.randn(4, 8)).square()
-     return losses.item()
+     return losses.mean().item()
"""
_FORMAT = """
  model = nn.Linear(8, 2)
  def run(model):
      losses = model(torch.randn(4, 8)).square()
-     return f"loss {losses:.4f}"
+     return f"loss {losses.mean().item():.4f}"
"""
_INDEX = """
  model = nn.Linear(8, 2)
  def run(model):
      names = ["cat", "dog"]
      found = model(torch.randn(4, 8)).argmax(1)
-     return names[found]
+     return [names[i] for i in found.tolist()]
"""
EXAMPLES = (
    Example(_ITEM, repair="write losses.mean().item()"),
    Example(_FORMAT, repair="write losses.mean().item()"),
    Example(_INDEX, repair="write [names[i] for i in found.tolist()]"),
)


@cause("CP0M5", "tensor-for-number", EXAMPLES, stage="around", family="non-scalar-loss", prior=846)
def tensor_for_number(crash: Crash) -> Suspects:
    """A tensor of several values stands where one number is needed.

    Why it happens: .item(), float() and a format such as :.4f take one value; a loss with
    reduction="none" or of several GPUs has more. A list takes one index at a time.
    What to do: reduce it first, x.mean().item(); index a list for each value.
    Known exceptions: a tensor of one value is a number, whatever its shape.
    Source: torch.Tensor.item.
    """
    line = read_failing_line(crash)
    for node in line.nodes:
        if (found := _find(line, node)) is None:
            continue
        part, value, whole, code = found
        shape = tuple(value.shape)

        def check(value: Tensor = value, *, is_list: bool = code.startswith("[")) -> str:
            return (
                f"it gives {len(value)} entries" if is_list else f"it is {float(value.mean()):.4g}"
            )

        name = ast.unparse(part)
        edit = Check(
            title=f"write {code} instead of {ast.unparse(whole)}",
            code=code,
            check=check,
            written=replace_expression(crash.error, whole, code),
        )
        message = f"{name} has {value.numel()} values, {shape}, where one number is needed"
        yield blame(None, message, propose(edit), tensors=(value,))
        return


def _find(line: FailingLine, node: ast.AST) -> tuple[ast.expr, Tensor, ast.expr, str] | None:
    """The tensor, what stands in its place, and what to write for that."""
    match node:
        case ast.Call(func=ast.Attribute(value=part, attr="item"), args=[]):
            whole: ast.expr = node
        case ast.Call(func=ast.Name(id=name), args=[part]) if name in _NUMBERS:
            whole = node
        case ast.FormattedValue(value=part, format_spec=spec) if spec is not None:
            whole = part
        case ast.Subscript(value=ast.Name(id=name), slice=part) if isinstance(
            line.names.get(name), list | tuple
        ):
            value: Any = line.evaluate(part)
            if _is_many(value) and value.dim() == 1:
                text = ast.unparse(part)
                return part, value, node, f"[{name}[i] for i in {text}.tolist()]"
            return None
        case _:
            return None
    value = line.evaluate(part)
    if not _is_many(value) or not value.is_floating_point():
        return None
    return part, value, whole, f"{ast.unparse(part)}.mean().item()"


def _is_many(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_meta and value.numel() > 1
