import math

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import (
    adapt_tensor,
    change_tensor,
    insert_before,
    is_in_sequential,
    is_root_input,
)
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.facts.expected import ChannelMismatch, find_expected
from cnnprobe.crash.facts.words import count_elements, operation, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 4, 3)
      def forward(self, x):
          return self.conv(x)
  images = torch.randn(16, 784)
- model, args = Net(), (images,)
+ model, args = Net(), (images.view(-1, 1, 28, 28),)
"""
_SECOND = """
- model = nn.Sequential(nn.Flatten(), nn.Conv2d(3, 4, 3))
+ model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())
  args = (torch.randn(2, 3, 8, 8),)
"""
EXAMPLES = (
    Example(_FIRST, blames="conv", repair="x.view(-1, 1, 28, 28)"),
    Example(_SECOND, blames="1", repair="take '0' out"),
)


@cause("CP019", "flattened-before-conv", EXAMPLES, family="shape-mismatch", prior=699)
def flattened_before_conv(crash: Crash) -> Suspects:
    """A convolution got flat rows of features where it expects maps.

    Why it happens: the data is stored flat (784 numbers for 28 x 28 pixels), a flatten stands
    before the convolution, or a decoder lacks the step from features back to a map.
    What to do: reshape to (N, C, H, W) before it: x.view(-1, 1, 28, 28) or nn.Unflatten.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Unflatten.html
    """
    found = find_expected(crash)
    if found is None or found.kind != "conv" or found.is_rank_right or found.rank != 2:
        return
    rows = [call for _, call in crash.walk_back(found.x)]
    flattening = next((c for c in rows if (o := find(c)) and o.name == "flatten"), None)
    candidates = (
        *_leave_out_view(crash, found),
        *_restore_map(crash, found, flattening),
        *_remove_flatten(found, flattening),
    )
    if not candidates:
        return
    shape = found.x.shape
    why = f", flattened by {crash.describe_call(flattening)}" if flattening is not None else ""
    message = (
        f"{crash.describe_module(found.module)} expects {found.dims + 2} dims (batch, "
        f"channels and {found.dims} more) but got 2: {shape}"
    )
    arithmetic = f"{crash.describe_origin(found.x)} gives {shape}{why}"
    yield blame(found.module, message, *candidates, arithmetic=arithmetic, weight=USUAL)


def _leave_out_view(crash: Crash, found: ChannelMismatch) -> Candidates:
    """A view that has flattened just what the layer expects: without it."""
    made = crash.find_producer(found.x)
    info = find(made) if made is not None else None
    if made is None or made.fqn is not None or info is None or not made.inputs:
        return
    before = made.inputs[0].shape
    is_right = len(before) == found.dims + 2 and before[1] == found.expected
    if info.effect == "reshapes" and is_right:
        title = (
            f"take {operation(made)} at {{place}} out, or put it after the "
            f"layer: {before} is what it expects"
        )
        edit = rewrite_call(crash, made, lambda _func, args, _kwargs: args[0], title=title)
        yield propose(edit, weight=STRONG)


def _restore_map(crash: Crash, found: ChannelMismatch, flattening: ModuleCall | None) -> Candidates:
    """(N, 784) as (N, 1, 28, 28), and (N, 1568) as the (N, 8, 14, 14) that it was."""
    sizes, call = _find_sizes(found, flattening), crash.call
    if sizes is None or call is None:
        return
    code = "{x}.view(" + ", ".join(map(str, (-1, *sizes))) + ")"

    def reshape(t: Tensor) -> Tensor:
        return t.reshape(-1, *sizes)

    edit: Edit | None
    if is_root_input(crash, found.x):
        edit = change_tensor(crash, found.x, reshape, code)
    elif call.fqn is not None and is_in_sequential(crash, call.fqn):
        layer = f"nn.Unflatten(1, {sizes})"
        edit = insert_before(crash, call.fqn, lambda: nn.Unflatten(1, sizes), layer)
    else:
        edit = adapt_tensor(crash, found.x, reshape, code)
    if edit is not None:
        yield propose(edit, weight=STRONG)


def _find_sizes(found: ChannelMismatch, flattening: ModuleCall | None) -> tuple[int, ...] | None:
    """A map of as many elements as a row: the one that was flattened, else a square."""
    features, channels = found.x.shape[1], found.expected
    before = flattening.inputs[0].shape[1:] if flattening is not None and flattening.inputs else ()
    is_right = len(before) == found.dims + 1 and before[0] == channels
    if is_right and count_elements(before) == features:
        return before
    if channels == 1 and flattening is None and len(set(found.x.shape)) == 1:
        return None  # one square image
    sizes = (channels, *(round((features / channels) ** (1 / found.dims)),) * found.dims)
    return sizes if math.prod(sizes) == features else None


def _remove_flatten(found: ChannelMismatch, flattening: ModuleCall | None) -> Candidates:
    if flattening is not None and flattening.fqn is not None:
        title = f"take {quote(flattening.fqn)} out, or put it after {quote(found.module)}"
        yield propose(Remove(title=title, module=flattening.fqn))
