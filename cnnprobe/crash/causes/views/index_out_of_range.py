from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.dims import explain_rank, propose_rank
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
EXAMPLES = (Example(_FIRST, blames=""), Example(_SECOND, blames="", repair="x.unsqueeze(0)"))


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


def _list_parts(call: ModuleCall) -> tuple[object, ...]:
    """The parts of an index, one a dim; none where `...`, None or a tensor shifts the dims."""
    value = read_argument(call, "index")
    parts = value if isinstance(value, tuple) else (value,)
    is_shifted = len(call.inputs) > 1 or any(p is None or p == "Ellipsis" for p in parts)
    return () if is_shifted else parts
