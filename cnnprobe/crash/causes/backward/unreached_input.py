from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.frames import read_frame

_SCALAR = """
  model = nn.Linear(4, 2)
  def run(model):
      x = torch.randn(3, 4, requires_grad=True)
-     return torch.autograd.grad(model(x), x)
+     return torch.autograd.grad(model(x).sum(), x)
"""
_UNUSED = """
  model = nn.Linear(4, 2)
  def run(model):
      x, z = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4, requires_grad=True)
-     return torch.autograd.grad(model(x).sum(), z)
+     return torch.autograd.grad(model(x).sum(), x)
"""
EXAMPLES = (
    Example(_SCALAR, repair="pass output.sum()", is_tried=False),
    Example(_UNUSED, repair="compute the output from it", is_tried=False),
)


@cause("CP0M9", "unreached-input", EXAMPLES, stage="backward", prior=880)
def unreached_input(crash: Crash) -> Suspects:
    """torch.autograd.grad starts from what is no number, or asks for what the graph does not hold.

    Why it happens: an output of many values needs a gradient of its own, or a sum; the tensor
    whose gradient is asked for is not the one that the output was computed from, such as a
    detached copy.
    What to do: torch.autograd.grad(output.sum(), x); keep the tensor that went into the model.
    Known exceptions: allow_unused=True gives None for what is not used.
    Source: torch.autograd.grad.
    """
    found = read_frame(crash.error, "torch/autograd/__init__.py", "grad")
    if found is None:
        return
    outputs = [t for t in tree_leaves(found.get("outputs")) if isinstance(t, Tensor)]
    inputs = [t for t in tree_leaves(found.get("inputs")) if isinstance(t, Tensor)]
    given = [g for g in tree_leaves(found.get("grad_outputs")) if g is not None]
    many = [t for t in outputs if t.numel() != 1]
    if many and not given:
        shape = tuple(many[0].shape)
        title = "pass output.sum(), or grad_outputs=torch.ones_like(output)"
        message = f"torch.autograd.grad starts from one number, but the output is {shape}"
        yield blame(None, message, title, tensors=tuple(many[:1]))
        return
    unused = [t for t in inputs if t.requires_grad and not _reaches(outputs, t)]
    if unused:
        shape = tuple(unused[0].shape)
        title = "compute the output from it, and from no detached or cloned copy; or pass "
        title += "allow_unused=True, which gives None for it"
        message = f"the output was not computed from the tensor {shape} whose gradient is asked for"
        yield blame(None, message, propose(Advice(title=title)), tensors=tuple(unused[:1]))


def _reaches(outputs: list[Tensor], wanted: Tensor) -> bool:
    """Whether the graph behind the outputs holds a tensor. Only a small graph is looked through."""
    node: Any = wanted.grad_fn
    left = [t.grad_fn for t in outputs if t.grad_fn is not None]
    seen: set[int] = set()
    while left and len(seen) < _MOST_NODES:
        one: Any = left.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if (node is not None and one is node) or getattr(one, "variable", None) is wanted:
            return True
        left += [below for below, _ in one.next_functions if below is not None]
    return bool(left)  # not known


_MOST_NODES = 2000
