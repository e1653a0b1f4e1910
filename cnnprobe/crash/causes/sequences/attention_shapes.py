from collections.abc import Callable, Iterator
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.calls import AdaptTensors
from cnnprobe.crash.facts.callers import resize_argument
from cnnprobe.crash.facts.words import get_tensor, is_floating, quote
from cnnprobe.crash.suspect import STRONG, Candidate
from cnnprobe.records.trace import TensorInfo

_BATCH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.attention = nn.MultiheadAttention(8, 2)
+         self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
      def forward(self, x, context):
          out, _ = self.attention(x, context, context)
          return out
  model, args = Net(), (torch.randn(4, 5, 8), torch.randn(4, 7, 8))
"""
BATCH = Example(_BATCH, blames="attention", repair="batch_first=True")
_MASK = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
          self.register_buffer("mask", torch.triu(torch.ones(10, 10), 1).bool())
      def forward(self, x):
-         out, _ = self.attention(x, x, x, attn_mask=self.mask)
+         out, _ = self.attention(x, x, x, attn_mask=self.mask[:8, :8])
          return out
  model, args = Net(), (torch.randn(3, 8, 16),)
"""
MASK = Example(_MASK, blames="attention", repair="mask[:8, :8]")


_LAYOUT = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         layer = nn.TransformerEncoderLayer(16, 2, 32)
+         layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
          self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
      def forward(self, x, lengths):
          padding = torch.arange(7) >= lengths[:, None]
          return self.encoder(x, src_key_padding_mask=padding).mean(1)
  model, args = Net(), (torch.randn(4, 7, 16), torch.tensor([7, 5, 7, 3]))
"""
_BUILT = "build the layers of 'encoder' with batch_first=True"
LAYOUT = Example(_LAYOUT, blames="encoder", repair=_BUILT)


_CAUSAL = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.embed = nn.Embedding(20, 16)
          self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
      def forward(self, words, mask):
          return self.layer(self.embed(words), src_mask=mask)
  model = Net()
  def run(model):
      words = torch.randint(0, 20, (2, 9))
      length = words.shape[1]
-     mask = torch.full((length, length), float("-inf")).triu(1)
+     mask = torch.full((words[:, 1:].size(1), words[:, 1:].size(1)), float("-inf")).triu(1)
      return model(words[:, 1:], mask=mask)
"""
_MADE = "make 'mask' with words[:, 1:].size(1) instead of length"
CAUSAL = Example(_CAUSAL, blames="layer", repair=_MADE)

_FRONT = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.first = nn.Parameter(torch.zeros(1, 1, 16))
          self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
-         self.register_buffer("mask", torch.ones(7, 7).triu(1).bool())
+         self.register_buffer("mask", F.pad(torch.ones(7, 7).triu(1).bool(), (1, 0, 1, 0)))
      def forward(self, x):
          x = torch.cat([self.first.expand(len(x), -1, -1), x], dim=1)
          return self.layer(x, src_mask=self.mask)[:, 0]
  model, args = Net(), (torch.randn(3, 7, 16),)
