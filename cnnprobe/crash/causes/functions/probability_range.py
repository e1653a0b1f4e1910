from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import set_argument
from cnnprobe.crash.facts.frames import get_path, list_frames
from cnnprobe.crash.facts.words import read_argument
from cnnprobe.operations import find

_FORWARD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
-         return self.fc(F.dropout(x, 50, self.training))
+         return self.fc(F.dropout(x, 0.5, self.training))
  model, args = Net(), (torch.randn(3, 8),)
"""
_LAYER = """
  model = nn.Linear(8, 2)
  def run(model):
-     net = nn.Sequential(nn.Dropout(20), model)
+     net = nn.Sequential(nn.Dropout(0.2), model)
      return net(torch.randn(3, 8))
"""
EXAMPLES = (
    Example(_FORWARD, blames="", repair="use p=0.5"),
    Example(_LAYER, repair="write p=0.2", is_tried=False),
)


@cause("CP0L6", "probability-range", EXAMPLES, stage=("forward", "around"), prior=1003)
def probability_range(crash: Crash) -> Suspects:
    """A dropout got a probability that is not between 0 and 1.

    Why it happens: 50 is written for 50%, or a number of features is passed for p.
    What to do: give the share of values that are set to zero: p=0.5.
    Known exceptions: none.
    Source: torch.nn.functional.dropout and torch.nn.Dropout, "p".
    """
    if crash.stage != "forward":
        for frame in list_frames(crash.error):
            owner, p = frame.f_locals.get("self"), frame.f_locals.get("p")
            is_layer = get_path(frame).endswith("torch/nn/modules/dropout.py")
            if is_layer and isinstance(owner, nn.Module) and p is not None and _is_out(p):
                kind = type(owner).__name__
                message = f"nn.{kind} expects a probability from 0 to 1, but got {p}"
                yield blame(None, message, f"write p={_guess(p)}", arithmetic=f"p={p}")
                return
        return
    call = crash.call
    info = find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or "dropout" not in info.name:
        return
    p = read_argument(call, "p")
    if p is not None and _is_out(p):
        message = f"{crash.describe_call(call)} expects a probability from 0 to 1, but got {p}"
        edit = set_argument(crash, call, "p", _guess(p))
        yield blame(crash.owner, message, edit, arithmetic=f"p={p}")


def _is_out(p: object) -> bool:
    return isinstance(p, int | float) and not 0 <= p <= 1


def _guess(p: float) -> float:
    """What is meant: a share that was written in percent, or the default."""
    share = p / 100 if p > 1 else -p
    return share if 0 <= share <= 1 else 0.5
