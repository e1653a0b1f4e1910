import inspect
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import (
    adapt_call,
    adapt_tensor,
    change_tensor,
    configure,
    wrap_layer,
)
from cnnprobe.crash.edits.calls import AdaptOutput
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.dims import leave_out
from cnnprobe.crash.facts.expected import ChannelMismatch, find_expected
from cnnprobe.crash.facts.words import quote, read_tensor
from cnnprobe.crash.suspect import STRONG, USUAL, Candidates
from cnnprobe.operations import find, find_layer
from cnnprobe.recorder.inventory import class_of

_FIRST = """
- model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.BatchNorm2d(5))
+ model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.BatchNorm1d(5))
  args = (torch.randn(4, 3, 8, 8),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.backbone = nn.Sequential(
              nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
          )
          self.gru = nn.GRU(8, 6, batch_first=True)
      def forward(self, clip):
-         features = self.backbone(clip)
+         features = self.backbone(clip.flatten(0, 1)).unflatten(0, (-1, 4))
          return self.gru(features)[0][:, -1]
  model, args = Net(), (torch.randn(2, 4, 3, 16, 16),)
"""
_THIRD = """
- model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU())
+ model = nn.Sequential(nn.Conv1d(1, 8, 3), nn.ReLU())
  args = (torch.randn(4, 1, 1600),)
"""
_STACKED = """
  model = nn.Conv2d(12, 4, 3)
- args = (torch.randn(2, 4, 3, 9, 9),)
+ args = (torch.randn(2, 4, 3, 9, 9).flatten(1, 2),)
"""
_EARLY = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.pool = nn.MaxPool2d(2)
          self.fc = nn.Linear(27, 4)
      def forward(self, x):
-         x = self.pool(torch.flatten(x, 1))
+         x = torch.flatten(self.pool(x), 1)
          return self.fc(x)
  model, args = Net(), (torch.randn(2, 3, 6, 6),)
