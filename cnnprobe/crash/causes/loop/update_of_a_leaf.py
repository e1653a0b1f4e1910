import ast
from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.frames import find_frames
from cnnprobe.crash.facts.grad_mode import is_off
from cnnprobe.crash.facts.members import read_expression
from cnnprobe.crash.facts.trees import list_nodes, parse_file
from cnnprobe.crash.facts.values import read_failing_line

_PROGRAM = """
  model = nn.Linear(8, 2)
  def run(model):
-     model.weight += 0.1
+     with torch.no_grad():
+         model.weight += 0.1
"""
EXAMPLE = Example(_PROGRAM, repair="put 'with torch.no_grad():' around it", is_tried=False)


@cause(
    "CP0N0",
    "update-of-a-leaf",
    EXAMPLE,
    stage="loss",
    family="leaf-written-in-place",
    prior=848,
)
def update_of_a_leaf(crash: Crash) -> Suspects:
    """The loop changes a parameter in place while autograd records.

    Why it happens: model.weight += 0.1 writes into a leaf, whose gradient autograd keeps on the
    leaf itself.
    What to do: put `with torch.no_grad():` around the line.
    Known exceptions: none.
    Source: torch docs, Autograd mechanics, "In-place operations with autograd".
    """
    if not isinstance(crash.error, RuntimeError) or not torch.is_grad_enabled():
        return
    line = read_failing_line(crash)
    for node in _list_updates(crash):
        value = read_expression(line, node.target)
        if isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
            name = ast.unparse(node.target)
            if not is_off(crash.error):
                yield blame(
                    None,
                    f"{ast.unparse(node)} writes in place to {name}, a leaf that requires grad, "
                    "while autograd records",
                    "put 'with torch.no_grad():' around it",
                    arithmetic=f"{name} {tuple(value.shape)} requires_grad=True",
                    tensors=(value,),
                )
            return


def _list_updates(crash: Crash) -> Iterator[ast.AugAssign]:
    """The statements such as x += 1 on the failing line."""
    frames = find_frames(crash.error)
    tree = parse_file(frames[-1].filename) if frames else None
    number = frames[-1].lineno if frames else 0
    for node in list_nodes(tree) if tree is not None else ():
        if isinstance(node, ast.AugAssign) and node.lineno == number:
            yield node
