import ast
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import get_path, list_calls, list_frames

_LOSSES = "torch/nn/modules/loss.py"

_PROGRAM = """
  model = nn.Linear(8, 3)
  def run(model):
      x, y = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
-     nn.CrossEntropyLoss(model(x), y).backward()
+     nn.CrossEntropyLoss()(model(x), y).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="write nn.CrossEntropyLoss()(output, targets)")


@cause(
    "CP092",
    "loss-class-called",
    EXAMPLE,
    stage=("loss", "backward"),
    family="call-signature",
    prior=810,
)
def loss_class_called(crash: Crash) -> Suspects:
    """A loss class was called with the output and the targets.

    Why it happens: nn.CrossEntropyLoss(...) only constructs the loss. The tensors are taken for
    its options, such as the class weights.
    What to do: construct it first, then call it: nn.CrossEntropyLoss()(output, targets).
    Known exceptions: one tensor may be meant: nn.CrossEntropyLoss(weight).
    Source: PyTorch, torch.nn.CrossEntropyLoss.
    """
    kind, tensors = _find_constructed(crash)
    if kind is None or len(tensors) < 2:
        return
    name = kind.__name__

    def check() -> str:
        with torch.no_grad():
            value = kind()(*tensors)
        return f"the loss passes and gives {float(value):.4g}"

    called = [c for c in list_calls(crash.error) if ast.unparse(c.func).split(".")[-1] == name]
    written = None
    if called:
        text = f"{ast.unparse(called[0].func)}()"
        written = replace_expression(crash.error, called[0].func, text)
    title = f"write nn.{name}()(output, targets): the first parentheses construct the loss"
    edit = Check(title=title, code=f"nn.{name}()", check=check, written=written)
    yield blame(
        None,
        f"nn.{name}(output, target) only constructs the loss, with the tensors as options; "
        "construct it first, then call it",
        propose(edit),
        arithmetic=f"got {', '.join(str(tuple(t.shape)) for t in tensors)}",
        tensors=tuple(tensors),
        raised_in=f"nn.{name}",
    )


def _find_constructed(crash: Crash) -> tuple[Any, list[Tensor]]:
    """The loss class whose constructor raised, and the tensors that it got."""
    for frame in list_frames(crash.error):
        path, made = get_path(frame), frame.f_locals.get("self")
        is_constructor = path.endswith(_LOSSES) and frame.f_code.co_name == "__init__"
        if is_constructor and isinstance(made, nn.Module):
            names = inspect.signature(type(made)).parameters
            given = [frame.f_locals.get(name) for name in names]
            return type(made), [value for value in given if isinstance(value, Tensor)]
    return None, []
