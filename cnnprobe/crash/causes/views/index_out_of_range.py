"""An index that a dim does not have."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.facts.words import get_argument, shorten
from cnnprobe.crash.suspect import STRONG, Suspect
from cnnprobe.operations import resolve_name
from cnnprobe.trace import ModuleCall

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            x = self.fc(x)
            return x[:, 3]


    model, args = Net(), (torch.randn(2, 4),)
    """,
    old="x[:, 3]",
    new="x[:, 2]",
    blames="",
)


@cause(code="CP012", name="index-out-of-range", family="index-range", prior=200, examples=EXAMPLE)
def index_out_of_range(crash: Crash) -> Iterator[Suspect]:
    """An index is beyond the size of its dim.

    Why it happens: indices start at 0, so that the last of n is n - 1; or the tensor has fewer
    channels, steps or dims than the code was written for.
    What to do: compare the index with the shape; -1 is the last element of any dim.
    Known exceptions: none.
    Source: docs of torch.Tensor indexing, which follows NumPy.
    """
    call = crash.call
    if call is None or not call.inputs or resolve_name(call.kind) != "getitem":
        return
    x = call.inputs[0]
    for dim, index in _list_indices(call):
        if dim < len(x.shape) and not -x.shape[dim] <= index < x.shape[dim]:
            yield Suspect(
                module=crash.owner,
                message=f"index {index} in {describe_module(crash, crash.owner)} is out of range "
                f"for dim {dim} of {x.shape}: valid are 0 to {x.shape[dim] - 1}",
                arithmetic=f"{x.shape} from {crash.describe_origin(x)}, at {shorten(call.source)}",
                weight=STRONG,
            )
            return


def _list_indices(call: ModuleCall) -> list[tuple[int, int]]:
    """The plain whole numbers of an index with their dims.

    There are none where `...`, None or a tensor shifts the dims.
    """
    value = get_argument(call, 1, "index")
    parts = value if isinstance(value, tuple) else (value,)
    if len(call.inputs) > 1 or any(part is None or part == "Ellipsis" for part in parts):
        return []
    return [(dim, part) for dim, part in enumerate(parts) if type(part) is int]
