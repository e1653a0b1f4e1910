from dataclasses import replace
from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, configure, reshape_parameter
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.images import convert_images
from cnnprobe.crash.facts.channels import suspect_channel_maker
from cnnprobe.crash.facts.expected import ChannelMismatch, find_mismatch
from cnnprobe.crash.facts.windows import is_channels_first
from cnnprobe.crash.facts.words import count_of, read_argument, read_tensor
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.operations import find

_FIRST = """
- model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU())
+ model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 32, 3), nn.ReLU())
  args = (torch.randn(2, 3, 16, 16),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.stem = nn.Conv2d(3, 12, 3, padding=1)
-         self.transition = nn.Conv2d(12, 6, 1)
+         self.transition = nn.Conv2d(12, 12, 1)
          self.norm = nn.BatchNorm2d(12)
          self.head = nn.Linear(12, 2)
      def forward(self, x):
          x = self.norm(self.transition(F.relu(self.stem(x))))
          return self.head(x.mean((2, 3)))
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLES = (
    Example(_FIRST, blames="2", repair="in_channels=8"),
    Example(_SECOND, blames="transition", repair="out_channels=12"),
)


@cause("CP015", "channel-mismatch", EXAMPLES, prior=690)
def channel_mismatch(crash: Crash) -> Suspects:
    """A layer got another number of channels than it has weights for.

    Why it happens: the layer before it gives another number, a concatenation adds some, or the
    image is grey, or has an alpha channel.
    What to do: set in_channels to what arrives. Convert the images where they are at fault.
    Known exceptions: a lazy layer (nn.LazyConv2d) takes any number at its first call.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
    """
    if (found := find_mismatch(crash)) is None:
        return
    if found.kind in ("conv", "prelu"):
        yield _suspect_layer(crash, found)
    for one in suspect_channel_maker(crash, found.x, found.expected, module=found.module):
        if found.kind == "unpool":  # nothing about it can be changed: only the maker is at fault
            edits = one.candidates[0].edits
            yield replace(one, candidates=(propose(*edits),), weight=USUAL, needs_proof=False)
        else:
            yield one


def _suspect_layer(crash: Crash, found: ChannelMismatch) -> Suspect:
    shape = found.x.shape
    note = f"; torch takes {shape} for one sample without a batch" if found.is_unbatched else ""
    expected, what = count_of(found.expected, "input channel"), crash.describe_module(found.module)
    if found.kind == "prelu":
        expected = f"{found.expected} channels (num_parameters)"
    elif not found.setting and crash.call is not None:
        what = f"the weight of {crash.describe_call(crash.call)}"
    return blame(
        found.module,
        f"{what} expects {expected} but got {found.got} "
        f"(from {crash.describe_origin(found.x)}){note}",
        *_list_candidates(crash, found),
        arithmetic=_count_joined(crash, found),
        weight=STRONG if found.kind == "prelu" else USUAL,
    )


def _list_candidates(crash: Crash, found: ChannelMismatch) -> Candidates:
    shape, got, dim = found.x.shape, found.got, found.dim
    if found.is_first and found.kind == "conv":
        for edit in convert_images(crash, found.x, shape, dim, found.expected):
            yield propose(edit)
    if found.setting == "num_parameters":
        yield propose(configure(crash, found.module, num_parameters=got))
    elif found.setting:
        yield from _set_channels(crash, found)
    else:
        yield from _change_weight(crash, found)
    others = [i for i in range(len(shape) - 1) if shape[i] == found.expected and i != dim]
    if others and not is_channels_first(crash, found.x):
        code = f"{{x}}.transpose({others[0]}, {dim})"
        turned = adapt_call(crash, lambda x: x.transpose(others[0], dim), code)
        yield propose(turned, weight=POSSIBLE)


def _set_channels(crash: Crash, found: ChannelMismatch) -> Candidates:
    """What arrives for in_channels; in and out exchanged, where they were swapped."""
    layer, got = crash.modules[found.module], found.got
    groups, out = int(getattr(layer, "groups", 1)), int(getattr(layer, "out_channels", 0))
    changes = {"in_channels": got}
    if groups > 1 and groups == getattr(layer, "in_channels", 0) and out % groups == 0:  # depthwise
        wide = {"in_channels": got, "out_channels": out // groups * got, "groups": got}
        yield propose(configure(crash, found.module, **wide), weight=STRONG)
    if got % groups:
        changes |= {"groups": got} | ({"out_channels": got} if out % got else {})
    yield propose(configure(crash, found.module, **changes))
    if out == got and groups == 1:
        yield propose(configure(crash, found.module, in_channels=got, out_channels=found.expected))


def _change_weight(crash: Crash, found: ChannelMismatch) -> Candidates:
    """F.conv2d(x, self.weight): one filter for every channel, or a parameter of another shape."""
    call = crash.call
    weight = read_tensor(call, "weight") if call is not None else None
    if call is None or weight is None or found.expected != weight.shape[1]:
        return
    if weight.shape[:2] == (1, 1) and int(read_argument(call, "groups") or 1) == 1:
        got, sizes = found.got, (found.got, *(1,) * (found.dims + 1))

        def filter_each(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if tuple(args[1].shape) != weight.shape:  # another call of it on the same line
                return func(*args, **kwargs)
            return func(args[0], args[1].repeat(sizes), *args[2:], **kwargs, groups=got)

        code = f"weight.repeat{sizes}, groups={got}"
        title = f"filter each channel by itself at {{place}}: {code}"
        yield propose(rewrite_call(crash, call, filter_each, title=title, code=code), weight=STRONG)
    out = found.expected if weight.shape[0] == found.got else weight.shape[0]  # they were swapped
    other = reshape_parameter(crash, weight.source, (out, found.got, *weight.shape[2:]))
    if other is not None:
        yield propose(other)


def _count_joined(crash: Crash, found: ChannelMismatch) -> str:
    producer = crash.find_producer(found.x)
    info = find(producer) if producer is not None else None
    if producer is not None and info is not None and info.name == "cat":
        shapes = [t.shape for t in producer.inputs]
        if all(len(s) > 1 for s in shapes) and sum(s[1] for s in shapes) == found.got:
            parts = " + ".join(str(shape[1]) for shape in shapes)
            return f"{parts} = {found.got} channels after cat; {found.expected} expected"
    return f"expected {count_of(found.expected, 'channel')}, got {found.x.shape}"