"""
EXAMPLES = (
    Example(_STACKED, blames="", repair="x.flatten(1, 2)"),
    Example(_EARLY, blames="pool", repair="flatten what 'pool' gives"),
    Example(_FIRST, blames="2", repair="nn.BatchNorm1d(5)"),
    Example(_SECOND, blames="backbone.0", repair="flatten(0, 1) to 'backbone'"),
    Example(_THIRD, blames="0", repair="nn.Conv1d(1, 8, 3)"),
)


@cause("CP026", "wrong-layer-dims", EXAMPLES, family="shape-mismatch", prior=698)
def wrong_layer_dims(crash: Crash) -> Suspects:
    """A 1d, 2d or 3d layer got a tensor with another number of dims than it is for.

    Why it happens: nn.BatchNorm2d takes (N, C, H, W) only, nn.BatchNorm1d what a Linear gives. A
    convolution or a pooling takes (N, C) and as many dims as its name says, or C and those. Clips
    (N, T, C, H, W) have one more than nn.Conv2d takes.
    What to do: take the class of the family that fits, or add the dim that is missing. Make every
    frame of a clip a sample, x.flatten(0, 1), and give the output its frames again.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/nn.html
    """
    yield from _suspect_weight(crash)
    if (found := find_expected(crash)) is None:
        return
    is_series = found.is_unbatched and found.got != found.expected == found.x.shape[1]
    is_series = is_series and (found.dims > 1 or found.x.shape[0] == crash.batch)
    if found.is_rank_right and not is_series:
        return
    ranks = [found.dims + 2] if is_series else found.ranks
    note = ", which torch takes for one sample without a batch" if is_series else ""
    yield blame(
        found.module,
        f"{crash.describe_module(found.module)} expects {' or '.join(map(str, ranks))} "
        f"dims but got {found.rank}: {found.x.shape}{note}",
        *_exchange_layer(crash, found),
        *_fold_frames(crash, found),
        *_join_frames(crash, found),
        *_flatten_later(crash, found),
        *_fix_dims(crash, found),
        arithmetic=f"{crash.describe_origin(found.x)} gives {found.x.shape}",
        weight=STRONG if is_series or found.kind == "pool" else USUAL,
    )


def _fix_dims(crash: Crash, found: ChannelMismatch) -> Candidates:
    """Dims of size 1 that lack, or are too many, before a convolution."""
    shape, rank = found.x.shape, found.rank
    if found.kind != "conv":
        return
    if rank == found.dims and found.is_first and found.expected == 1:
        both = change_tensor(crash, found.x, lambda x: x[None, None], "{x}[None, None]")
        yield propose(both, weight=STRONG)
    elif rank == found.dims and found.is_first and found.dims == 1:
        yield propose(change_tensor(crash, found.x, lambda x: x[None], "{x}[None]"))
    elif rank == found.dims + 1 == 2 and found.setting:
        row = adapt_call(crash, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
        yield propose(configure(crash, found.module, in_channels=1), row)
    elif rank == found.dims + 1:
        wide = adapt_call(crash, lambda x: x.unsqueeze(2), "{x}.unsqueeze(2)")
        yield propose(wide, weight=STRONG)
    elif rank == found.dims + 3 and 1 in shape[:2]:
        dim = shape.index(1)
        yield propose(adapt_call(crash, lambda x: x.squeeze(dim), f"{{x}}.squeeze({dim})"))


def _exchange_layer(crash: Crash, found: ChannelMismatch) -> Candidates:
    """The layer of the same family for the dims that arrived."""
    layer, dims = crash.leaf, max(found.rank - 2, 1)
    if layer is None or found.rank < 2:
        return
    if found.kind == "conv" and found.x.shape[1] != found.expected:
        return
    name = f"{class_of(layer).__name__.rstrip('d123')}{dims}d"
    make, settings = getattr(nn, name, None), _read_settings(layer, name)
    if make is None or settings is None or dims == found.dims:
        return
    code = f"nn.{name}({', '.join(_write_settings(name, settings))})"
    title = f"make {quote(found.module)} an {code}"
    edit = Exchange(
        title=title, code=code, module=found.module, layer=lambda _old: make(**settings)
    )
    yield propose(edit, weight=USUAL if found.kind == "norm" else STRONG)


def _read_settings(layer: nn.Module, name: str) -> dict[str, Any] | None:
    """What a layer of another number of dims is built with; None where dims differ in a setting."""
    info, make = find_layer(name), getattr(nn, name, None)
    found: dict[str, Any] = {}
    # In an older torch a normalisation takes no `bias`.
    taken = inspect.signature(make).parameters if make is not None else ()
    for argument in info.constructor.names if info is not None and info.constructor else ():
        if argument not in taken:
            continue
        value = getattr(layer, argument, None)
        if isinstance(value, tuple | list):
            if len(set(value)) != 1:
                return None
            value = value[0]
        found[argument] = value is not None if argument == "bias" else value
    return found or None


def _write_settings(name: str, settings: dict[str, Any]) -> Iterator[str]:
    """The arguments of a call that makes the layer, without those that torch takes anyway."""
    info = find_layer(name)
    usual = dict(info.constructor.defaults) if info is not None and info.constructor else {}
    if settings.get("stride") == settings.get("kernel_size"):
        usual["stride"] = settings.get("stride")
    for argument, value in settings.items():
        if argument not in usual:
            yield repr(value)
        elif value != usual[argument]:
            yield f"{argument}={value!r}"


def _fold_frames(crash: Crash, found: ChannelMismatch) -> Candidates:
    """The frames as samples before the part that starts with the layer, and apart after it."""
    if found.kind != "conv" or found.rank != found.dims + 3 or 1 in found.x.shape[:2]:
        return
    at = next((dim for dim in (2, 1) if found.x.shape[dim] == found.expected), None)
    if at is None or (at == 1 and found.dims == 1):
        return
    place, frames = crash.find_container(found.module), found.x.shape[3 - at]
    turned = "" if at == 2 else ".transpose(1, 2)"  # (N, C, T, H, W)
    both = wrap_layer(
        place,
        (f"{{x}}{turned}.flatten(0, 1)", f"{{x}}.unflatten(0, (-1, {frames}))"),
        lambda x: (x if at == 2 else x.transpose(1, 2)).flatten(0, 1),
        lambda x: x.unflatten(0, (-1, frames)),
    )
    yield propose(*both, weight=STRONG)
    yield propose(both[0])


def _join_frames(crash: Crash, found: ChannelMismatch) -> Candidates:
    """Frames whose channels are side by side as many as the layer expects."""
    shape = found.x.shape
    if found.kind != "conv" or found.rank != found.dims + 3:
        return
    if shape[1] * shape[2] == found.expected:
        joined = adapt_tensor(crash, found.x, lambda x: x.flatten(1, 2), "{x}.flatten(1, 2)")
        yield propose(joined, weight=STRONG)


def _flatten_later(crash: Crash, found: ChannelMismatch) -> Candidates:
    """A pooling after the flatten that belongs behind it."""
    row = crash.find_producer(found.x)
    info = find(row) if row is not None and row.fqn is None else None
    is_flat = found.kind == "pool" and found.rank == 2 and info is not None
    if row is None or info is None or not is_flat or info.effect != "reshapes":
        return
    if len(row.inputs[0].shape) == found.dims + 2:
        title = f"flatten what {quote(found.module)} gives: torch.flatten(x, 1)"
        after = AdaptOutput(
            title=title, code="torch.flatten({x}, 1)", module=found.module, function=_to_rows
        )
        yield propose(leave_out(crash, row), after, weight=STRONG)


def _to_rows(x: Any) -> Any:
    """As torch.flatten(x, 1), by no function that is left out on the line."""
    width = x[0].numel()
    return x.contiguous().as_strided((x.shape[0], width), (width, 1))


def _suspect_weight(crash: Crash) -> Suspects:
    """F.conv2d(x, kernel) with a kernel of (k, k): two dims lack."""
    call = crash.call
    info = find(call) if call is not None and call.fqn is None else None
    weight = read_tensor(call, "weight") if call is not None else None
    if (
        call is None
        or info is None
        or weight is None
        or info.group not in ("conv", "conv_transpose")
    ):
        return
    dims = int(info.name[-2])
    if len(weight.shape) != dims:
        return
    edit = adapt_call(crash, lambda w: w[None, None], "{x}[None, None]", position=1)
    edit = replace(edit, title=f"pass weight[None, None] to {info.name}", code="weight[None, None]")
    message = (
        f"the weight of {crash.describe_call(call)} has {dims} dims: {weight.shape}; "
        f"{dims + 2} are expected (out_channels, in_channels and {dims} more)"
    )
    arithmetic = f"expected (1, 1, {', '.join(map(str, weight.shape))}), got {weight.shape}"
    yield blame(crash.owner, message, edit, arithmetic=arithmetic)
