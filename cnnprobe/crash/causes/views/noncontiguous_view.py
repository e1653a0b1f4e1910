"""A view of a tensor whose elements are not in the order of its dims."""

from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.reshaping import reshape_otherwise
from cnnprobe.crash.facts.features import is_failing_view
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.suspect import STRONG, USUAL, Suspect, propose
from cnnprobe.operations import find, resolve_name
from cnnprobe.records.trace import TensorInfo

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)
            self.fc = nn.Linear(6 * 6 * 6, 2)

        def forward(self, x):
            x = self.conv(x).permute(0, 2, 3, 1)
            x = F.relu(x)
            return self.fc(x.view(x.size(0), -1))


    model, args = Net(), (torch.randn(4, 3, 8, 8),)
    """,
    old="x.view(x.size(0), -1)",
    new="x.reshape(x.size(0), -1)",
    blames="",
    repair="x.reshape(4, -1)",
)


@cause(code="CP008", name="noncontiguous-view", prior=806, examples=EXAMPLE)
def noncontiguous_view(crash: Crash) -> Iterator[Suspect]:
    """view() needs a contiguous tensor, and got one whose dims were moved.

    Why it happens: permute, transpose and some slices change the order of the dims and leave the
    elements where they are; view() moves no elements either, so that its sizes cannot be had.
    What to do: use reshape(), which copies where it has to, or contiguous().view().
    Known exceptions: check that the order of the dims is what is meant: reshape() hides it.
    Source: docs of torch.Tensor.view and torch.Tensor.reshape.
    """
    call = crash.call
    if call is None or call.fqn is not None or resolve_name(call.kind) != "view":
        return
    sizes = read_sizes(call)
    if not sizes or not call.inputs or is_failing_view(call):
        return
    x, shown, owner = call.inputs[0], ", ".join(map(str, sizes)), crash.owner

    def reshape(x: Tensor, *sizes: int) -> Tensor:
        return x.reshape(*sizes)

    edits = [
        reshape_otherwise(
            crash, call, reshape, f"{{x}}{name}({shown})", respell=f"{{x}}{name}({{rest}})"
        )
        for name in (".reshape", ".contiguous().view")
    ]
    yield Suspect(
        module=owner,
        message=f"view in {describe_module(crash, owner)} needs a contiguous tensor, but "
        f"{_find_mover(crash, x)} made {x.shape} non-contiguous",
        arithmetic=f"shape {x.shape}, strides {x.strides}; view{sizes}",
        candidates=(propose(edits[0], weight=STRONG), propose(edits[1], weight=USUAL)),
        weight=STRONG,
    )


def _find_mover(crash: Crash, x: TensorInfo) -> str:
    """The latest call that moves dims or takes a part; else what made the tensor."""
    for _, call in crash.walk_back(x):
        operation = find(call)
        if operation is not None and operation.effect in ("turns", "selects", "expands"):
            return crash.describe_call(call)
    return crash.describe_origin(x)
