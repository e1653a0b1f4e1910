"""The forward unpacks the sizes of a batch, and gets a single sample."""

from collections.abc import Iterator

import torch

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import change_tensor
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.unpacking import describe_sizes, find_unpacking, lacks_batch
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)

        def forward(self, x):
            n, c, h, w = x.size()
            return self.conv(x).view(n, 8, h * w)


    model, args = Net(), (torch.randn(3, 16, 16),)
    """,
    old="torch.randn(3, 16, 16)",
    new="torch.randn(1, 3, 16, 16)",
    blames="",
    repair="add the batch dim: x.unsqueeze(0)",
)


@cause(code="CP096", name="unbatched-sizes", family="missing-batch", prior=1193, examples=EXAMPLE)
def unbatched_sizes(crash: Crash) -> Iterator[Suspect]:
    """The forward unpacks the sizes of a batch, but it gets a single sample.

    Why it happens: a Dataset gives samples without a batch dim; the DataLoader adds it.
    What to do: pass x.unsqueeze(0).
    Known exceptions: none.
    Source: torch.utils.data.default_collate stacks the samples of a batch.
    """
    found, method = find_unpacking(crash), find_failing_method(crash)
    if found is None or method is None or not lacks_batch(crash, found):
        return
    given = next(t for t in crash.root_inputs if t.shape == tuple(found.value))
    title = "add the batch dim: x.unsqueeze(0)"
    edit = change_tensor(crash, given, _add_dim, "{x}.unsqueeze(0)", title=title)
    yield Suspect(
        module=method.fqn,
        message=describe_sizes(found),
        arithmetic=f"{tuple(found.value)} for {found.wanted} names",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )


def _add_dim(x: torch.Tensor) -> torch.Tensor:
    return x[None]