"""
FRONT = Example(_FRONT, blames="layer", repair="F.pad(mask, (1, 0, 1, 0))")


@cause(
    "CP060",
    "attention-shapes",
    (BATCH, MASK, LAYOUT, CAUSAL, FRONT),
    family="shape-mismatch",
    prior=496,
)
def attention_shapes(crash: Crash) -> Suspects:
    """The query, the key or a mask of an attention do not fit one another.

    Why it happens: MultiheadAttention expects (time, batch, features) unless it was built with
    batch_first=True. A key_padding_mask is (batch, keys) in either case, an attn_mask is
    (queries, keys), and both are boolean or floating. Keys of other features need kdim and vdim.
    What to do: pass batch_first=True where the batch is the first dim; cut or transpose the mask.
    Known exceptions: an attn_mask may also be (batch x heads, queries, keys).
    Source: torch.nn.MultiheadAttention, "forward".
    """
    layer, call = crash.leaf, crash.call
    if call is None or call.fqn is None or not isinstance(layer, nn.MultiheadAttention):
        return
    x, key = crash.inputs[0], get_tensor(call, 1, "key")
    if key is None or len(x.shape) != len(key.shape) or len(x.shape) not in (2, 3):
        return
    if x.shape[-1] != layer.embed_dim:
        return
    dim = 0 if layer.batch_first else 1
    if len(x.shape) == 3 and key.shape[dim] != x.shape[dim]:
        yield _explain_batch(crash, call.fqn, layer, key)
    elif key.shape[-1] != layer.kdim:
        yield _explain_key(crash, call.fqn, layer, key)
    else:
        yield from _explain_masks(crash, call.fqn, layer, key)


def _explain_batch(
    crash: Crash, fqn: str, layer: nn.MultiheadAttention, key: TensorInfo
) -> Suspect:
    x, dim = crash.inputs[0], 0 if layer.batch_first else 1
    edit = configure(crash, fqn, batch_first=not layer.batch_first)
    message = (
        f"{crash.describe_module(fqn)} with batch_first={layer.batch_first} takes dim "
        f"{dim} for the batch, but query {x.shape} and key {key.shape} differ in it"
    )
    return blame(fqn, message, edit, arithmetic=f"{x.shape[dim]} against {key.shape[dim]}")


def _explain_key(crash: Crash, fqn: str, layer: nn.MultiheadAttention, key: TensorInfo) -> Suspect:
    got = key.shape[-1]
    edit = configure(crash, fqn, kdim=got, vdim=got)
    message = (
        f"{crash.describe_module(fqn)} expects keys of {layer.kdim} features but got "
        f"{got} (from {crash.describe_origin(key)})"
    )
    return blame(fqn, message, edit, arithmetic=f"kdim {layer.kdim}, key {key.shape}")


def _explain_masks(
    crash: Crash, fqn: str, layer: nn.MultiheadAttention, key: TensorInfo
) -> Suspects:
    """Masks of another shape or dtype; the sizes are those of query and key."""
    x, call = crash.inputs[0], crash.call
    if call is None or len(x.shape) != 3:
        return
    time = 1 if layer.batch_first else 0
    batch, queries, keys = x.shape[1 - time], x.shape[time], key.shape[time]
    allowed = {
        "key_padding_mask": (3, ((batch, keys),)),
        "attn_mask": (5, ((queries, keys), (batch * layer.num_heads, queries, keys))),
    }
    for name, (position, shapes) in allowed.items():
        if (mask := get_tensor(call, position, name)) is None:
            continue
        if mask.shape not in shapes:
            yield _explain_mask(crash, fqn, name, mask, shapes[0])
        elif mask.dtype != "bool" and not is_floating(mask.dtype):
            cast = _adapt(crash, fqn, mask, lambda t: t.bool(), "mask.bool()")
            message = (
                f"{name} of {crash.describe_module(fqn)} is expected to be boolean or "
                f"floating-point but is {mask.dtype}"
            )
            arithmetic = f"{name} {mask.shape} {mask.dtype}"
            yield blame(crash.find_container(fqn), message, cast, arithmetic=arithmetic)


def _explain_mask(
    crash: Crash, fqn: str, name: str, mask: TensorInfo, wanted: tuple[int, ...]
) -> Suspect:
    candidates: list[Candidate] = []
    x, call = crash.inputs[0], crash.call
    key = get_tensor(call, 1, "key") if call is not None else None
    flipped = (x.shape[0], key.shape[1]) if key is not None else ()
    first = not crash.modules[fqn].batch_first
    if not first:
        flipped = flipped[::-1]
    is_known = crash.batch == wanted[0] != mask.shape[0]  # the model's batch is where it is said
    is_flipped = name == "key_padding_mask" and mask.shape == flipped and not is_known
    if is_flipped:
        candidates.append(_flip(crash, fqn))
    if is_flipped and crash.batch == mask.shape[0]:
        pass  # a transposed mask would pass too, and hide samples from each other
    elif len(mask.shape) == 2 and mask.shape == wanted[::-1]:
        candidates.append(
            _adapt(crash, fqn, mask, lambda t: t.transpose(0, 1), "mask.transpose(0, 1)")
        )
    elif len(mask.shape) == 2 and all(m >= n for m, n in zip(mask.shape, wanted, strict=True)):
        candidates.append(_cut(crash, fqn, name, mask, wanted))
    elif name == "attn_mask" and len(mask.shape) == 2 and wanted[0] - mask.shape[0] > 0:
        candidates += _widen(crash, fqn, mask, wanted)
    said = "(batch, keys)" if name == "key_padding_mask" else "(queries, keys)"
    return blame(
        crash.find_container(fqn),
        f"{name} of {crash.describe_module(fqn)} is expected to be {wanted}, {said}, "
        f"but is {mask.shape}"
        + (f", as of {mask.shape[0]} samples: batch_first is {not first}" if is_flipped else ""),
        *candidates,
        arithmetic=f"query {crash.inputs[0].shape}; {name} {mask.shape} from "
        f"{crash.describe_origin(mask)}",
    )


def _cut(crash: Crash, fqn: str, name: str, mask: TensorInfo, wanted: tuple[int, ...]) -> Candidate:
    """The mask without what is too much of it, where the user makes it if that is known."""
    rows, columns = wanted
    code = f"mask[:{rows}, :{columns}]" if name == "attn_mask" else f"mask[:, :{columns}]"
    cut = _adapt(crash, fqn, mask, lambda t: t[:rows, :columns], code)
    is_square = rows == columns and crash.is_input(mask)
    made = resize_argument(crash, mask, mask.shape[0], rows) if is_square else None
    if made is None:
        return cut
    edit = replace(cut.edits[0], title=made.title, code=made.code, written=made.written)
    return propose(edit, weight=STRONG + 1)


def _widen(
    crash: Crash, fqn: str, mask: TensorInfo, wanted: tuple[int, ...]
) -> Iterator[Candidate]:
    """A mask that was made before a token was put in front: nothing is hidden from it."""
    more = {n - m for m, n in zip(mask.shape, wanted, strict=True)}
    if len(more) == 1:
        pads = (more.pop(), 0) * 2
        yield _adapt(crash, fqn, mask, lambda t: F.pad(t, pads), f"F.pad(mask, {pads})")


def _flip(crash: Crash, fqn: str) -> Candidate:
    """The other order of dims for an attention, and for all that are in one container with it."""
    place, first = crash.find_container(fqn), not crash.modules[fqn].batch_first
    found = [
        name
        for name, module in crash.modules.items()
        if isinstance(module, nn.MultiheadAttention) and f"{name}.".startswith(f"{place}.")
    ]
    edits = tuple(configure(crash, name, batch_first=first) for name in found or [fqn])
    summary = f"build the layers of {quote(place)} with batch_first={first}" if found[1:] else ""
    return Candidate(edits=edits, weight=STRONG + 1, summary=summary)


def _adapt(
    crash: Crash, fqn: str, mask: TensorInfo, function: Callable[[Tensor], Tensor], code: str
) -> Candidate:
    place = crash.find_container(fqn)
    edit = AdaptTensors(
        title=f"pass {code} to {quote(place)}",
        code=code,
        module=place,
        fits=lambda t: tuple(t.shape) == mask.shape,
        function=function,
    )
    return propose(edit, weight=STRONG)
