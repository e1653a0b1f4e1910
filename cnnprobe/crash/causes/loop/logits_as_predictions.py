import ast

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 5)
  def run(model):
      y = torch.tensor([0, 1, 2, 0])
      output = model(torch.randn(4, 8))
-     return (output == y).float().mean()
+     return (output.argmax(1) == y).float().mean()
"""
EXAMPLE = Example(_PROGRAM, repair="use output.argmax(1)")


@cause("CP0G8", "logits-as-predictions", EXAMPLE, stage="loss", family="shape-mismatch", prior=855)
def logits_as_predictions(crash: Crash) -> Suspects:
    """Logits are compared with class indices.

    Why it happens: the model gives a value for each class, (N, C); the labels are one index for
    each sample, (N,).
    What to do: compare the index of the greatest: output.argmax(1) == y.
    Known exceptions: none.
    Source: PyTorch, torch.argmax.
    """
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Compare) and len(n.comparators) == 1):
        for logits, labels in ((node.left, node.comparators[0]), (node.comparators[0], node.left)):
            x, y = line.evaluate(logits), line.evaluate(labels)
            if isinstance(x, Tensor) and isinstance(y, Tensor) and _is_index(x, y):
                yield _suspect(crash, logits, (x, y))
                return


def _is_index(x: Tensor, y: Tensor) -> bool:
    is_index = not y.is_floating_point() and x.is_floating_point() and x.dim() > 1
    return is_index and y.shape == (*x.shape[:1], *x.shape[2:])


def _suspect(crash: Crash, node: ast.expr, tensors: tuple[Tensor, Tensor]) -> Suspect:
    x, y = tensors
    code = f"{ast.unparse(node)}.argmax(1)"

    def check() -> str:
        return f"it gives {tuple((x.detach().to(y.device).argmax(1) == y).shape)}"

    edit = Check(
        title=f"use {code}",
        code=code,
        check=check,
        written=replace_expression(crash.error, node, code),
    )
    message = f"logits {tuple(x.shape)} are compared with class indices {tuple(y.shape)}"
    arithmetic = f"{x.shape[1]} values for each sample against one index"
    return blame(None, message, propose(edit), arithmetic=arithmetic, tensors=tensors)
