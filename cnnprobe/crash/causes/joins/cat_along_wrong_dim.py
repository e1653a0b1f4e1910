"""A concatenation along the wrong dim."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.parts import cat_along
from cnnprobe.crash.facts.joins import read_cat, write_parts
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLES = (
    Example(
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a = nn.Linear(6, 4)
                self.b = nn.Linear(6, 8)
                self.out = nn.Linear(12, 2)

            def forward(self, x):
                return self.out(torch.cat([self.a(x), self.b(x)]))


        model, args = Net(), (torch.randn(3, 6),)
        """,
        old="self.b(x)]",
        new="self.b(x)], dim=1",
        blames="",
        repair="dim=1",
    ),
)


@cause(
    code="CP031", name="cat-along-wrong-dim", family="cat-mismatch", prior=401, examples=EXAMPLES
)
def cat_along_wrong_dim(crash: Crash) -> Iterator[Suspect]:
    """Tensors are concatenated along the wrong dim.

    Why it happens: torch.cat joins along dim 0, the batch, unless it is told another one. Features
    and channels are in dim 1.
    What to do: pass dim=1.
    Known exceptions: none.
    Source: documentation of torch.cat, default dim=0.
    """
    cat = read_cat(crash.call)
    if cat is None or cat.dim is None or len(cat.uneven) != 1 or not cat.differing:
        return
    dim = cat.uneven[0]
    if dim > 1 and len(cat.parts[0].shape) > 3:  # maps of two sizes
        return
    yield Suspect(
        module=crash.owner,
        message=f"{cat.call.kind} in {describe_module(crash, crash.owner)} joins along dim"
        f" {cat.dim}, but the tensors differ in dim {dim} alone",
        arithmetic=write_parts(crash, cat.parts),
        candidates=(propose(cat_along(crash, cat, dim), weight=STRONG),),
        weight=STRONG,
        needs_proof=True,
    )
