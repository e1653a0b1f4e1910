import ast
from typing import Any

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import Line, read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      logp = F.log_softmax(model(torch.randn(4, 8)), 1)
-     return -logp.gather(1, y).mean()
+     return -logp.gather(1, y.unsqueeze(1)).mean()
"""
EXAMPLE = Example(_PROGRAM, repair="pass y.unsqueeze(1) to gather")


@cause("CP014", "gather-index-rank", EXAMPLE, stage="loss", family="shape-mismatch", prior=785)
def gather_index(crash: Crash) -> Suspects:
    """The index of gather has one dim less than its tensor.

    Why it happens: gather picks along one dim and keeps the others, so that the index needs as
    many dims as the tensor. Labels of shape (N,) have one.
    What to do: y.unsqueeze(dim) for the index, and squeeze(dim) the result.
    Known exceptions: none; index_select and x[range, y] take an index of one dim.
    Source: PyTorch, torch.gather.
    """
    line = read_failing_line(crash)
    for call in (n for n in line.nodes if isinstance(n, ast.Call)):
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "gather":
            continue
        is_function = isinstance(call.func.value, ast.Name) and call.func.value.id == "torch"
        given = call.args if is_function else [call.func.value, *call.args]
        suspect = _suspect(crash, line, given) if len(given) == 3 else None
        if suspect is not None:
            yield suspect
            return


def _suspect(crash: Crash, line: Line, given: list[ast.expr]) -> Suspect | None:
    x, dim, index = (line.evaluate(node) for node in given)
    if not isinstance(x, Tensor) or not isinstance(index, Tensor) or not isinstance(dim, int):
        return None
    if index.dim() != x.dim() - 1:
        return None
    name = ast.unparse(given[2])
    code = f"{name}.unsqueeze({dim})"
    edit = Check(
        title=f"pass {code} to gather",
        code=code,
        check=lambda: f"it gives {_gather(x, dim, index)}",
        written=replace_expression(crash.error, given[2], code),
    )
    message = (
        f"gather needs an index with as many dims as its tensor {tuple(x.shape)}, "
        f"but {name} is {tuple(index.shape)}"
    )
    arithmetic = f"{x.dim()} dims against {index.dim()}"
    return blame(None, message, propose(edit), arithmetic=arithmetic, tensors=(x, index))


def _gather(x: Tensor, dim: int, index: Any) -> tuple[int, ...]:
    at = index.to(x.device) if x.is_meta else index
    return tuple(x.detach().gather(dim, at.unsqueeze(dim)).shape)
