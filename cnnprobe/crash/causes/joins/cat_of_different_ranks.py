from torch import Tensor

from cnnprobe.crash.cause import Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.parts import change_part, spell_part
from cnnprobe.crash.facts.joins import Cat, read_cat, write_parts
from cnnprobe.crash.facts.operands import list_embeddings, write_index
from cnnprobe.records.trace import TensorInfo

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 6, 3)
          self.pool = nn.AdaptiveAvgPool2d(1)
          self.meta = nn.Linear(4, 5)
          self.out = nn.Linear(11, 2)
      def forward(self, image, extra):
-         pooled = self.pool(self.conv(image))
+         pooled = self.pool(self.conv(image)).flatten(1)
          return self.out(torch.cat([pooled, self.meta(extra)], dim=1))
  model, args = Net(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4))
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.embed = nn.Embedding(10, 4)
          self.conv = nn.Conv2d(5, 8, 3)
      def forward(self, x, y):
          y = self.embed(y)
-         return self.conv(torch.cat([x, y], 1))
+         return self.conv(torch.cat([x, y[..., None, None].expand(-1, -1, 8, 6)], 1))
  model, args = Net(), (torch.randn(2, 1, 8, 6), torch.randint(0, 10, (2,)))
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="torch.flatten(pooled, 1)"),
    Example(_SECOND, blames="", repair="y[..., None, None].expand(-1, -1, x.shape[2], x.shape[3])"),
)


@cause("CP032", "cat-of-different-ranks", EXAMPLES, family="cat-mismatch", prior=399)
def cat_of_different_ranks(crash: Crash) -> Suspects:
    """Tensors with different numbers of dims are concatenated.

    Why it happens: a feature map of shape (N, C, H, W) meets rows of features of shape (N, F).
    What to do: flatten the map first, torch.flatten(x, 1); or, where a map is needed, give the
    rows its dims: y[:, :, None, None].expand(-1, -1, H, W).
    Known exceptions: none.
    Source: documentation of torch.cat.
    """
    cat = read_cat(crash.call)
    ranks = {len(t.shape) for t in cat.parts} if cat is not None else set()
    if cat is None or len(ranks) < 2:
        return
    yield blame(
        crash.owner,
        f"{cat.call.kind} in {crash.describe_module(crash.owner)}:"
        " the tensors have different numbers of dims",
        *_flatten(crash, cat),
        *_expand(crash, cat),
        arithmetic=write_parts(crash, cat.parts),
    )


def _flatten(crash: Crash, cat: Cat) -> Candidates:
    """The larger ones flattened to as many dims as the smallest has."""
    rank = min(len(t.shape) for t in cat.parts)

    def flatten(x: Tensor) -> Tensor:
        return x.flatten(rank - 1)

    larger = [t for t in cat.parts if len(t.shape) > rank]
    code = f"torch.flatten({{x}}, {rank - 1})"
    yield propose(*(change_part(crash, cat.call, t, flatten, code, verb="flatten") for t in larger))


def _expand(crash: Crash, cat: Cat) -> Candidates:
    """The smaller ones repeated over the dims that they lack."""
    large = max(cat.parts, key=lambda t: len(t.shape))
    smaller = [t for t in cat.parts if len(t.shape) < len(large.shape)]
    found = [
        min(
            list_embeddings(t.shape, large.shape, cat.dim),
            key=lambda places: (cat.dim in places, *places),
            default=None,
        )
        for t in smaller
    ]
    edits = [
        _expand_part(crash, cat, part, large, places)
        for part, places in zip(smaller, found, strict=True)
        if places is not None
    ]
    if len(edits) == len(smaller):
        yield propose(*edits)


def _expand_part(
    crash: Crash, cat: Cat, part: TensorInfo, large: TensorInfo, places: tuple[int, ...]
) -> Edit:
    rank = len(large.shape)
    missing = [i for i in range(rank) if i not in places and i != cat.dim]

    def expand(x: Tensor, other: Tensor) -> Tensor:
        x = x[tuple(slice(None) if i in places else None for i in range(rank))]
        return x.expand([other.shape[i] if i in missing else -1 for i in range(rank)])

    name = spell_part(crash, cat.call, large)
    sizes = [f"{name}.shape[{i}]" if name else str(n) for i, n in enumerate(large.shape)]
    shown = ", ".join(sizes[i] if i in missing else "-1" for i in range(rank))
    code = "{x}" + write_index(places, rank) + (f".expand({shown})" if missing else "")
    return change_part(crash, cat.call, part, expand, code, verb="add dims to", like=large)
