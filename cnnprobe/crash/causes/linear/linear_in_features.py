import math

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, configure, reshape_parameter
from cnnprobe.crash.edits.parts import change_part
from cnnprobe.crash.facts.features import (
    Features,
    find_features,
    list_other_windows,
    propose_input_sizes,
)
from cnnprobe.crash.facts.products import MatrixProduct, find_product, find_reshaping
from cnnprobe.crash.facts.words import count_elements, count_of, write_product
from cnnprobe.crash.suspect import LAST, POSSIBLE, STRONG, USUAL, Candidates

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 6, 5)
          self.pool = nn.MaxPool2d(2, 2)
          self.conv2 = nn.Conv2d(6, 16, 5)
-         self.fc1 = nn.Linear(16 * 6 * 6, 120)
+         self.fc1 = nn.Linear(16 * 5 * 5, 120)
          self.fc2 = nn.Linear(120, 10)
      def forward(self, x):
          x = self.pool(F.relu(self.conv1(x)))
          x = self.pool(F.relu(self.conv2(x)))
          x = torch.flatten(x, 1)
          return self.fc2(F.relu(self.fc1(x)))
  model, args = Net(), (torch.randn(4, 3, 32, 32),)
"""
_SECOND = """
  model = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
- args = (torch.linspace(0, 1, 100),)
+ args = (torch.linspace(0, 1, 100).unsqueeze(1),)
"""
_THIRD = """
  class Projection(nn.Module):
      def __init__(self):
          super().__init__()
          self.weight = nn.Parameter(torch.randn(5, 8))
      def forward(self, x):
-         return x @ self.weight
+         return x @ self.weight.t()
  model, args = Projection(), (torch.randn(3, 8),)
"""
_GATE = """
  class Gate(nn.Module):
      def __init__(self, channels=8):
          super().__init__()
          self.down = nn.Linear(channels, 2)
          self.up = nn.Linear(2, channels)
      def forward(self, x):
          share = self.up(F.relu(self.down(x.mean((2, 3))))).sigmoid()
          return x * share[:, :, None, None]
- model = nn.Sequential(nn.Conv2d(3, 16, 3), Gate())
+ model = nn.Sequential(nn.Conv2d(3, 16, 3), Gate(16))
  args = (torch.randn(2, 3, 9, 9),)
