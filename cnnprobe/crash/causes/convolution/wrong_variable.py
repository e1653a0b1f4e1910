import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.methods import Method, find_method, open_method
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
    place = _find_place(crash, module)
    method, call = _find_call(crash, place)
    given = call.args[0] if call is not None and call.args else None
    if method is None or call is None or not isinstance(given, ast.Name):
        return
    for one in _list_variables(crash, method, call):
        has_rank = len(one.value.shape) == len(x.shape) or (dim == -1 and one.value.shape)
        if not has_rank or one.value.shape[dim] != expected or one.name == given.id:
            continue
        other = copy.deepcopy(call)
        other.args[0] = ast.Name(one.name)
        edit = replace_node(method, call, ast.unparse(other))
        weight = POSSIBLE if one.is_read else STRONG
        note = "" if one.is_read else " and is not used"
        yield blame(
            method.fqn,
            f"{crash.describe_module(place)} expects {expected} {noun}, but {given.id} has "
            f"{x.shape[dim]}; {one.name} has {expected}{note}",
            *(() if edit is None else (propose(edit, weight=weight),)),
            arithmetic=f"{given.id} is {x.shape}, {one.name} is {one.value.shape}",
            weight=weight,
            needs_proof=True,
        )


def _find_place(crash: Crash, module: str) -> str:
    """The outermost module that was handed the very tensor that reached a layer."""
    index, place, source = crash.index, module, crash.inputs[0].source
    above = crash.trace.calls[index].parent if index is not None else None
    while above:
        parent = crash.trace.calls[above]
        if not parent.inputs or parent.inputs[0].source != source or parent.fqn is None:
            break
        place, above = parent.fqn, parent.parent
    return place


def _find_call(crash: Crash, place: str) -> tuple[Method | None, ast.Call | None]:
    """The method of the user's that called a module, and the call; None where there are several."""
    row = next((row for row in reversed(crash.trace.calls) if row.fqn == place), None)
    owner = crash.find_module_above(row.parent) if row is not None else ""
    method = find_method(crash.modules[owner], owner) if row is not None else None
    if method is None or row is None:
        return None, None
    name, line = place.removeprefix(f"{owner}." if owner else ""), row.source.rpartition(":")[2]
    calls = [
        node
        for node in ast.walk(open_method(method.function.__code__)[1])
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == f"self.{name}"
        and str(node.lineno) == line
    ]
    return method, calls[0] if len(calls) == 1 else None


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
