"""Features that stand on another dim than the last."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.facts.products import find_product
from cnnprobe.crash.suspect import POSSIBLE, USUAL, Suspect, propose

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(6, 16, 3, padding=1)
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(self.conv(x)).mean(1)


    model, args = Net(), (torch.randn(2, 6, 50),)
    """,
    old="self.fc(self.conv(x))",
    new="self.fc(self.conv(x).transpose(1, 2))",
    blames="fc",
    repair="x.transpose(1, -1)",
)


@cause(
    code="CP010",
    name="features-on-another-dim",
    family="shape-mismatch",
    prior=798,
    examples=EXAMPLE,
)
def features_on_another_dim(crash: Crash) -> Iterator[Suspect]:
    """A Linear expects its features on the last dim, and they are on another one.

    Why it happens: Conv1d and BatchNorm1d have the channels on dim 1, (N, C, L); Linear, LayerNorm
    and attention have the features last, (N, L, C).
    What to do: transpose before the Linear: x.transpose(1, 2).
    Known exceptions: the sizes may agree by chance, and in_features be what is wrong.
    Source: docs of torch.nn.Linear and torch.nn.Conv1d.
    """
    found = find_product(crash)
    shape = found.x.shape if found is not None else ()
    if found is None or len(shape) not in (2, 3) or shape[:-1].count(found.wanted) != 1:
        return
    dim = shape.index(found.wanted)
    edit = adapt_call(crash, lambda x: x.transpose(dim, -1), f"{{x}}.transpose({dim}, -1)")
    yield Suspect(
        module=found.module,
        message=f"{describe_module(crash, found.module)} expects its {found.wanted} features on "
        f"the last dim, but in {shape} they are on dim {dim}",
        arithmetic=f"{shape[dim]} on dim {dim}, {shape[-1]} on the last",
        candidates=(propose(edit),),
        weight=USUAL if len(shape) == 3 else POSSIBLE,
    )
