from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_tensor
from cnnprobe.crash.edits.calls import AdaptOutput
from cnnprobe.crash.edits.images import convert_images
from cnnprobe.crash.facts.dims import find_turn, leave_out
from cnnprobe.crash.facts.expected import ChannelMismatch, find_mismatch
from cnnprobe.crash.facts.windows import is_channels_first
from cnnprobe.crash.facts.words import count_of, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates

_FIRST = """
  model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
  images = torch.rand(2, 32, 32, 3)
- args = (images,)
+ args = (images.permute(0, 3, 1, 2),)
"""
_SECOND = """
  model = nn.Sequential(nn.Conv3d(3, 8, 3), nn.ReLU())
  clips = torch.rand(2, 8, 3, 16, 16)
- args = (clips,)
+ args = (clips.transpose(1, 2),)
"""
_TURNED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.body, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 1)
      def forward(self, x):
          x = self.body(x)
-         x = torch.permute(x, (0, 2, 3, 1))
          return self.head(x.relu())
  model, args = Net(), (torch.randn(2, 3, 9, 12),)
"""
EXAMPLES = (
    Example(_TURNED, blames="head", repair="leave out permute"),
    Example(_FIRST, blames="0", repair="permute(0, 3, 1, 2)"),
    Example(_SECOND, blames="0", repair="permute(0, 2, 1, 3, 4)"),
)


@cause("CP018", "nhwc-input", EXAMPLES, prior=700)
def nhwc_input(crash: Crash) -> Suspects:
    """The channels are in another dim than the one where torch looks for them.

    Why it happens: images of numpy, PIL, OpenCV and TensorFlow are (N, H, W, C), series are often
    (N, L, C), and clips (N, T, C, H, W). torch takes (N, C, H, W), (N, C, L) and (N, C, T, H, W).
    What to do: permute the tensor, e.g. x.permute(0, 3, 1, 2), where the data is made.
    Known exceptions: torch.channels_last is another thing; it changes the memory, not the shape.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.permute.html
    """
    found = find_mismatch(crash)
    if found is None or found.kind not in ("conv", "norm") or is_channels_first(crash, found.x):
        return
    shape, is_input = found.x.shape, crash.is_input(found.x)
    if found.is_unbatched and not is_input and shape[0] == crash.batch:
        return
    if found.kind == "norm" and found.rank == 3 and not is_input:
        return  # the output of a layer of sequences: it is to be turned back after the norm
    last = found.rank - 1
    is_image = is_input and found.dims == 2 and found.got > 4 and shape[last] in (1, 3, 4)
    # (N, C, S, S), where S is the number of channels by chance
    is_square = found.rank > 3 and shape[-1] == shape[-2] != shape[1]
    dims = range(2, last - 1 if is_square else last)
    if last != found.dim and not is_square and (is_image or shape[last] == found.expected):
        yield _suspect_dim(crash, found, last)
    inner = [i for i in dims if shape[i] == found.expected]
    if len(inner) == 1 and is_input and not found.is_unbatched:
        yield _suspect_dim(crash, found, inner[0])


def _suspect_dim(crash: Crash, found: ChannelMismatch, at: int) -> Suspect:
    shape, start = found.x.shape, 0 if found.is_unbatched else 1
    rest = [i for i in range(start, found.rank) if i != at]
    order = (*range(start), at, *rest)
    weight = STRONG if found.kind == "conv" else USUAL
    others = ", ".join(str(shape[i]) for i in rest)
    return blame(
        found.module,
        f"{crash.describe_module(found.module)} expects "
        f"{count_of(found.expected, 'channel')} in dim {found.dim}, but {shape} has "
        f"{shape[at]} in dim {at}",
        *_turn(crash, found, order, weight),
        arithmetic=f"expected (N, {found.expected}, {others}), got {shape}",
        weight=weight,
    )


def _turn(crash: Crash, found: ChannelMismatch, order: tuple[int, ...], weight: int) -> Candidates:
    code = "{x}.permute(" + ", ".join(map(str, order)) + ")"
    code += "[None]" if found.is_unbatched else ""

    def turn(x: Tensor) -> Tensor:
        return x.permute(order)[None] if found.is_unbatched else x.permute(order)

    moved = find_turn(crash, found.x, found.dim, found.expected)
    if moved is not None:
        yield propose(leave_out(crash, moved), weight=STRONG + 1)
    edit = adapt_tensor(crash, found.x, turn, code)
    shape = (1,) * found.is_unbatched + tuple(found.x.shape[i] for i in order)
    if shape[1] != found.expected:  # images with an alpha channel, or grey ones
        for other in convert_images(crash, found.x, shape, 1, found.expected):
            yield propose(edit, other, weight=weight)
        return
    yield propose(edit, weight=weight)
    producer = crash.find_producer(found.x)
    if producer is not None and producer.fqn is not None:
        title = f"use {code.format(x=quote(producer.fqn) + '(...)')}"
        after = AdaptOutput(title=title, code=code, module=producer.fqn, function=turn)
        yield propose(after, weight=weight)
