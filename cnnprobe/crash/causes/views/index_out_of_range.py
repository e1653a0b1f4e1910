import ast
from functools import partial

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.dims import explain_rank, propose_rank
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.facts.words import count_of, read_argument, shorten
from cnnprobe.operations import resolve_name
from cnnprobe.records.trace import ModuleCall

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 3)
      def forward(self, x):
          x = self.fc(x)
-         return x[:, 3]
+         return x[:, 2]
  model, args = Net(), (torch.randn(2, 4),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.lstm = nn.LSTM(4, 6, batch_first=True)
          self.fc = nn.Linear(6, 2)
      def forward(self, x):
          x, _ = self.lstm(x)
          return self.fc(x[:, -1, :])
- model, args = Net(), (torch.randn(7, 4),)
+ model, args = Net(), (torch.randn(1, 7, 4),)
"""
_NUMBER = """
  model = nn.Linear(4, 2)
  def run(model):
      loss = model(torch.randn(3, 4)).mean()
-     print(loss.data[0])
+     print(loss.item())
"""
EXAMPLES = (
    Example(_FIRST, blames=""),
    Example(_SECOND, blames="", repair="x.unsqueeze(0)"),
    Example(_NUMBER, repair="write loss.item() instead of loss.data[0]"),
)


@cause("CP012", "index-out-of-range", EXAMPLES, family="index-range", prior=200)
def index_out_of_range(crash: Crash) -> Suspects:
    """An index is beyond the size of its dim, or for a dim that is not there.

    Why it happens: indices start at 0, so that the last of n is n - 1; or the tensor has fewer
    channels, steps or dims than the code was written for.
    What to do: compare the index with the shape; -1 is the last element of any dim.
    Known exceptions: none.
    Source: docs of torch.Tensor indexing, which follows NumPy.
    """
    if (call := crash.call) is None or not call.inputs or resolve_name(call.kind) != "getitem":
        return
    x, owner = call.inputs[0], crash.describe_module(crash.owner)
    parts = _list_parts(call)
    if not x.shape and parts and (of_number := tuple(_suspect_number(crash))):
        yield from of_number
        return
    if len(parts) > len(x.shape):
        yield blame(
            crash.owner,
            f"{count_of(len(parts), 'index')} for {x.shape} in {owner}, which has "
            f"{count_of(len(x.shape), 'dim')}".replace("indexs", "indices"),
            *propose_rank(crash, x, len(parts)),
            arithmetic=explain_rank(crash, x, len(parts)),
        )
        return
    for dim, index in enumerate(parts):
        if type(index) is int and not -x.shape[dim] <= index < x.shape[dim]:
            yield blame(
                crash.owner,
                f"index {index} in {owner} is out of range for dim {dim} of {x.shape}: "
                f"valid are 0 to {x.shape[dim] - 1}",
                arithmetic=f"{x.shape} from {crash.describe_origin(x)}, at {shorten(call.source)}",
            )
            return


def _suspect_number(crash: Crash) -> Suspects:
    """An index of one number, as code for torch 0.3 reads a loss: item() is what reads it."""
    line = read_failing_line(crash)
    for node in (n for n in line.nodes if isinstance(n, ast.Subscript)):
        base = node.value
        if isinstance(base, ast.Attribute) and base.attr == "data":
            base = base.value
        value = line.evaluate(base)
        if not isinstance(value, Tensor) or value.dim():
            continue
        old, name = ast.unparse(node), ast.unparse(base)
        edit = Check(
            title=f"write {name}.item() instead of {old}",
            code=f"{name}.item()",
            check=partial("it gives {:.4g}".format, value.item()),
            written=replace_expression(crash.error, node, f"{name}.item()"),
        )
        message = f"{name} is one number (0 dims), of which no index can be taken: {old}"
        yield blame(crash.owner, message, propose(edit), arithmetic=f"{name} has the shape ()")
        return


def _list_parts(call: ModuleCall) -> tuple[object, ...]:
    """The parts of an index, one a dim; none where `...`, None or a tensor shifts the dims."""
    value = read_argument(call, "index")
    parts = value if isinstance(value, tuple) else (value,)
    is_shifted = len(call.inputs) > 1 or any(p is None or p == "Ellipsis" for p in parts)
    return () if is_shifted else parts
