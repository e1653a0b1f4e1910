import torch
from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.calls import AdaptTensors, KeepFirst
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.batches import correct_batches
from cnnprobe.crash.facts.callers import describe_last_batch, resize_argument
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Candidates
from cnnprobe.operations import find
from cnnprobe.records.trace import TensorInfo

_FIXED_BATCH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.lstm = nn.LSTM(12, 20, batch_first=True)
          self.fc = nn.Linear(20, 4)
      def forward(self, x):
-         h0 = torch.zeros(1, 32, 20)
+         h0 = torch.zeros(1, x.size(0), 20)
          out, _ = self.lstm(x, (h0, h0))
          return self.fc(out[:, -1])
  model, args = Net(), (torch.randn(7, 5, 12),)
"""
FIXED_BATCH = Example(_FIXED_BATCH, blames="lstm", repair="use x.size(0) instead of 32")


_LAST_BATCH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.rnn = nn.GRU(5, 6, 2)
      def forward(self, x, state):
          return self.rnn(x, state)[0]
  model = Net()
  def run(model):
      count = 4
      frames = torch.utils.data.DataLoader(torch.randn(10, 7, 5), batch_size=count)
      for batch in frames:
          batch = batch.transpose(0, 1)
-         state = torch.zeros(2, count, 6)
+         state = torch.zeros(2, batch.size(1), 6)
          model(batch, state).sum().backward()
"""
_MADE = "make 'state' with batch.size(1) instead of count"
LAST_BATCH = Example(_LAST_BATCH, blames="rnn", repair=_MADE)

_OTHER_DIM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
-         self.lstm = nn.LSTM(12, 20)
+         self.lstm = nn.LSTM(12, 20, batch_first=True)
      def forward(self, frames):
          count = frames.size(0)
          state = torch.zeros(1, count, 20), torch.zeros(1, count, 20)
          return self.lstm(frames, state)[0][:, -1]
  model, args = Net(), (torch.randn(3, 7, 12),)
