from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_tensor, configure
from cnnprobe.crash.facts.tables import Lookup, find_lookup
from cnnprobe.crash.facts.words import is_floating
from cnnprobe.crash.suspect import POSSIBLE, Candidates

_PROGRAM = """
- model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
+ model = nn.Sequential(nn.Embedding(12, 4), nn.Linear(4, 2))
  args = (torch.tensor([[0, 3, 11]]),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="num_embeddings=12", on_meta=False)


@cause("CP029", "index-out-of-table", EXAMPLE, family="index-range", prior=594)
def index_out_of_table(crash: Crash) -> Suspects:
    """An embedding got an index that its table has no row for.

    Why it happens: the vocabulary is larger than num_embeddings, the indices start at 1, or -1 or
    a special token stands for padding. Rows are counted from 0.
    What to do: set num_embeddings to the greatest index + 1; give padding an index of its own.
    Known exceptions: none.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Embedding.html
    """
    if (found := find_lookup(crash)) is None or is_floating(found.x.dtype):
        return
    bounds = crash.read_bounds(found.x)
    if found.rows is None or bounds is None or (bounds[0] >= 0 and bounds[1] < found.rows):
        return
    low, high = int(bounds[0]), int(bounds[1])
    yield blame(
        found.module,
        f"an index is out of range for {crash.describe_module(found.module)}: indices "
        f"range from {low} to {high}, valid are 0 to {found.rows - 1}",
        *_list_candidates(crash, found, low, high),
        arithmetic=f"num_embeddings {found.rows}, greatest index {high}, least {low}",
    )


def _list_candidates(crash: Crash, found: Lookup, low: int, high: int) -> Candidates:
    if crash.leaf is None or found.rows is None:
        return
    rows = configure(crash, found.module, num_embeddings=max(high + 1, found.rows))
    if low >= 0:
        yield propose(rows)
    if low == 1 and high == found.rows:
        yield propose(adapt_tensor(crash, found.x, lambda t: t - 1, "{x} - 1"), weight=POSSIBLE)
    elif low < 0:  # -1 for padding: every index one up, so that padding has row 0
        up = adapt_tensor(crash, found.x, lambda t: t - low, f"{{x}} + {-low}")
        size = max(high - low + 1, found.rows - low)
        yield propose(up, configure(crash, found.module, num_embeddings=size))
