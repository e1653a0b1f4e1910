import itertools
from collections.abc import Callable

from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.reshaping import reshape_otherwise
from cnnprobe.crash.facts.features import is_failing_view, propose_rows
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.words import count_elements, operation, quote, write_product
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.records.trace import ModuleCall

_FIRST = """
  class Decoder(nn.Module):
      def __init__(self):
          super().__init__()
-         self.fc = nn.Linear(16, 8 * 6 * 6)
+         self.fc = nn.Linear(16, 8 * 7 * 7)
          self.up = nn.ConvTranspose2d(8, 1, 4, stride=2, padding=1)
      def forward(self, z):
          x = self.fc(z).view(-1, 8, 7, 7)
          return self.up(x)
  model, args = Decoder(), (torch.randn(3, 16),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 16, 5)
          self.fc = nn.Linear(16 * 5 * 5, 10)
      def forward(self, x):
          x = F.max_pool2d(F.relu(self.conv(x)), 2)
-         x = x.view(-1, 16 * 5 * 5)
+         x = F.adaptive_avg_pool2d(x, 5).view(-1, 16 * 5 * 5)
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 1, 28, 28),)
"""
_THIRD = """
  class Heads(nn.Module):
      def __init__(self, dim=48, heads=4):
          super().__init__()
          self.heads = heads
-         self.head_dim = 16
+         self.head_dim = dim // heads
          self.qkv = nn.Linear(dim, dim)
      def forward(self, x):
          q = self.qkv(x).view(len(x), -1, self.heads, self.head_dim).transpose(1, 2)
          q = (q @ q.transpose(-2, -1)).softmax(-1) @ q
          return q.transpose(1, 2).reshape(x.shape)
  model, args = Heads(), (torch.randn(2, 9, 48),)
"""
_FOURTH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.embed = nn.Conv2d(3, 8, 4, 4)
          self.first = nn.Parameter(torch.zeros(1, 8, 1))
      def forward(self, x):
          x = self.embed(x)
          n, c, h, w = x.shape
          tokens = torch.cat([self.first.expand(n, -1, -1), x.flatten(2)], dim=2)
-         return tokens.reshape(n, c, h, w)
+         return tokens[..., 1:].reshape(n, c, h, w)
  model, args = Net(), (torch.randn(2, 3, 12, 12),)
"""
EXAMPLES = (
    Example(_FOURTH, blames="", repair="x[..., 1:].reshape"),
    Example(_FIRST, blames="", repair="set out_features=392 in 'fc'"),
    Example(_SECOND, blames="", repair="set in_features=2304 in 'fc'"),
    Example(_THIRD, blames="", repair="set head_dim=12"),
)


@cause("CP006", "view-element-count", EXAMPLES, family="shape-mismatch", prior=804)
def view_element_count(crash: Crash) -> Suspects:
    """A view asks for another number of elements than its tensor has.

    Why it happens: its sizes were counted for another input size, another layer before it, or
    another number of channels.
    What to do: print the shape before the view and count anew; before a Linear, flatten with
    torch.flatten(x, 1) and set in_features to C * H * W.
    Known exceptions: none; a view never adds or drops elements.
    Source: docs of torch.Tensor.view.
    """
    if (call := crash.call) is None or not is_failing_view(call):
        return
    x, sizes = call.inputs[0], read_sizes(call)
    known = count_elements(tuple(n for n in sizes if n != -1))
    total, owner = count_elements(x.shape), crash.find_module_above(call.parent)
    wanted = f"a multiple of {known}" if -1 in sizes else str(known)
    yield blame(
        owner,
        f"{operation(call)}{sizes} in {crash.describe_module(owner)} asks for {wanted} "
        f"elements, but {x.shape} has {total}",
        *propose_rows(crash, call) if len(sizes) == 2 else _propose_layers(crash, call),
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}: {write_product(x.shape[1:])} "
        f"elements a sample, not {write_product(tuple(n for n in sizes[1:] if n != -1))}",
        weight=USUAL,
    )


def _propose_layers(crash: Crash, call: ModuleCall) -> Candidates:
    """As many features or channels as the view takes; or another batch."""
    sizes = read_sizes(call)
    wanted = count_elements(tuple(n for n in sizes[1:] if n != -1))
    for _, row in crash.walk_back(call.inputs[0]):
        layer = crash.modules.get(row.fqn) if row.fqn is not None else None
        if row.fqn is None or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            continue
        map_sizes = row.outputs[0].shape[2:]
        places = count_elements(map_sizes)
        if isinstance(layer, nn.Linear):
            yield propose(configure(crash, row.fqn, out_features=wanted))
        elif map_sizes and sizes[-len(map_sizes) :] == map_sizes and wanted % places == 0:
            yield propose(configure(crash, row.fqn, out_channels=wanted // places))
        break
    yield from _leave_tokens(crash, call)
    yield from _propose_numbers(crash, sizes, call.inputs[0].shape)
    if sizes[0] != -1:
        rest = sizes[1:]

        def reshape(x: Tensor, *_: object) -> Tensor:
            return x.reshape(-1, *rest)

        code = f"{{x}}.view(-1, {', '.join(map(str, rest))})"
        yield propose(reshape_otherwise(crash, call, reshape, code), weight=POSSIBLE)


def _leave_tokens(crash: Crash, call: ModuleCall) -> Candidates:
    """Tokens that were put in front of those of a map, which are no part of it."""
    shape, sizes = call.inputs[0].shape, read_sizes(call)
    if len(shape) < 2 or min(sizes) < 1:
        return
    wanted, rest = divmod(count_elements(sizes), count_elements(shape[:-1]))
    more = shape[-1] - wanted
    fronts = [
        part.shape
        for _, row in crash.walk_back(call.inputs[0])
        for part in (row.inputs if operation(row) == "cat" else ())
    ]
    if rest or not any(more in front for front in fronts):
        return

    def cut(x: Tensor, *_: object) -> Tensor:
        return x[..., more:].reshape(sizes)

    yield propose(reshape_otherwise(crash, call, cut, f"{{x}}[..., {more}:].reshape{sizes}"))


def _propose_numbers(crash: Crash, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Candidates:
    """Another value for a number of the module's own that is one of the sizes: head_dim."""
    pairs = itertools.zip_longest(sizes, shape[: len(sizes)])
    sizes = tuple(size if size != -1 or n is None else n for size, n in pairs)
    owner = crash.modules.get(crash.owner)
    alike = itertools.takewhile(_is_equal, zip(shape, sizes, strict=False))
    split = sizes[len(list(alike)) :]
    for name, value in owner.__dict__.items() if owner is not None and min(sizes) > 0 else ():
        if type(value) is not int or value < 2 or split.count(value) != 1:
            continue
        wanted, rest = divmod(count_elements(shape), count_elements(sizes) // value)
        if rest or wanted < 1:
            continue
        title = f"set {name}={wanted} in {quote(crash.owner)} (now {value})"
        yield propose(
            SetAttribute(
                title=title,
                code=f"{name}={wanted}",
                module=crash.owner,
                name=name,
                value=_keep(wanted),
            ),
            weight=STRONG if split[-1] == value else USUAL,  # the size of a head, not their number
        )


def _keep(value: int) -> Callable[[nn.Module], int]:
    return lambda _module: value


def _is_equal(pair: tuple[int, int]) -> bool:
    return pair[0] == pair[1]
