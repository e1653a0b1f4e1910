import ast
from collections.abc import Callable

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.writing import replace_expression
from cnnprobe.crash.facts.joins import list_ancestors
from cnnprobe.crash.facts.values import read_failing_line
from cnnprobe.crash.suspect import USUAL, Candidate, Candidates
from cnnprobe.records.trace import TensorInfo

_HEADS = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.a, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 2, 2)
          self.boxes1 = nn.Conv2d(8, 2 * 4, 1)
-         self.boxes2 = nn.Conv2d(8, 2 * 4, 1)
+         self.boxes2 = nn.Conv2d(8, 3 * 4, 1)
      def forward(self, x):
          x = self.a(x)
          y = self.down(x)
          found = [self.boxes1(x), self.boxes2(y)]
          return torch.cat([f.permute(0, 2, 3, 1).reshape(len(f), -1, 4) for f in found], 1)
  def box_loss(boxes, targets, positive):
      return F.l1_loss(boxes[positive], targets[positive])
  model = Net()
  def run(model):
      count = 8 * 8 * 2 + 4 * 4 * 3
      positive = torch.arange(count).expand(2, count) % 5 == 0
      box_loss(model(torch.randn(2, 3, 8, 8)), torch.randn(2, count, 4), positive).backward()
"""
HEADS = Example(_HEADS, blames="boxes2", repair="set out_channels=12 in 'boxes2'")
_CHANNELS = """
  model = nn.Conv2d(3, 4, 3, padding=1)
  def run(model):
      output, labels = model(torch.randn(2, 3, 6, 6)), torch.zeros(2, 6, 6).long()
      keep = labels >= 0
-     F.cross_entropy(output[keep], labels[keep]).backward()
+     F.cross_entropy(output.movedim(1, -1)[keep], labels[keep]).backward()
"""
CHANNELS = Example(_CHANNELS, repair="output.movedim(1, -1)[keep]")


@cause("CP0H4", "mask-size", (HEADS, CHANNELS), stage=("forward", "loss"), prior=690)
def mask_size(crash: Crash) -> Suspects:
    """A boolean mask has other sizes than the first dims of the tensor that it picks from.

    Why it happens: the mask was made of targets, anchors or labels that the output has fewer of,
    as where one head has another number of anchors; or the channels stand before the pixels.
    What to do: give the head that many anchors, or bring the channels last: x.movedim(1, -1)[mask].
    Known exceptions: a mask may have fewer dims: it then picks whole rows.
    Source: docs of torch.Tensor indexing, which follows NumPy.
    """
    line = read_failing_line(crash)
    node = line.nodes[0] if line.nodes else None
    if not isinstance(node, ast.Subscript):
        return
    x, mask = line.evaluate(node.value), line.evaluate(node.slice)
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return
    shape, wanted = tuple(x.shape), tuple(mask.shape)
    uneven = [i for i, (m, n) in enumerate(zip(shape, wanted, strict=False)) if m != n]
    if not uneven and len(wanted) <= len(shape):
        return
    names = ast.unparse(node.value), ast.unparse(node.slice)
    candidates = list(_turn(crash, node, x, mask))
    candidates = candidates or list(_resize_head(crash, shape, wanted, uneven))
    model = [c.edits[0].module for c in candidates if c.edits[0].module is not None]
    dims = f": {shape[uneven[0]]} against {wanted[uneven[0]]} in dim {uneven[0]}" if uneven else ""
    if model:
        dims += f"; with another number of channels in {crash.describe_module(model[0])} it does"
    yield blame(
        model[0] if model else None if crash.stage != "forward" else crash.owner,
        f"the mask {names[1]} {wanted} does not fit {names[0]} {shape}{dims}",
        *candidates,
        arithmetic=f"{names[0]} {shape}, {names[1]} {wanted}",
        advice=(f"make the mask of what has the sizes of {names[0]}",),
        tensors=(x, mask),
        raised_in="" if crash.stage == "forward" else "torch.Tensor.__getitem__",
    )


def _turn(crash: Crash, node: ast.Subscript, x: Tensor, mask: Tensor) -> Candidates:
    """The channels last, as the mask has none; or the mask for every channel."""
    name, index = ast.unparse(node.value), ast.unparse(node.slice)
    rank = mask.dim()
    if x.dim() == rank + 1 and (x.shape[0], *x.shape[2:]) == mask.shape:
        yield _write(crash, node, f"{name}.movedim(1, -1)[{index}]", lambda: x.movedim(1, -1)[mask])
    elif x.dim() == rank and all(n in (1, m) for m, n in zip(x.shape, mask.shape, strict=True)):
        code = f"{name}[{index}.expand_as({name})]"
        yield _write(crash, node, code, lambda: x[mask.expand_as(x)])
    elif rank > x.dim() and mask.squeeze().shape == x.shape:
        yield _write(crash, node, f"{name}[{index}.squeeze()]", lambda: x[mask.squeeze()])


def _write(crash: Crash, node: ast.Subscript, code: str, run: Callable[[], Tensor]) -> Candidate:
    written = replace_expression(crash.error, node, code)

    def check() -> str:
        return f"it gives {tuple(run().shape)}" if crash.trace.mode != "meta" else "it fits"

    return propose(Check(title=f"write {code}", code=code, check=check, written=written))


def _resize_head(
    crash: Crash, shape: tuple[int, ...], wanted: tuple[int, ...], uneven: list[int]
) -> Candidates:
    """The convolution whose channels make one of the parts as much longer as is missing."""
    outputs = crash.trace.calls[0].outputs if crash.trace.calls else ()
    found = next((t for t in outputs if t.shape == shape), None)
    if crash.stage == "forward" or found is None or len(uneven) != 1:
        return
    dim, last = uneven[0], shape[-1]
    missing = wanted[dim] - shape[dim]
    for part in _list_parts(crash, found):
        maker = _find_maker(crash, part)
        length = part.shape[dim]
        if maker is None or length + missing <= 0:
            continue
        made = int(getattr(crash.modules[maker], "out_channels", 0))
        channels, rest = divmod(made * (length + missing), length)
        if rest == 0 and channels % last == 0 and channels != made:
            yield propose(configure(crash, maker, out_channels=channels), weight=USUAL)


def _list_parts(crash: Crash, info: TensorInfo) -> tuple[TensorInfo, ...]:
    """The parts that were concatenated to a tensor; itself, where it is of one piece."""
    call = crash.find_producer(info)
    is_cat = call is not None and call.fqn is None and call.kind.endswith(("cat", "concat"))
    return call.inputs if call is not None and is_cat else (info,)


def _find_maker(crash: Crash, part: TensorInfo) -> str | None:
    for index in sorted(list_ancestors(crash, part), reverse=True):
        fqn = crash.trace.calls[index].fqn or ""
        if isinstance(crash.modules.get(fqn), nn.modules.conv._ConvNd):
            return fqn
    return None
