import ast
from dataclasses import replace

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import set_argument
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.frames import walk_expression
from cnnprobe.crash.facts.words import read_argument
from cnnprobe.operations import find, find_signature
from cnnprobe.records.trace import ModuleCall

# The argument that counts along a dim, with that of the dim. Source: the page of each function.
_COUNTS = {"topk": ("k", "dim"), "kthvalue": ("k", "dim"), "multinomial": ("num_samples", "")}

_LOOP = """
  model = nn.Linear(6, 4)
  def run(model):
      with torch.no_grad():
-         scores, places = model(torch.randn(3, 6)).topk(5)
+         scores, places = model(torch.randn(3, 6)).topk(4)
      return places
"""
LOOP = Example(_LOOP, repair="ask for at most 4: k=4")
_FORWARD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.score = nn.Conv1d(8, 1, 1)
      def forward(self, x):
          scores = self.score(x).squeeze(1)
-         return torch.topk(scores, 16, dim=1).values
+         return torch.topk(scores, min(16, scores.size(1)), dim=1).values
  model, args = Net(), (torch.randn(2, 8, 12),)
"""
FORWARD = Example(_FORWARD, blames="", repair="ask for at most 12: k=min(16, scores.size(1))")


@cause("CP0H3", "argument-beyond-size", (LOOP, FORWARD), family="index-range", prior=489)
def argument_beyond_size(crash: Crash) -> Suspects:
    """More elements are asked for than a dim has, or a part that begins or ends beyond it.

    Why it happens: the top five of three classes, the best 100 of fewer boxes, a number of
    points of a smaller cloud.
    What to do: ask for at most the size: k=min(5, x.size(1)).
    Known exceptions: slices are cut to the size, and raise nothing.
    Source: torch.topk, torch.kthvalue, torch.multinomial, torch.narrow.
    """
    call = crash.call
    info = find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or not call.inputs or not call.inputs[0].shape:
        return
    if info.name in _COUNTS:
        yield from _explain_count(crash, call, *_COUNTS[info.name])
    elif info.name in ("narrow", "select"):
        yield from _explain_part(crash, call, info.name)


def _explain_count(crash: Crash, call: ModuleCall, argument: str, dim_name: str) -> Suspects:
    x, count = call.inputs[0], read_argument(call, argument)
    dim = read_argument(call, dim_name) if dim_name else -1
    dim = (-1 if dim is None else dim) % len(x.shape)
    is_repeated = not dim_name and read_argument(call, "replacement")
    if not isinstance(count, int) or count <= x.shape[dim] or is_repeated:
        return
    size = x.shape[dim]
    node, receiver = _find_argument(crash, call, argument)
    code = f"{argument}={size}"
    if receiver and node is not None:
        code = f"{argument}=min({ast.unparse(node)}, {receiver}.size({dim}))"
    title = f"ask for at most {size}: {code}"
    edit = set_argument(crash, call, argument, size, title=title, code=code)
    if node is not None:
        text = code.removeprefix(f"{argument}=")
        edit = replace(edit, written=replace_expression(crash.error, node, text))
    message = (
        f"{crash.describe_call(call)} asks for {count} along dim {dim} of {x.shape}, "
        f"which has {size}"
    )
    arithmetic = f"{argument} {count}; {x.shape} from {crash.describe_origin(x)}"
    yield blame(crash.owner, message, edit, arithmetic=arithmetic)


def _find_argument(crash: Crash, call: ModuleCall, name: str) -> tuple[ast.expr | None, str]:
    """The argument as it is written, and the name of the tensor that is called."""
    node = next(iter(walk_expression(crash.error)), None)
    signature = find_signature(call.kind)
    if not isinstance(node, ast.Call) or signature is None:
        return None, ""
    named = next((k.value for k in node.keywords if k.arg == name), None)
    owner = node.func.value if isinstance(node.func, ast.Attribute) else None
    is_method = owner is not None and ast.unparse(owner) not in ("torch", "F")
    at = signature.names.index(name) - is_method if name in signature.names else len(node.args)
    found = named or (node.args[at] if 0 <= at < len(node.args) else None)
    x = owner if is_method else next(iter(node.args), None)
    return found, ast.unparse(x) if isinstance(x, ast.Name | ast.Attribute) else ""


def _explain_part(crash: Crash, call: ModuleCall, name: str) -> Suspects:
    x, dim = call.inputs[0], read_argument(call, "dim")
    start = read_argument(call, "start" if name == "narrow" else "index")
    length = read_argument(call, "length") if name == "narrow" else 1
    if not all(isinstance(n, int) for n in (dim, start, length)) or not -1 < dim < len(x.shape):
        return
    size = x.shape[dim]
    if (0 <= start <= size - length) or (name == "select" and -size <= start < 0):
        return
    message = (
        f"{name} in {crash.describe_module(crash.owner)} takes {start} to "
        f"{start + length - 1} along dim {dim} of {x.shape}, which has {size}"
    )
    yield blame(crash.owner, message, arithmetic=f"{x.shape} from {crash.describe_origin(x)}")
