"""An embedding that got floats for indices."""

from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_tensor
from cnnprobe.crash.facts.tables import find_lookup
from cnnprobe.crash.facts.words import is_floating
from cnnprobe.crash.suspect import STRONG, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
    tokens = torch.tensor([[1.0, 2.0, 3.0]])
    args = (tokens,)
    """,
    old="args = (tokens,)",
    new="args = (tokens.long(),)",
    blames="0",
    repair="x.long()",
)


@cause(code="CP022", name="float-indices", family="input-dtype", prior=595, examples=EXAMPLE)
def float_indices(crash: Crash) -> Iterator[Suspect]:
    """An embedding got floating-point numbers where it looks up integer indices.

    Why it happens: torch.tensor of Python floats, torch.zeros and torch.randn give float32, and so
    do data sets that were read from a table of numbers.
    What to do: x.long() where the indices are made.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html
    """
    found = find_lookup(crash)
    if found is None or not is_floating(found.x.dtype):
        return
    x = found.x
    edit = adapt_tensor(crash, x, lambda t: t.long(), "{x}.long()")
    yield Suspect(
        module=found.module,
        message=f"{describe_module(crash, found.module)} expects integer indices but got "
        f"{x.dtype} (from {crash.describe_origin(x)})",
        arithmetic=f"expected int64, got {x.dtype} {x.shape}",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )
