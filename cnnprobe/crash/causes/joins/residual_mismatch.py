import math
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.parts import Project, match_inputs, resize_part
from cnnprobe.crash.facts.branches import suspect_layers
from cnnprobe.crash.facts.channels import suspect_channels
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.facts.operands import Operands, count_layers, find_operands, is_enlarged
from cnnprobe.crash.facts.words import count_elements, quote
from cnnprobe.operations import read_name
from cnnprobe.records.trace import TensorInfo

_FIRST = """
  class Block(nn.Module):
      def __init__(self, c_in, c_out, stride):
          super().__init__()
          self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
          self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
-         self.down = nn.Identity()
+         self.down = nn.Conv2d(c_in, c_out, 1, stride=stride)
      def forward(self, x):
          return F.relu(self.conv2(F.relu(self.conv1(x))) + self.down(x))
  model, args = Block(8, 16, 2), (torch.randn(2, 8, 16, 16),)
"""
_SECOND = """
  class Block(nn.Module):
      def __init__(self):
          super().__init__()
          self.first = nn.Conv2d(4, 4, 3, padding=1)
-         self.second = nn.Conv2d(4, 4, 3)
+         self.second = nn.Conv2d(4, 4, 3, padding=1)
      def forward(self, x):
          return x + self.second(F.relu(self.first(x)))
  model, args = Block(), (torch.randn(2, 4, 12, 12),)
"""
_LARGER = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 12, 3, padding=1)
          self.up = nn.PixelShuffle(2)
      def forward(self, x):
-         return x + self.up(self.conv(x))
+         return F.interpolate(x, scale_factor=2) + self.up(self.conv(x))
  model, args = Net(), (torch.randn(2, 3, 6, 6),)
"""
EXAMPLES = (
    Example(_LARGER, blames="", repair="F.interpolate(x, size="),
    Example(_FIRST, blames="", repair="nn.Conv2d(8, 16, kernel_size=1, stride=2)"),
    Example(_SECOND, blames="second", repair="padding=1"),
)


@cause("CP033", "residual-mismatch", EXAMPLES, prior=398)
def residual_mismatch(crash: Crash) -> Suspects:
    """The two tensors of an addition differ in their channels or their height and width.

    Why it happens: a block that changes channels or stride adds its input as it is, or a layer of
    the branch lacks its padding.
    What to do: pass the shortcut through a 1x1 convolution of the same stride, or set the padding
    with which the branch keeps its size.
    Known exceptions: dims of size 1 are broadcast.
    Source: He et al. 2016, "Deep Residual Learning", section 3.2, arXiv:1512.03385.
    """
    pair = find_operands(crash)
    if pair is None or pair.parameter is not None or not (pair.is_sum and pair.is_even):
        return
    if len(pair.a.shape) < 2:
        return
    shortcut, branch = sorted((pair.a, pair.b), key=lambda t: count_layers(crash, t))
    message = (
        f"{read_name(pair.call.kind)} in {crash.describe_module(crash.owner)}:"
        f" {shortcut.shape} and {branch.shape} do not fit"
    )
    arithmetic = write_parts(crash, (shortcut, branch))
    yield from suspect_layers(crash, (shortcut, branch), message, arithmetic)
    yield from suspect_channels(crash, shortcut, branch, message, arithmetic)
    candidates = [
        *match_inputs(crash, (pair.a, pair.b)),
        *_project(crash, pair, shortcut.shape, branch.shape),
        *_resize(crash, pair, shortcut, branch),
    ]
    yield blame(crash.owner, message, *candidates, arithmetic=arithmetic)


def _project(
    crash: Crash, pair: Operands, shortcut: tuple[int, ...], branch: tuple[int, ...]
) -> Candidates:
    """A layer of its own for the shortcut: a Linear, or a 1x1 convolution."""
    sizes = list(zip(shortcut[2:], branch[2:], strict=True))
    if shortcut[0] != branch[0] or len(shortcut) > 5 or not all(m >= n > 0 for m, n in sizes):
        return
    given: dict[str, Any] = {}
    kind: Any = nn.Linear
    if sizes:
        kind = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
        strides = tuple(math.ceil(m / n) for m, n in sizes)
        given["kernel_size"] = 1
        if set(strides) != {1}:
            given["stride"] = strides[0] if len(set(strides)) == 1 else strides
    arguments = [str(shortcut[1]), str(branch[1]), *(f"{k}={v}" for k, v in given.items())]
    code = f"nn.{kind.__name__}({', '.join(arguments)})"
    project = Project(
        title=f"pass the shortcut through a layer of its own in {quote(crash.owner)}: {code}",
        code=code,
        module=crash.owner,
        kind=pair.call.kind,
        source=pair.call.source,
        layer=lambda: kind(shortcut[1], branch[1], **given),
        shortcut=shortcut,
        branch=branch,
    )
    yield propose(project)


def _grows(crash: Crash, info: TensorInfo) -> bool:
    """Whether a map was made larger on its way: by a PixelShuffle, or a transposed convolution."""
    rows = [row for _, row in crash.walk_back(info) if row.inputs and row.outputs]
    pairs = [(row.inputs[0].shape[2:], row.outputs[0].shape[2:]) for row in rows]
    return any(len(a) == len(b) > 0 and a < b for a, b in pairs)


def _resize(crash: Crash, pair: Operands, shortcut: TensorInfo, branch: TensorInfo) -> Candidates:
    """Maps of two resolutions, as in the gate of an attention U-Net: the larger size first."""
    if len(shortcut.shape) < 3 or shortcut.shape[:2] != branch.shape[:2]:
        return
    if len(pair.call.inputs) != 2:
        return
    if not count_layers(crash, shortcut)[0]:  # as it came: the branch is to keep its size
        if _grows(crash, branch):
            yield propose(resize_part(crash, pair.call, shortcut, branch))
        return

    def rank(two: tuple[TensorInfo, TensorInfo]) -> tuple[bool, int]:
        return not is_enlarged(crash, two[0]), count_elements(two[0].shape)

    for part, like in sorted(((shortcut, branch), (branch, shortcut)), key=rank):
        yield propose(resize_part(crash, pair.call, part, like))
