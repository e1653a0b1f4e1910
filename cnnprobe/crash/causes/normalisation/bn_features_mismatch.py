from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure, permute_around
from cnnprobe.crash.facts.expected import ChannelMismatch, find_mismatch
from cnnprobe.crash.facts.words import count_of
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates

_FIRST = """
- model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(16), nn.ReLU())
+ model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
  args = (torch.randn(2, 3, 8, 8),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.proj = nn.Linear(12, 24)
          self.bn = nn.BatchNorm1d(24)
      def forward(self, x):
-         return self.bn(self.proj(x))
+         return self.bn(self.proj(x).transpose(1, 2)).transpose(1, 2)
  model, args = Net(), (torch.randn(4, 7, 12),)
"""
_BLOCK = """
  class Down(nn.Module):
      def __init__(self, cin, cout):
          super().__init__()
          self.norm = nn.BatchNorm2d(cin)
          self.conv = nn.Conv2d(cin, cout, 3)
      def forward(self, x):
          return self.conv(self.norm(x).relu())
  class Net(nn.Module):
      def __init__(self, width=4):
          super().__init__()
          self.stem = nn.Conv2d(3, width, 3)
          self.b = Down(6, 5)
-         self.c = Down(width, 6)
+         self.c = Down(width * 2, 6)
      def forward(self, x):
          x = self.stem(x)
          return self.b(self.c(torch.cat([x, x.relu()], 1)))
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
EXAMPLES = (
    Example(_FIRST, blames="1", repair="num_features=8"),
    Example(_BLOCK, blames="c.norm", repair="set num_features=8 in 'c.norm'"),
    Example(_SECOND, blames="bn", repair="x.transpose(1, 2) to 'bn'"),
)


@cause("CP023", "bn-features-mismatch", EXAMPLES, prior=598)
def bn_features_mismatch(crash: Crash) -> Suspects:
    """A normalisation layer got another number of channels than it was built for.

    Why it happens: the layer before it was changed alone, or a sequence (N, L, C) arrives where
    nn.BatchNorm1d takes the channels from dim 1.
    What to do: set num_features (num_channels of nn.GroupNorm) to what arrives, or transpose.
    Known exceptions: a lazy layer (nn.LazyBatchNorm2d) takes any number at its first call.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """
    if (found := find_mismatch(crash)) is None or found.kind != "norm":
        return
    shape, setting = found.x.shape, found.setting or "a weight"
    expected = count_of(found.expected, "channel")
    message = (
        f"{crash.describe_module(found.module)} expects {expected} ({setting}) but got "
        f"{found.got} (from {crash.describe_origin(found.x)})"
    )
    arithmetic = f"expected {expected} in dim 1, got {shape}"
    yield blame(found.module, message, *_list_candidates(crash, found), arithmetic=arithmetic)


def _list_candidates(crash: Crash, found: ChannelMismatch) -> Candidates:
    shape = found.x.shape
    if not found.setting or found.got < 1:
        return
    is_sequence = len(shape) == 3 and shape[2] == found.expected and not crash.is_input(found.x)
    if is_sequence:
        before, after = permute_around(found.module, (0, 2, 1))
        yield propose(before, after, weight=STRONG)
        yield propose(before, weight=USUAL)
    changes = {found.setting: found.got}
    groups = int(getattr(crash.modules[found.module], "num_groups", 1))
    if found.got % groups:
        fitting = next(n for n in range(groups, 0, -1) if found.got % n == 0)
        changes = {"num_groups": fitting, **changes}
    edit = configure(crash, found.module, **changes)
    yield propose(edit, weight=POSSIBLE if is_sequence else STRONG)