"""
OTHER_DIM = Example(_OTHER_DIM, blames="lstm", repair="batch_first=True")


@cause(
    "CP059",
    "hidden-state-shape",
    (FIXED_BATCH, LAST_BATCH, OTHER_DIM),
    family="shape-mismatch",
    prior=498,
)
def hidden_state_shape(crash: Crash) -> Suspects:
    """The hidden state of a recurrent layer does not fit its input.

    Why it happens: it was made for a fixed batch size, and the last batch is smaller; or the
    batch is another dim, as batch_first moves that of the input and not that of the state.
    What to do: make it as torch.zeros(layers, x.size(0), hidden), or leave it out.
    Known exceptions: none.
    Source: torch.nn.LSTM, "batch_first ... does not apply to hidden or cell states".
    """
    layer, call = crash.leaf, crash.call
    if call is None or call.fqn is None or not isinstance(layer, nn.RNNBase):
        return
    if len(crash.inputs) < 2 or len(crash.inputs[0].shape) not in (2, 3):
        return
    is_packed = len(crash.inputs[1].shape) == 1  # the sizes of its batches, and no state
    if crash.inputs[0].shape[-1] == layer.input_size and not is_packed:
        yield _explain(crash, call.fqn, layer, crash.inputs)


def _explain(crash: Crash, fqn: str, layer: nn.RNNBase, inputs: tuple[TensorInfo, ...]) -> Suspect:
    x, hidden = inputs[0], inputs[1]
    batch = x.shape[0 if layer.batch_first else 1]
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    wanted = (rows, batch, layer.proj_size or layer.hidden_size)
    said = f"(layers x directions, batch, hidden) = {wanted}"
    last = describe_last_batch(crash, batch) if hidden.shape[1:2] != (batch,) else ""
    message = (
        f"{crash.describe_module(fqn)} with batch_first={layer.batch_first} expects a "
        f"hidden state of {wanted} for {x.shape} but got {hidden.shape}"
        + (f"; the batch is {last}" if last else "")
    )
    arithmetic = f"{said}, arrived {hidden.shape} from {_describe_origin(crash, hidden)}"
    return blame(fqn, message, *_mend(crash, fqn, layer, batch), arithmetic=arithmetic)


def _describe_origin(crash: Crash, hidden: TensorInfo) -> str:
    if (kept := crash.find_attribute(hidden) if hidden.source is None else None) is None:
        return crash.describe_origin(hidden)
    return f"the attribute {kept[1]!r} of {crash.describe_module(kept[0])}"


def _mend(crash: Crash, fqn: str, layer: nn.RNNBase, batch: int) -> Candidates:
    x, given = crash.inputs[0].shape, crash.inputs[1].shape
    is_turned = len(x) == 3 and given[1:2] == x[int(layer.batch_first) :][:1] != (batch,)
    weight = STRONG + 1 if is_turned else USUAL  # the state is for the other dim
    yield propose(configure(crash, fqn, batch_first=not layer.batch_first), weight=weight)
    if len(given) != 3:
        return
    rows = layer.num_layers * (2 if layer.bidirectional else 1)
    wanted = (rows, batch, layer.proj_size or layer.hidden_size)
    if given == (wanted[1], wanted[0], wanted[2]):
        yield _transpose(fqn, given)
    elif given[1] == batch:
        yield from _refit_layers(crash, fqn, layer, given)
    elif given[0] == rows:
        yield from _correct_batch(crash, fqn, given, batch)
    if all(_is_zeros(crash, t) for t in crash.inputs[1:]):
        title = f"call {quote(fqn)} without a state: it starts from zeros of the right size then"
        yield propose(KeepFirst(title=title, module=fqn))


def _transpose(fqn: str, given: tuple[int, ...]) -> Candidate:
    """The batch is the second dim of a state, whatever batch_first says."""
    edit = AdaptTensors(
        title=f"pass state.transpose(0, 1).contiguous() to {quote(fqn)}, or make it so",
        code="state.transpose(0, 1).contiguous()",
        module=fqn,
        fits=lambda t: tuple(t.shape) == given,
        function=lambda t: t.transpose(0, 1).contiguous(),
    )
    return propose(edit, weight=STRONG)


def _correct_batch(crash: Crash, fqn: str, given: tuple[int, ...], batch: int) -> Candidates:
    states = [t for t in crash.inputs[1:] if len(t.shape) == 3 and t.shape[1] != batch]
    if all(crash.is_input(t) for t in states):
        yield from _correct_argument(crash, fqn, states[0], batch)
        return
    edits = correct_batches(crash, states, given[1], batch)
    if edits:
        yield propose(*edits, weight=STRONG)
    if all(_is_kept_zeros(crash, t) for t in states):
        title = f"call {quote(fqn)} without a state: it starts from zeros of the right size then"
        yield propose(KeepFirst(title=title, module=fqn), weight=STRONG)


def _correct_argument(crash: Crash, fqn: str, state: TensorInfo, batch: int) -> Candidates:
    """The loop made the state for another batch."""
    shape = state.shape
    made = resize_argument(crash, state, shape[1], batch)
    title = f"make the state for the batch that arrives, not for {shape[1]} samples"
    yield propose(
        AdaptTensors(
            title=made.title if made is not None else title,
            code=made.code if made is not None else "",
            module=fqn,
            fits=lambda t: tuple(t.shape) == shape,
            function=lambda t: t.new_zeros((shape[0], batch, shape[2])),
            written=made.written if made is not None else None,
        ),
        weight=STRONG,
    )
    if describe_last_batch(crash, batch):
        title = "or leave the smaller last batch out: DataLoader(..., drop_last=True)"
        yield propose(Advice(title=title, code="drop_last=True"))


def _refit_layers(crash: Crash, fqn: str, layer: nn.RNNBase, given: tuple[int, ...]) -> Candidates:
    """Layers, directions and features as the state has them: that of an encoder, as a rule."""
    maker = crash.find_producer(crash.inputs[1])
    encoder = crash.modules.get((maker.fqn or "") if maker is not None else "")
    directions = 2 if layer.bidirectional else 1
    changes: dict[str, object] = {}
    if given[2] != (layer.proj_size or layer.hidden_size) and not layer.proj_size:
        changes["hidden_size"] = given[2]
    if given[0] % directions == 0 and given[0] != layer.num_layers * directions:
        changes["num_layers"] = given[0] // directions
    if isinstance(encoder, nn.RNNBase) and encoder.bidirectional and not layer.bidirectional:
        one_way = configure(crash, maker.fqn or "", bidirectional=False) if maker else None
        yield from [propose(one_way, weight=STRONG)] if one_way is not None else []
    if changes:
        yield propose(configure(crash, fqn, **changes))


def _is_zeros(crash: Crash, info: TensorInfo) -> bool:
    """Whether torch.zeros or the like made a tensor."""
    maker = crash.find_producer(info)
    operation = find(maker) if maker is not None else None
    return operation is not None and operation.name in ("zeros", "zeros_like", "new_zeros")


def _is_kept_zeros(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor is an attribute of a module, made of zeros."""
    kept = crash.find_attribute(info) if info.source is None else None
    value = crash.modules[kept[0]].__dict__[kept[1]] if kept is not None else None
    return isinstance(value, torch.Tensor) and not value.is_meta and not bool(value.any())
