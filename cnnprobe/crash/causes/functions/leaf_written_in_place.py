from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.grad_mode import is_off
from cnnprobe.operations import is_writing

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
      def forward(self, x):
-         self.fc.weight.clamp_(-1, 1)
+         self.fc.weight.data.clamp_(-1, 1)
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="fc", repair="with torch.no_grad():")


@cause("CP064", "leaf-written-in-place", EXAMPLE, family="inplace-autograd", prior=294)
def leaf_written_in_place(crash: Crash) -> Suspects:
    """A leaf that requires grad is written to in place while autograd records.

    Why it happens: the gradient of a leaf is kept on the leaf itself, so that autograd has no
    place for what it was before.
    What to do: put `with torch.no_grad():` around the line, or compute a new tensor.
    Known exceptions: none.
    Source: torch docs, Autograd mechanics, "In-place operations with autograd".
    """
    call = crash.call
    if call is None or call.fqn is not None or not crash.inputs or not is_writing(call.kind):
        return
    x = crash.inputs[0]
    is_leaf = isinstance(x.source, str) or crash.is_input(x)
    if not x.requires_grad or not is_leaf:
        return
    if not torch.is_grad_enabled() or is_off(crash.error):
        return

    title = "put 'with torch.no_grad():' around {place}"
    wrap = rewrite_call(crash, call, _run_without_grad, title=title, code="with torch.no_grad():")
    copy = rewrite_call(
        crash,
        call,
        _write_to_copy,
        title="compute a new tensor at {place} instead of writing in place",
        code="x.clone()",
    )
    what = f"the parameter '{x.source}'" if isinstance(x.source, str) else "the input"
    yield blame(
        crash.owner_of_parameter(x.source) if isinstance(x.source, str) else crash.owner,
        f"{crash.describe_call(call)} writes in place to {what}, a leaf that requires "
        "grad, while autograd records",
        wrap,
        propose(copy),
        arithmetic=f"{what} {x.shape} requires_grad=True",
    )


def _run_without_grad(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    with torch.no_grad():
        return func(*args, **kwargs)


def _write_to_copy(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    first = args[0].clone() if isinstance(args[0], Tensor) else args[0]
    return func(first, *args[1:], **kwargs)
