from collections.abc import Sequence

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.parts import cat_along
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.joins import Cat, list_ancestors, read_cat, write_parts
from cnnprobe.crash.facts.products import find_product
from cnnprobe.records.trace import TensorInfo

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.a = nn.Linear(6, 4)
          self.b = nn.Linear(6, 8)
          self.out = nn.Linear(12, 2)
      def forward(self, x):
-         return self.out(torch.cat([self.a(x), self.b(x)]))
+         return self.out(torch.cat([self.a(x), self.b(x)], dim=1))
  model, args = Net(), (torch.randn(3, 6),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.a = nn.Conv2d(3, 8, 1)
          self.b = nn.Conv2d(3, 8, 3, padding=1)
          self.norm = nn.BatchNorm2d(16)
          self.out = nn.Conv2d(16, 2, 1)
      def forward(self, x):
-         x = torch.cat((self.a(x), self.b(x)))
+         x = torch.cat((self.a(x), self.b(x)), dim=1)
          return self.out(F.relu(self.norm(x)))
  model, args = Net(), (torch.randn(4, 3, 8, 8),)
"""
_THIRD = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.coarse = nn.Linear(6, 4)
          self.fine = nn.Linear(6, 4)
      def forward(self, x):
-         return torch.cat([self.coarse(x), self.fine(x)])
+         return torch.cat([self.coarse(x), self.fine(x)], dim=1)
  def run(model):
      output = model(torch.randn(5, 6))
      F.cross_entropy(output, torch.randint(0, 8, (5,))).backward()
  model = Net()
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="dim=1"),
    Example(_SECOND, blames="", repair="dim=1"),
    Example(_THIRD, blames="", repair="dim=1"),
)


@cause(
    "CP031",
    "cat-along-wrong-dim",
    EXAMPLES,
    stage=("forward", "loss"),
    family="cat-mismatch",
    prior=910,
)
def cat_along_wrong_dim(crash: Crash) -> Suspects:
    """Tensors are concatenated along the wrong dim.

    Why it happens: torch.cat joins along dim 0, the batch, unless it is told another one. Features
    and channels are in dim 1. Tensors of one shape are joined without an error then, and it is the
    next layer or the loss that raises.
    What to do: pass dim=1.
    Known exceptions: two views of each sample may well be joined along the batch.
    Source: documentation of torch.cat, default dim=0.
    """
    cat = read_cat(crash.call) if crash.stage == "forward" else None
    if cat is not None:
        yield from _suspect_failing(crash, cat)
    elif crash.batch:
        yield from _suspect_earlier(crash)


def _suspect_failing(crash: Crash, cat: Cat) -> Suspects:
    """The parts differ in one dim alone, and it is not the one along which they are joined."""
    if cat.dim is None or len(cat.uneven) != 1 or not cat.differing:
        return
    if (dim := cat.uneven[0]) > 1 and len(cat.parts[0].shape) > 3:  # maps of two sizes
        return
    yield blame(
        crash.owner,
        f"{cat.call.kind} in {crash.describe_module(crash.owner)} joins along dim"
        f" {cat.dim}, but the tensors differ in dim {dim} alone",
        cat_along(crash, cat, dim),
        arithmetic=write_parts(crash, cat.parts),
        needs_proof=True,
    )


def _suspect_earlier(crash: Crash) -> Suspects:
    """The latest concatenation before the failing call that another dim would have suited."""
    is_forward = crash.stage == "forward"
    ends = crash.inputs if is_forward else crash.trace.calls[0].outputs
    for index in sorted(list_ancestors(crash, *ends), reverse=True):
        cat = read_cat(crash.trace.calls[index])
        shapes = {t.shape for t in cat.parts} if cat is not None else set()
        if cat is None or cat.dim is None or len(shapes) != 1 or len(cat.parts[0].shape) < 2:
            continue
        dim = _find_feature_dim(crash, cat)
        if dim is None and cat.dim == 0:
            dim = _find_batch_dim(crash, cat, ends)
        if dim is None:
            continue
        size = cat.parts[0].shape[cat.dim]
        yield blame(
            crash.find_module_above(cat.call.parent),
            f"{crash.describe_call(cat.call)} joins along dim {cat.dim}"
            + (", the batch" if cat.dim == 0 else "")
            + f": {size} become {size * len(cat.parts)}",
            cat_along(crash, cat, dim),
            arithmetic=write_parts(crash, cat.parts),
            needs_proof=True,
        )
        return


def _find_batch_dim(crash: Crash, cat: Cat, ends: Sequence[TensorInfo]) -> int | None:
    """1, where more samples than the model got arrive at the failing call."""
    batch = crash.batch or 1
    layers = {_find_layer(crash, part) for part in cat.parts}
    if cat.parts[0].shape[0] != batch or len(layers) < len(cat.parts):
        return None  # several views through one encoder
    return (
        1 if any(t.shape and t.shape[0] > batch and t.shape[0] % batch == 0 for t in ends) else None
    )


def _find_feature_dim(crash: Crash, cat: Cat) -> int | None:
    """The dim along which the failing layer would get as much as it expects."""
    layer, product = find_mismatch(crash), find_product(crash)
    rank = len(cat.parts[0].shape)
    if layer is not None and layer.dim < rank:
        dim, expected = layer.dim, layer.expected
    elif product is not None:
        dim, expected = rank - 1, product.wanted
    else:
        return None
    fits = sum(t.shape[dim] for t in cat.parts) == expected
    return dim if fits and dim != cat.dim else None


def _find_layer(crash: Crash, info: TensorInfo) -> str | None:
    """The layer with weights that a tensor comes from."""
    for _, call in crash.walk_back(info):
        module = crash.modules.get(call.fqn) if call.fqn is not None else None
        if module is not None and module._parameters:
            return call.fqn
    return None
