import ast
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import FailingLine, read_failing_line
from cnnprobe.operations import find_function

_TAKERS = ("gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "take_along_dim")

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      logp = F.log_softmax(model(torch.randn(4, 8)), 1)
-     return -logp.gather(1, y).mean()
+     return -logp.gather(1, y.unsqueeze(1)).mean()
"""
_SECOND = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
-     rows = torch.zeros(len(y), 3).scatter_(1, y, 1.0)
+     rows = torch.zeros(len(y), 3).scatter_(1, y.unsqueeze(1), 1.0)
      return F.mse_loss(model(torch.randn(4, 8)), rows)
"""
EXAMPLES = (
    Example(_PROGRAM, repair="pass y.unsqueeze(1) to gather"),
    Example(_SECOND, repair="pass y.unsqueeze(1) to scatter_"),
)


@cause("CP014", "gather-index-rank", EXAMPLES, stage="loss", family="shape-mismatch", prior=785)
def gather_index(crash: Crash) -> Suspects:
    """The index of gather or scatter has one dim less than its tensor.

    Why it happens: gather picks along one dim and keeps the others, so that the index needs as
    many dims as the tensor. Labels of shape (N,) have one.
    What to do: y.unsqueeze(dim) for the index, and squeeze(dim) the result.
    Known exceptions: none; index_select and x[range, y] take an index of one dim.
    Source: PyTorch, torch.gather.
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or call.func.attr not in _TAKERS:
            continue
        is_function = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        given = call.args if is_function else [call.func.value, *call.args]
        suspect = _suspect(crash, line, given, call.func.attr) if len(given) > 2 else None
        if suspect is not None:
            yield suspect
            return


def _suspect(
    crash: Crash, line: FailingLine, given: list[ast.expr], function: str
) -> Suspect | None:
    x, dim, index = (line.evaluate(node) for node in given[:3])
    x = _make(given[0], line) if x is None else x
    if not isinstance(x, Tensor) or not isinstance(index, Tensor) or not isinstance(dim, int):
        return None
    if index.dim() != x.dim() - 1:
        return None
    name = ast.unparse(given[2])
    code = f"{name}.unsqueeze({dim})"
    edit = Check(
        title=f"pass {code} to {function}",
        code=code,
        check=lambda: f"it gives {_gather(x, dim, index)}",
        written=replace_expression(crash.error, given[2], code),
    )
    message = (
        f"{function} needs an index with as many dims as its tensor {tuple(x.shape)}, "
        f"but {name} is {tuple(index.shape)}"
    )
    arithmetic = f"{x.dim()} dims against {index.dim()}"
    return blame(None, message, propose(edit), arithmetic=arithmetic, tensors=(x, index))


def _gather(x: Tensor, dim: int, index: Any) -> tuple[int, ...]:
    at = index.to(x.device) if x.is_meta else index
    return tuple(x.detach().gather(dim, at.unsqueeze(dim)).shape)


def _make(node: ast.expr, line: FailingLine) -> Any:
    """What a call of torch.zeros and the like gives, on the meta device."""
    info = find_function(node.func.attr) if _is_torchs(node) else None  # type: ignore[attr-defined]
    if info is None or info.effect != "makes":
        return None
    sizes = [_read_size(argument, line) for argument in node.args]  # type: ignore[attr-defined]
    known = [size for size in sizes if isinstance(size, int)]
    return torch.empty(known, device="meta") if len(known) == len(sizes) else None


def _is_torchs(node: ast.expr) -> bool:
    is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    return is_call and ast.unparse(node.func.value) == "torch"  # type: ignore[attr-defined]


def _read_size(node: ast.expr, line: FailingLine) -> Any:
    """A number, or the length of a tensor."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "len" and len(node.args) == 1:
        value = line.evaluate(node.args[0])
        return len(value) if isinstance(value, Tensor) else None
    return line.evaluate(node)
