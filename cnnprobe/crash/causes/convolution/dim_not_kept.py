from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.facts.dims import keep_dim
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.joins import list_ancestors
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Attention(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(2, 1, 7, padding=3)
      def forward(self, x):
-         mean = x.mean(dim=1)
+         mean = x.mean(dim=1, keepdim=True)
-         most = torch.amax(x, dim=1)
+         most = torch.amax(x, dim=1, keepdim=True)
          return x * self.conv(torch.cat([mean, most], dim=1)).sigmoid()
  model, args = Attention(), (torch.randn(3, 8, 6, 5),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="keep the dim in mean")


@cause("CP0H8", "dim-not-kept", EXAMPLE, family="channel-mismatch", prior=697)
def dim_not_kept(crash: Crash) -> Suspects:
    """A mean or maximum has dropped the dim in which the next convolution looks for channels.

    Why it happens: mean(dim=1) of (N, C, H, W) gives (N, H, W), which torch takes for one image of
    N channels; two of them beside one another have twice the height.
    What to do: mean(dim=1, keepdim=True), and the same for max.
    Known exceptions: of a map that is meant to be one image, the batch may be what lacks.
    Source: Woo et al. 2018, "CBAM", section 3, arXiv:1807.06521.
    """
    found = find_mismatch(crash)
    if found is None or not found.is_unbatched or found.is_first:
        return
    rows = [crash.trace.calls[i] for i in sorted(list_ancestors(crash, found.x))]
    dropped = [row for row in rows if _drops_dim(row, found.rank + 1)]
    if not dropped:
        return
    made = "; ".join(f"{crash.describe_call(row)} gives {row.outputs[0].shape}" for row in dropped)
    yield blame(
        crash.find_module_above(dropped[0].parent),
        f"{crash.describe_call(dropped[0])} drops the dim of the channels: "
        f"{dropped[0].inputs[0].shape} became {dropped[0].outputs[0].shape}",
        propose(*(keep_dim(crash, row) for row in dropped), weight=STRONG),
        arithmetic=made,
        needs_proof=True,
    )


def _drops_dim(row: ModuleCall, rank: int) -> bool:
    """Whether a call is a reduction that made a tensor of a dim less."""
    info = find(row) if row.fqn is None else None
    if info is None or info.effect != "reduces" or not row.inputs or not row.outputs:
        return False
    return len(row.inputs[0].shape) == rank == len(row.outputs[0].shape) + 1
