"""A reshaping that mixes the samples of a batch."""

from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.reshaping import flatten_otherwise, reshape_otherwise
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.features import propose_rows
from cnnprobe.crash.facts.products import find_lost_batch, find_merging, is_batch_fixed
from cnnprobe.crash.facts.words import count_elements, write_product
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.operations import resolve_name

EXAMPLES = (
    Example(
        """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.fc = nn.Linear(4 * 8 * 8, 10)

        def forward(self, x):
            x = F.relu(self.conv(x))
            x = torch.flatten(x)
            return self.fc(x)


    model, args = Net(), (torch.randn(2, 3, 8, 8),)
    """,
        old="torch.flatten(x)",
        new="torch.flatten(x, 1)",
        blames="",
        repair="torch.flatten(x, 1)",
    ),
    Example(
        """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 8, 3, padding=1)
            self.fc = nn.Linear(8 * 7 * 7, 16)
            self.head = nn.Linear(19, 2)

        def forward(self, x, table):
            x = F.max_pool2d(F.relu(self.conv(x)), 2).view(-1, 8 * 7 * 7)
            return self.head(torch.cat([self.fc(x), table], dim=1))


    model, args = Net(), (torch.randn(6, 1, 28, 28), torch.randn(6, 3))
    """,
        old="F.max_pool2d(F.relu(self.conv(x)), 2)",
        new="F.max_pool2d(F.relu(self.conv(x)), 4)",
        blames="",
        repair="set in_features=1568 in 'fc'",
    ),
)


@cause(code="CP004", name="batch-merge-view", prior=800, examples=EXAMPLES)
def batch_merge_view(crash: Crash) -> Iterator[Suspect]:
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


def _before_product(crash: Crash) -> Iterator[Suspect]:
    call = find_merging(crash)
    if call is None or is_batch_fixed(call):
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    yield Suspect(
        module=call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        message=f"{crash.describe_call(call)} merges the batch with the other dims: {before} "
        f"became {after}, but {before[0]} samples went in",
        arithmetic=f"a sample has {write_product(before[1:])} elements",
        candidates=(propose(flatten_otherwise(crash, call), weight=STRONG),),
        weight=STRONG,
    )


def _before_join(crash: Crash) -> Iterator[Suspect]:
    """Rows of another length than a sample has: their number is that of the samples no more."""
    call = find_lost_batch(crash)
    if call is None or is_batch_fixed(call):
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    yield Suspect(
        module=call.fqn if call.fqn is not None else crash.find_module_above(call.parent),
        message=f"{crash.describe_call(call)} does not keep one row for each sample: {before} "
        f"became {after}",
        arithmetic=f"a sample has {write_product(before[1:])} values"
        + (f", a row {write_product(after[1:])}" if after[1:] else ""),
        candidates=tuple(propose_rows(crash, call)),
        weight=STRONG,
        needs_proof=True,
    )


def _before_convolution(crash: Crash) -> Iterator[Suspect]:
    """A view made rows of features into maps of other channels, and so gave another batch."""
    found = find_mismatch(crash)
    if found is None or found.kind != "conv":
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

    code = f"{{x}}.view(-1, {', '.join(map(str, sizes))})"
    edit = reshape_otherwise(crash, call, reshape, code)
    yield Suspect(
        module=edit.module,
        message=f"{crash.describe_call(call)} does not keep one row for each sample: {given} "
        f"became {x.shape}",
        arithmetic=f"{write_product(sizes)} elements a sample, but {x.shape[1:]} takes "
        f"{count_elements(x.shape[1:])}",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
        needs_proof=True,
    )
