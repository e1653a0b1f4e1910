from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.reshaping import flatten_otherwise, reshape_otherwise
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.features import propose_rows
from cnnprobe.crash.facts.products import find_lost_batch, find_merging, is_batch_fixed
from cnnprobe.crash.facts.words import count_elements, write_product
from cnnprobe.operations import resolve_name

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 4, 3, padding=1)
          self.fc = nn.Linear(4 * 8 * 8, 10)
      def forward(self, x):
          x = F.relu(self.conv(x))
-         x = torch.flatten(x)
+         x = torch.flatten(x, 1)
          return self.fc(x)
  model, args = Net(), (torch.randn(2, 3, 8, 8),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 8, 3, padding=1)
          self.fc = nn.Linear(8 * 7 * 7, 16)
          self.head = nn.Linear(19, 2)
      def forward(self, x, table):
-         x = F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 8 * 7 * 7)
+         x = F.max_pool2d(F.relu(self.conv(x)), 4).view(-1, 8 * 7 * 7)
          return self.head(torch.cat([self.fc(x), table], dim=1))
  model, args = Net(), (torch.randn(6, 1, 28, 28), torch.randn(6, 3))
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="torch.flatten(x, 1)"),
    Example(_SECOND, blames="", repair="set in_features=1568 in 'fc'"),
)


@cause("CP004", "batch-merge-view", EXAMPLES, prior=800)
def batch_merge_view(crash: Crash) -> Suspects:
    """A view or flatten does not keep one row for each sample.

    Why it happens: torch.flatten(x) starts at dim 0, and view(-1, n) fills rows of n values
    whatever sample they come from: the batch is merged with the other dims.
    What to do: keep the first dim: torch.flatten(x, 1) or x.view(x.size(0), -1).
    Known exceptions: merging batch and time on purpose, (N, T, C) to (N * T, C).
    Source: docs of torch.flatten (start_dim=0) and torch.Tensor.view.
    """
    yield from _before_product(crash)
    yield from _before_convolution(crash)
    yield from _before_join(crash)


def _before_product(crash: Crash) -> Suspects:
    if (call := find_merging(crash)) is None or is_batch_fixed(call):
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    yield blame(
        call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        f"{crash.describe_call(call)} merges the batch with the other dims: {before} "
        f"became {after}, but {before[0]} samples went in",
        flatten_otherwise(crash, call),
        arithmetic=f"a sample has {write_product(before[1:])} elements",
    )


def _before_join(crash: Crash) -> Suspects:
    """Rows of another length than a sample has: their number is that of the samples no more."""
    if (call := find_lost_batch(crash)) is None or is_batch_fixed(call):
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    yield blame(
        call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        f"{crash.describe_call(call)} does not keep one row for each sample: {before} "
        f"became {after}",
        *propose_rows(crash, call),
        arithmetic=f"a sample has {write_product(before[1:])} values"
        + (f", a row {write_product(after[1:])}" if after[1:] else ""),
        needs_proof=True,
    )


def _before_convolution(crash: Crash) -> Suspects:
    """A view made rows of features into maps of other channels, and so gave another batch."""
    if (found := find_mismatch(crash)) is None or found.kind != "conv":
        return
    x = found.x
    for _, call in crash.walk_back(x):
        if not call.outputs or not call.inputs or call.outputs[0].shape != x.shape:
            return
        given = call.inputs[0].shape
        is_view = resolve_name(call.kind) in ("view", "reshape")
        if is_view and given[0] == crash.batch != x.shape[0]:
            break
    else:
        return
    sizes = (found.expected, *x.shape[2:])
    if len(x.shape) < 3 or count_elements(sizes) != count_elements(given[1:]):
        return

    def reshape(x: Tensor, *_: object) -> Tensor:
        return x.reshape(-1, *sizes)

    edit = reshape_otherwise(crash, call, reshape, f"{{x}}.view(-1, {', '.join(map(str, sizes))})")
    yield blame(
        edit.module,
        f"{crash.describe_call(call)} does not keep one row for each sample: {given} "
        f"became {x.shape}",
        edit,
        arithmetic=f"{write_product(sizes)} elements a sample, but {x.shape[1:]} takes "
        f"{count_elements(x.shape[1:])}",
        needs_proof=True,
    )
