from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure, list_alike, permute_around, resize_input
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.features import USUAL_SIZES
from cnnprobe.crash.facts.windows import LARGEST_INPUT, apply_windows, is_channels_first, list_steps
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.records.trace import TensorInfo

_FIRST = """
- model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(8))
+ model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16))
  args = (torch.randn(4, 8),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 24, 7, padding=3)
          self.norm = nn.LayerNorm(24)
      def forward(self, x):
          x = self.conv(x)
-         x = self.norm(x)
+         x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
          return x
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
_BLOCKS = """
  class Block(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(8, 8, 3, padding=1)
          self.norm = nn.LayerNorm(8)
      def forward(self, x):
-         return x + self.norm(self.conv(x))
+         return x + self.norm(self.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
  model, args = nn.Sequential(Block(), Block()), (torch.randn(2, 8, 6, 6),)
"""
EXAMPLES = (
    Example(_BLOCKS, blames="0.norm", repair="permute(0, 2, 3, 1) to '1.norm'"),
    Example(_FIRST, blames="1", repair="normalized_shape=16"),
    Example(_SECOND, blames="norm", repair="permute(0, 2, 3, 1) to 'norm'"),
)


@cause("CP024", "layer-norm-shape", EXAMPLES, family="bn-features-mismatch", prior=597)
def layer_norm_shape(crash: Crash) -> Suspects:
    """A LayerNorm got a tensor whose last dims are not its normalized_shape.

    Why it happens: nn.LayerNorm normalises the last dims. After a convolution these are height and
    width, and the channels are in dim 1.
    What to do: set normalized_shape to the last size, or permute the channels to the end and back.
    Known exceptions: nn.GroupNorm(1, C) normalises over channels, height and width at once.
    Source: Liu et al. 2022, "A ConvNet for the 2020s", arXiv:2201.03545, for (N, H, W, C) inside.
    """
    layer, call = crash.leaf, crash.call
    if not isinstance(layer, nn.LayerNorm | nn.RMSNorm) or call is None or not call.inputs:
        return
    x, expected = call.inputs[0], tuple(layer.normalized_shape)
    got = x.shape[-len(expected) :]
    candidates = tuple(_list_candidates(crash, x, expected))
    if got == expected or not candidates:
        return
    message = (
        f"{crash.describe_module(call.fqn or '')} expects {expected} for the last "
        f"{'dim' if len(got) == 1 else 'dims'} (normalized_shape) but got {got}"
    )
    arithmetic = f"{crash.describe_origin(x)} gives {x.shape}"
    yield blame(call.fqn, message, *candidates, arithmetic=arithmetic)


def _list_candidates(crash: Crash, x: TensorInfo, expected: tuple[int, ...]) -> Candidates:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    got, rank = x.shape[-len(expected) :], len(x.shape)
    is_map = len(expected) == 1 and rank > 2 and x.shape[1] == expected[0]
    if is_map:
        group = f"nn.GroupNorm(1, {expected[0]})"
        title = f"make {quote(fqn)} an {group}"
        edit = Exchange(
            title=title, code=group, module=fqn, layer=lambda _old: nn.GroupNorm(1, expected[0])
        )
        yield propose(edit, weight=USUAL)
    if is_map and is_channels_first(crash, x):
        # The last dim is a size of the image, which is none of the layer.
        before, after = permute_around(fqn, (0, *range(2, rank), 1))
        yield propose(before, after, weight=STRONG)
        yield propose(before, weight=POSSIBLE)
        called = {call.fqn for call in crash.trace.calls}
        later = [name for name in list_alike(crash, fqn) if name not in called]
        order = (0, *range(2, rank), 1)
        every = [edit for name in (fqn, *later) for edit in permute_around(name, order)]
        if later:
            yield propose(*every, weight=STRONG)
    elif len(got) == len(expected):
        yield from _resize_input(crash, x, expected)
        shape = got if len(got) > 1 else got[0]
        yield propose(configure(crash, fqn, normalized_shape=shape), weight=USUAL)


def _resize_input(crash: Crash, x: TensorInfo, expected: tuple[int, ...]) -> Candidates:
    """An input of the size for which a layer over channels, height and width was built."""
    n, steps = len(x.shape) - 2, list_steps(crash, x)
    if len(expected) != n + 1 or x.shape[1] != expected[0] or not crash.root_inputs:
        return
    if not steps or steps[0].before != crash.root_inputs[0].shape[-n:]:
        return
    windows = [step.window for step in steps]
    for size in (*USUAL_SIZES, *range(1, LARGEST_INPUT + 1)):
        if apply_windows(windows, (size,) * n) == expected[1:]:
            yield propose(resize_input((size,) * n, exact=True), weight=STRONG)
            return
