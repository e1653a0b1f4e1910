import re

from torch import nn

from cnnprobe.crash.cause import STRONG, Candidate, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.facts.channels import find_channel_maker
from cnnprobe.crash.facts.expected import ChannelMismatch, find_mismatch
from cnnprobe.crash.facts.words import quote
from cnnprobe.operations import find
from cnnprobe.records.trace import TensorInfo

_LISTS = (nn.ModuleList, nn.Sequential)
_NUMBER = re.compile(r"\d+")

_PROGRAM = """
  class DenseLayer(nn.Module):
      def __init__(self, channels, growth):
          super().__init__()
          self.norm = nn.BatchNorm2d(channels)
-         self.conv = nn.Conv2d(channels, 2 * growth, 3, padding=1)
+         self.conv = nn.Conv2d(channels, growth, 3, padding=1)
      def forward(self, x):
          return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)
  model = nn.Sequential(
      nn.Conv2d(3, 8, 3), DenseLayer(8, 4), DenseLayer(12, 4), DenseLayer(16, 4)
  )
  args = (torch.randn(2, 3, 8, 8),)
"""
_SECOND = """
  class DenseLayer(nn.Module):
      def __init__(self, channels):
          super().__init__()
          self.norm = nn.BatchNorm2d(channels)
          self.conv = nn.Conv2d(channels, 4, 3, padding=1)
      def forward(self, x):
          return torch.cat([x, self.conv(F.relu(self.norm(x)))], dim=1)
- block = nn.Sequential(*[DenseLayer(8) for i in range(3)])
+ block = nn.Sequential(*[DenseLayer(8 + i * 4) for i in range(3)])
  model = nn.Sequential(nn.Conv2d(3, 8, 3), block, nn.Conv2d(20, 2, 1))
  args = (torch.randn(2, 3, 8, 8),)
"""
EXAMPLES = (
    Example(_PROGRAM, blames="1.conv", repair="out_channels=4 in the 3 layers"),
    Example(_SECOND, blames="1.1.norm", repair="build layer i of '1' for 8 + i * 4 channels"),
)


@cause("CP016", "dense-block-growth", EXAMPLES, family="channel-mismatch", prior=695)
def dense_block_growth(crash: Crash) -> Suspects:
    """The layers of a dense block add another number of channels than the next layer expects.

    Why it happens: each layer's output is concatenated to its input, so that the channels grow by
    out_channels a layer. The next layer was built for another growth.
    What to do: set out_channels of these layers to the growth that the others were built for.
    Known exceptions: with one such layer alone, it is as likely that the next one is wrong.
    Source: Huang et al. 2017, "Densely Connected Convolutional Networks", arXiv:1608.06993.
    """
    if (found := find_mismatch(crash)) is None:
        return
    joined = _list_joined(crash, found.x)
    yield from _suspect_widths(crash, found, joined)
    for part in reversed(joined):
        maker = _find_maker(crash, part)
        count = found.expected - sum(t.shape[1] for t in joined if t is not part)
        if maker is None or count < 1 or count == part.shape[1]:
            continue
        family = _list_siblings(crash, maker)
        if len(family) < 2:  # one layer alone is as likely to be right as the layer that raised
            continue
        names = ", ".join(map(quote, family[:3])) + (", ..." if len(family) > 3 else "")
        summary = f"set out_channels={count} in the {len(family)} layers {names}"
        edits = tuple(configure(crash, fqn, out_channels=count) for fqn in family)
        sizes = " + ".join(str(t.shape[1]) for t in joined)
        yield blame(
            maker,
            f"{crash.describe_module(maker)} adds {part.shape[1]} channels to the "
            f"concatenation, but {crash.describe_module(found.module)} expects "
            f"{found.expected} in all: {count} would fit",
            Candidate(edits=edits, weight=STRONG, summary=f"{summary} (now {part.shape[1]})"),
            arithmetic=f"{sizes} = {found.got} channels after cat; {found.expected} expected",
            needs_proof=True,
        )


def _list_joined(crash: Crash, x: TensorInfo) -> list[TensorInfo]:
    """The tensors that were concatenated along the channels, with the same shape since."""
    for _, call in crash.walk_back(x):
        if not call.outputs or call.outputs[0].shape != x.shape:
            return []
        info = find(call)
        if info is not None and info.name == "cat":
            parts = list(call.inputs)
            is_map = all(len(t.shape) > 2 for t in parts)
            return parts if is_map and sum(t.shape[1] for t in parts) == x.shape[1] else []
    return []


def _find_maker(crash: Crash, part: TensorInfo) -> str | None:
    """The convolution that decides how many channels a tensor has."""
    fqn, norms = find_channel_maker(crash, part) or ("", [])
    layer = crash.modules.get(fqn)
    is_convolution = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == 1
    return fqn if is_convolution and not norms else None


def _list_siblings(crash: Crash, fqn: str) -> list[str]:
    """The layers that only a number in their names tells from one: as many channels, one class."""
    like = crash.modules[fqn]
    return [
        name
        for name, module in crash.modules.items()
        if _NUMBER.sub("#", name) == _NUMBER.sub("#", fqn)
        and type(module) is type(like)
        and getattr(module, "out_channels", None) == like.out_channels
    ]


def _suspect_widths(crash: Crash, found: ChannelMismatch, joined: list[TensorInfo]) -> Suspects:
    """Layers that were all built for the width of the first: each gets the growth more."""
    later = _list_later(crash, found.module)
    growth = found.got - found.expected
    if not joined or growth < 1 or len(later) < 2 or joined[-1].shape[1] != growth:
        return
    edits = [
        configure(crash, name, **{setting: found.got + i * growth})
        for i, block in enumerate(later)
        for name, setting in _list_inner(crash, block, found.expected)
    ]
    place = quote(later[0].rpartition(".")[0])
    yield blame(
        found.module,
        f"{crash.describe_module(found.module)} expects {found.expected} channels, as many as the "
        f"first layer of {place} got; each layer before it adds {growth}",
        Candidate(
            edits=tuple(edits),
            weight=STRONG,
            summary=f"build layer i of {place} for {found.expected} + i * {growth} channels",
        ),
        arithmetic=f"{' + '.join(str(t.shape[1]) for t in joined)} = {found.got} channels after "
        f"cat; {found.expected} expected",
        needs_proof=True,
    )


def _list_later(crash: Crash, fqn: str) -> list[str]:
    """The block of a list that a layer is in, and those after it of its class."""
    block = fqn
    while block and not isinstance(crash.modules[block.rpartition(".")[0]], _LISTS):
        block = block.rpartition(".")[0]
    if not block:
        return []
    place, _, name = block.rpartition(".")
    names = list(crash.modules[place]._modules)
    after = [f"{place}.{n}".lstrip(".") for n in names[names.index(name) :]]
    return [one for one in after if type(crash.modules[one]) is type(crash.modules[block])]


def _list_inner(crash: Crash, block: str, width: int) -> list[tuple[str, str]]:
    """The layers of a block that were built for a number of channels, with their setting."""
    return [
        (name, setting)
        for name, module in crash.modules.items()
        for setting in ("in_channels", "num_features", "num_channels")
        if f"{name}.".startswith(f"{block}.") and getattr(module, setting, None) == width
    ]
