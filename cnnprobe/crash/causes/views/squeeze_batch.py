from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.reshaping import flatten_otherwise
from cnnprobe.crash.facts.products import find_product
from cnnprobe.operations import resolve_name

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 6, 3)
          self.norm = nn.BatchNorm1d(6)
          self.fc = nn.Linear(6, 2)
      def forward(self, x):
-         x = F.adaptive_avg_pool2d(self.conv(x), 1).squeeze()
+         x = F.adaptive_avg_pool2d(self.conv(x), 1).flatten(1)
          return self.fc(self.norm(x))
  model, args = Net().eval(), (torch.randn(1, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="torch.flatten(x, 1)")


@cause("CP007", "squeeze-batch", EXAMPLE, prior=803)
def squeeze_batch(crash: Crash) -> Suspects:
    """squeeze() dropped the batch dim too, because there is one sample.

    Why it happens: squeeze() without a dim drops every dim of size 1. With more samples the batch
    stays; with one (in use, or the rest of an epoch) it goes.
    What to do: torch.flatten(x, 1), or squeeze the dims by number: x.squeeze(-1).squeeze(-1).
    Known exceptions: none.
    Source: docs of torch.squeeze, which warns of exactly this.
    """
    if not crash.inputs or (isinstance(crash.leaf, nn.Linear) and find_product(crash) is None):
        return
    for _, call in crash.walk_back(crash.inputs[0]):
        if resolve_name(call.kind) == "squeeze" and call.fqn is None and call.inputs:
            break
    else:
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if crash.batch != 1 or before[0] != 1 or len(before) < 2:
        return
    if len(after) != sum(n != 1 for n in before):
        return
    yield blame(
        crash.find_module_above(call.parent),
        f"squeeze() dropped the batch dim too, because there is one sample: {before} "
        f"became {after}",
        flatten_otherwise(crash, call),
        arithmetic=f"{crash.describe_call(crash.call) if crash.call else 'it'} got "
        f"{crash.inputs[0].shape}",
    )
