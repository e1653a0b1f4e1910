from collections.abc import Callable, Iterator

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, configure
from cnnprobe.crash.edits.calls import AdaptTensors
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.dims import find_turn, leave_out
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.records.trace import TensorInfo

_SWAPPED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.lstm = nn.LSTM(6, 8, batch_first=True)
      def forward(self, x):
-         out, _ = self.lstm(x)
+         out, _ = self.lstm(x.transpose(1, 2))
          return out[:, -1]
  model, args = Net(), (torch.randn(3, 6, 50),)
"""
SWAPPED = Example(_SWAPPED, blames="lstm", repair="x.transpose(1, 2)")
_TOO_NARROW = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.patches = nn.Conv2d(3, 16, 4, stride=4)
+         self.patches = nn.Conv2d(3, 32, 4, stride=4)
          layer = nn.TransformerEncoderLayer(32, 4, batch_first=True)
          self.encoder = nn.TransformerEncoder(layer, 2)
      def forward(self, x):
          return self.encoder(self.patches(x).flatten(2).transpose(1, 2))
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
TOO_NARROW = Example(_TOO_NARROW, blames="encoder", repair="out_channels=32 in 'patches'")
_MAP = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 8, 3, padding=1)
          self.lstm = nn.LSTM(8 * 16, 12, batch_first=True)
      def forward(self, x):
          x = self.conv(x)
-         out, _ = self.lstm(x)
+         out, _ = self.lstm(x.permute(0, 3, 1, 2).flatten(2))
          return out
  model, args = Net(), (torch.randn(2, 1, 16, 32),)
"""
MAP = Example(_MAP, blames="lstm", repair="x.permute(0, 3, 1, 2).flatten(2)")


@cause("CP058", "sequence-features", (SWAPPED, TOO_NARROW, MAP), family="shape-mismatch", prior=500)
def sequence_features(crash: Crash) -> Suspects:
    """A recurrent layer or an attention gets sequences of another number of features.

    Why it happens: the layer before it makes another number, or the dims are (batch, features,
    time), as a convolution has them, where (batch, time, features) are expected.
    What to do: transpose the last two dims, or build the layer with the features that arrive.
    Known exceptions: none.
    Source: torch.nn.LSTM and torch.nn.MultiheadAttention, "Inputs".
    """
    layer, call = crash.leaf, crash.call
    if call is None or call.fqn is None or not crash.inputs or not crash.inputs[0].shape:
        return
    x = crash.inputs[0]
    if isinstance(layer, nn.RNNBase | nn.RNNCellBase) and len(x.shape) > 1:
        yield from _explain_recurrent(crash, call.fqn, layer, x)
    elif isinstance(layer, nn.MultiheadAttention) and x.shape[-1] != layer.embed_dim:
        yield _explain_attention(crash, call.fqn, layer, x)


def _explain_recurrent(
    crash: Crash, fqn: str, layer: nn.RNNBase | nn.RNNCellBase, x: TensorInfo
) -> Suspects:
    wanted, rank = layer.input_size, len(x.shape)
    said = f"{crash.describe_module(fqn)} expects"
    if rank > 3:
        message = f"{said} sequences of {wanted} features (3 dims) but got {rank} dims"
        arithmetic = f"{x.shape} from {crash.describe_origin(x)}"
        found = _list_sequences(x.shape, layer)
        edits = (
            propose(adapt_call(crash, function, code), weight=weight)
            for code, function, weight in found
        )
        yield blame(fqn, message, *edits, arithmetic=arithmetic, weight=USUAL)
    elif x.shape[-1] != wanted:
        candidates = list(_transpose(crash, fqn, x, wanted))
        if isinstance(layer, nn.RNNBase):
            candidates.append(propose(configure(crash, fqn, input_size=x.shape[-1])))
        yield blame(
            fqn,
            f"{said} {wanted} features but got {x.shape[-1]} (from {crash.describe_origin(x)})",
            *candidates,
            arithmetic=f"input_size {wanted}, arrived {x.shape}",
        )


def _list_sequences(
    shape: tuple[int, ...], layer: nn.RNNBase | nn.RNNCellBase
) -> Iterator[tuple[str, Callable[[Tensor], Tensor], int]]:
    """What makes sequences of a map: each place a step, or each column; or the map as it lies."""
    wanted, is_first = layer.input_size, getattr(layer, "batch_first", True)
    if len(shape) == 4 and shape[1] == wanted and is_first:
        yield "{x}.flatten(2).transpose(1, 2)", lambda t: t.flatten(2).transpose(1, 2), STRONG
    elif len(shape) == 4 and shape[1] == wanted:
        yield "{x}.flatten(2).permute(2, 0, 1)", lambda t: t.flatten(2).permute(2, 0, 1), STRONG
    elif len(shape) == 4 and shape[1] * shape[2] == wanted and is_first:
        code = "{x}.permute(0, 3, 1, 2).flatten(2)"
        yield code, lambda t: t.permute(0, 3, 1, 2).flatten(2), STRONG
    yield "{x}.flatten(2)", lambda t: t.flatten(2), POSSIBLE


def _explain_attention(
    crash: Crash, fqn: str, layer: nn.MultiheadAttention, x: TensorInfo
) -> Suspect:
    wanted, got = layer.embed_dim, x.shape[-1]
    candidates = list(_transpose(crash, fqn, x, wanted))
    if got % layer.num_heads == 0:
        candidates.append(propose(configure(crash, fqn, embed_dim=got)))
    candidates += _widen_maker(crash, x, wanted)
    message = (
        f"{crash.describe_module(fqn)} expects {wanted} features but got {got} "
        f"(from {crash.describe_origin(x)})"
    )
    arithmetic = f"embed_dim {wanted}, arrived {x.shape}"
    return blame(crash.find_container(fqn), message, *candidates, arithmetic=arithmetic)


def _transpose(crash: Crash, fqn: str, x: TensorInfo, wanted: int) -> Candidates:
    """The features stand in the middle."""
    if len(x.shape) != 3 or x.shape[1] != wanted:
        return
    if (moved := find_turn(crash, x, 2, wanted)) is not None:
        yield propose(leave_out(crash, moved), weight=STRONG + 1)
    code, is_alone = "{x}.transpose(1, 2)", crash.find_container(fqn) == fqn
    edit: Edit = adapt_call(crash, lambda t: t.transpose(1, 2), code)
    if is_alone and isinstance(crash.leaf, nn.MultiheadAttention):  # query, key and value
        edit = AdaptTensors(
            title=f"pass x.transpose(1, 2) to {quote(fqn)}",
            code=code,
            module=fqn,
            fits=lambda t: t.dim() == 3,
            function=lambda t: t.transpose(1, 2),
        )
    yield propose(edit, weight=STRONG)


def _widen_maker(crash: Crash, x: TensorInfo, wanted: int) -> Candidates:
    """The layer that makes the features, with as many as are wanted."""
    for _, call in crash.walk_back(x):
        made, fqn = crash.modules.get(call.fqn or ""), call.fqn or ""
        if isinstance(made, nn.modules.conv._ConvNd) and made.out_channels == x.shape[-1]:
            yield propose(configure(crash, fqn, out_channels=wanted))
        elif isinstance(made, nn.Linear) and made.out_features == x.shape[-1]:
            yield propose(configure(crash, fqn, out_features=wanted))
        if made is not None and made._parameters:
            return
