from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import adapt_tensor
from cnnprobe.crash.facts.tables import find_lookup
from cnnprobe.crash.facts.words import is_floating

_PROGRAM = """
  model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
  tokens = torch.tensor([[1.0, 2.0, 3.0]])
- args = (tokens,)
+ args = (tokens.long(),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="x.long()")


@cause("CP022", "float-indices", EXAMPLE, family="input-dtype", prior=595)
def float_indices(crash: Crash) -> Suspects:
    """An embedding got floating-point numbers where it looks up integer indices.

    Why it happens: torch.tensor of Python floats, torch.zeros and torch.randn give float32, and so
    do data sets that were read from a table of numbers.
    What to do: x.long() where the indices are made.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html
    """
    if (found := find_lookup(crash)) is None or not is_floating(found.x.dtype):
        return
    x = found.x
    edit = adapt_tensor(crash, x, lambda t: t.long(), "{x}.long()")
    message = (
        f"{crash.describe_module(found.module)} expects integer indices but got "
        f"{x.dtype} (from {crash.describe_origin(x)})"
    )
    yield blame(found.module, message, edit, arithmetic=f"expected int64, got {x.dtype} {x.shape}")
