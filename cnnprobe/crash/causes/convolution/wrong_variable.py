import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.crash.cause import (
    POSSIBLE,
    STRONG,
    Crash,
    Example,
    Suspect,
    Suspects,
    blame,
    cause,
    propose,
)
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.methods import Method, list_module_calls, open_method
from cnnprobe.crash.facts.products import find_product
from cnnprobe.records.trace import TensorInfo

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
          self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
          self.fc = nn.Linear(32, 10)
      def forward(self, x):
          out = F.relu(self.conv1(x))
-         out = F.relu(self.conv2(x))
+         out = F.relu(self.conv2(out))
          return self.fc(out.mean((2, 3)))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="write self.conv2(out) instead of self.conv2(x)")


@dataclass(frozen=True)
class Variable:
    """A tensor that a forward has assigned to a name, and whether it has read it since."""

    name: str
    value: TensorInfo
    is_read: bool


@cause("CP020", "wrong-variable", EXAMPLE, family="shape-mismatch", prior=705)
def wrong_variable(crash: Crash) -> Suspects:
    """A layer got another variable of the forward than the one that fits it.

    Why it happens: a line was copied, and its argument was left as it was, so that the output of
    the layer before is never used.
    What to do: pass the variable that holds that output.
    Known exceptions: in a network with skip connections several variables may fit.
    Source: the commonest slip of first networks in forum posts.
    """
    mismatch, product = find_mismatch(crash), find_product(crash)
    if mismatch is not None and mismatch.setting:
        noun, module, x = "channels", mismatch.module, mismatch.x
        dim, expected = mismatch.dim, mismatch.expected
    elif product is not None and product.is_layer:
        noun, module, x = "features", product.module, product.x
        dim, expected = -1, product.wanted
    else:
        return
    what = f"expects {expected} {noun}"
    for place, method, call in list_module_calls(crash, module):
        given = call.args[0] if call.args else None
        for one in _list_variables(crash, method, call) if isinstance(given, ast.Name) else ():
            has_rank = len(one.value.shape) == len(x.shape) or (dim == -1 and one.value.shape)
            fits = has_rank and one.value.shape[dim] == expected
            if fits and isinstance(given, ast.Name) and one.name != given.id:
                told = f"{crash.describe_module(place)} {what}, but {given.id} has {x.shape[dim]}"
                yield _suspect(method, call, one, told, x)


def _suspect(method: Method, call: ast.Call, one: Variable, told: str, x: TensorInfo) -> Suspect:
    """Another variable in the place of the one that a layer got."""
    given, other = ast.unparse(call.args[0]), copy.deepcopy(call)
    other.args[0] = ast.Name(one.name)
    edit = replace_node(method, call, ast.unparse(other))
    weight = POSSIBLE if one.is_read else STRONG
    note = "" if one.is_read else " and is not used"
    return blame(
        method.fqn,
        f"{told}; {one.name} fits{note}",
        *(() if edit is None else (propose(edit, weight=weight),)),
        arithmetic=f"{given} is {x.shape}, {one.name} is {one.value.shape}",
        weight=weight,
        needs_proof=True,
    )


def _list_variables(crash: Crash, method: Method, call: ast.Call) -> Iterator[Variable]:
    """The tensors that a forward has assigned to plain names before a call, the latest first."""
    nodes = list(ast.walk(open_method(method.function.__code__)[1]))
    inside = {i for i, row in enumerate(crash.trace.calls) if row.fqn == method.fqn}
    rows = [row for row in crash.trace.calls if row.parent in inside and row.outputs]
    assigned = [n for n in nodes if isinstance(n, ast.Assign) and n.lineno < call.lineno]
    names = [n for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
    seen: set[str] = set()
    for node in sorted(assigned, key=lambda one: -one.lineno):
        target = node.targets[0]
        if not isinstance(target, ast.Name) or target.id in seen:
            continue
        seen.add(target.id)
        made = [row.outputs[0] for row in rows if row.source.endswith(f":{node.lineno}")]
        reads = [n for n in names if n.id == target.id and node.lineno < n.lineno <= call.lineno]
        if made:
            yield Variable(target.id, made[-1], is_read=bool(reads))