"""
EXAMPLES = (
    Example(_GATE, blames="1.down", repair="set out_features=16 in '1.up'"),
    Example(_FIRST, blames="fc1", repair="set in_features=400 in 'fc1'"),
    Example(_SECOND, blames="0", repair="x.unsqueeze(-1)"),
    Example(_THIRD, blames="", repair="self.weight.t()"),
)


@cause("CP002", "linear-in-features", EXAMPLES, prior=796)
def linear_in_features(crash: Crash) -> Suspects:
    """A Linear got another number of features than its in_features.

    Why it happens: in_features was counted for another input size, another number of channels or
    another layer before it; a bidirectional LSTM gives twice its hidden_size.
    What to do: set in_features to what arrives, or change what makes the features. nn.LazyLinear
    takes what the first batch has; nn.AdaptiveAvgPool2d makes it independent of the input size.
    Known exceptions: with trained weights in_features is right, and the input or a layer is wrong.
    Source: docs of torch.nn.Linear and torch.nn.LazyLinear.
    """
    if (found := find_product(crash)) is None:
        return
    weight = USUAL if len(found.x.shape) <= 3 else LAST
    yield blame(
        found.module,
        _describe_fault(crash, found),
        *_propose_layers(crash, found, weight),
        *_propose_maps(crash),
        arithmetic=f"expects {count_of(found.wanted, 'feature')}, got {found.x.shape}",
        weight=weight,
    )


def _describe_fault(crash: Crash, found: MatrixProduct) -> str:
    layer = crash.describe_module(found.module)
    if _lacks_dim(found):
        return (
            f"{layer} expects 1 feature on the last dim, but {found.x.shape} has {found.got} "
            "there: the feature needs a dim of its own"
        )
    if _is_turned(found) and found.weight is not None:
        return (
            f"the weight '{found.parameter}' is the wrong way round: {found.weight.shape} takes "
            f"{count_of(found.wanted, 'feature')}, but got {found.got}"
        )
    name = f"{layer} should have in_features"
    if not found.is_layer:
        name = f"the weight '{found.parameter}' should take as many features as arrive:"
    return f"{name} {found.got}, not {found.wanted}: {_explain_features(crash, found)}"


def _lacks_dim(found: MatrixProduct) -> bool:
    """Whether it got one value for each sample, without a dim for the one feature."""
    return found.wanted == 1 and len(found.x.shape) == 1


def _is_turned(found: MatrixProduct) -> bool:
    """Whether a weight would fit if it were transposed."""
    return found.weight is not None and found.got in found.weight.shape


def _propose_layers(crash: Crash, found: MatrixProduct, weight: int) -> Candidates:
    """Another in_features, or another out_features of the Linear before it."""
    if found.is_layer:
        yield propose(configure(crash, found.module, in_features=found.got), weight=weight)
        if _lacks_dim(found):
            column = adapt_call(crash, lambda x: x.unsqueeze(-1), "{x}.unsqueeze(-1)")
            yield propose(column, weight=STRONG)
    elif found.weight is not None and crash.call is not None:
        edit = reshape_parameter(crash, found.parameter, found.shape)
        if edit is not None:
            yield propose(edit, weight=weight)
        if _is_turned(found):
            parts = (crash, crash.call, found.weight)
            turn = change_part(*parts, _turn, "{x}.t()", verb="transpose", like=found.x)
            yield propose(turn, weight=STRONG)
    rows = [row for _, row in crash.walk_back(found.x) if row.fqn is not None]
    for row in rows:
        if isinstance(crash.modules.get(row.fqn or ""), nn.Linear):
            if row.outputs[0].shape[-1] == found.got:
                edit = configure(crash, row.fqn or "", out_features=found.wanted)
                yield propose(edit, weight=POSSIBLE)
            return


def _turn(weight: Tensor, x: Tensor) -> Tensor:  # noqa: ARG001
    return weight.t()


def _propose_maps(crash: Crash) -> Candidates:
    """Another input size, number of channels or size of a pooling, for which in_features fits."""
    if (found := find_features(crash)) is None or found.reshaping is None:
        return
    sized = propose_input_sizes(crash, found)
    if not sized and not any(list_other_windows(crash)):
        yield from _change_channels(crash, found)
    yield from sized
    channels, last = found.map.shape[1], found.steps[-1] if found.steps else None
    side = math.isqrt(found.wanted // channels)
    if last is None or not last.window.adaptive or not last.call.fqn:
        return
    if side and found.count((side, side)) == found.wanted and len(found.map.shape) == 4:
        yield propose(configure(crash, last.call.fqn, output_size=side), weight=POSSIBLE)


def _change_channels(crash: Crash, found: Features) -> Candidates:
    """The last convolution with so many channels that its map has the wanted features."""
    places = count_elements(found.map.shape[2:])
    for _, call in crash.walk_back(found.map) if places and not found.wanted % places else ():
        layer = crash.modules.get(call.fqn or "") if call.fqn else None
        if layer is None or not layer._parameters:
            continue
        is_plain = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == 1
        if is_plain and layer.out_channels == found.map.shape[1]:
            edit = configure(crash, call.fqn or "", out_channels=found.wanted // places)
            yield propose(edit, weight=POSSIBLE)
        return


def _explain_features(crash: Crash, found: MatrixProduct) -> str:
    """Which call's output makes the number of features, with the product that gives it."""
    call = find_reshaping(crash, found.x)
    if call is not None and call.inputs and count_elements(call.inputs[0].shape[1:]) == found.got:
        shape = call.inputs[0].shape
        origin = crash.describe_origin(call.inputs[0])
        each = f", and {write_product(shape[1:])}" if len(shape) > 2 else ""
        return f"{origin} gives {shape}{each}"
    for _, row in crash.walk_back(found.x):
        if row.fqn is None and row.inputs and row.inputs[0].shape[-1:] == (found.got,):
            continue  # a slice or a mean over time: the features were there before
        if row.fqn is None or not row.outputs or row.outputs[0].shape[-1:] != (found.got,):
            break
        layer, both = crash.modules.get(row.fqn), ""
        if isinstance(layer, nn.RNNBase) and layer.bidirectional:
            both = f", both directions together: 2 x {found.got // 2} = {found.got}"
        return f"{crash.describe_call(row)} gives {row.outputs[0].shape}{both}"
    return f"{crash.describe_origin(found.x)} gives {found.x.shape}"
