import re

from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, cause, propose
from cnnprobe.crash.edits.build import configure
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.branches import refit_every_upsampling, refit_size
from cnnprobe.crash.facts.channels import refit_shuffle
from cnnprobe.crash.facts.heads import refit_head
from cnnprobe.crash.facts.losses import FailingLoss, list_comparisons, suspect_loss
from cnnprobe.crash.facts.windows import is_channels_first
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates

_MOST_TRIALS = 3
_COUNT = re.compile(r"class|cls|channel|label|^n$|^c$|^k$|^nc")  # names of numbers of classes

_WIDTH = """
  class Dice(nn.Module):
      def forward(self, logits, mask):
          p = logits.sigmoid()
          return 1 - 2 * (p * mask).sum() / (p.sum() + mask.sum())
- model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1))
+ model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
  def run(model):
      mask = (torch.rand(4, 3, 16, 16) > 0.5).float()
      Dice()(model(torch.randn(4, 3, 16, 16)), mask).backward()
"""
WIDTH = Example(_WIDTH, blames="2", repair="set out_channels=3 in '2'")
_PIXELS = """
  class AutoEncoder(nn.Module):
      def __init__(self):
          super().__init__()
          self.enc = nn.Conv2d(1, 4, 3, stride=2, padding=1)
-         self.dec = nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1)
+         self.dec = nn.ConvTranspose2d(4, 1, 3, stride=2, padding=1, output_padding=1)
      def forward(self, x):
          return torch.sigmoid(self.dec(F.relu(self.enc(x))))
  model = AutoEncoder()
  def run(model):
      x = torch.rand(2, 1, 28, 28)
      F.mse_loss(model(x), x).backward()
"""
PIXELS = Example(_PIXELS, blames="dec", repair="set output_padding=1 in 'dec'")


@cause("CP081", "output-size", (WIDTH, PIXELS), stage="loss", family="target-shape", prior=735)
def output_size(crash: Crash) -> Suspects:
    """The output has another number of channels, columns or pixels than the targets.

    Why it happens: the last layer was made for another number of classes or values, or the
    decoder does not undo the strides of the encoder exactly.
    What to do: give the last layer as many outputs as the targets have, or set output_padding.
    Known exceptions: none.
    Source: torch.nn.ConvTranspose2d, output_padding; torch.nn.MSELoss, "Shape".
    """
    for found, x, target in list_comparisons(crash):
        yield from _judge_setting(crash, found)
        dim = _find_odd_dim(found)
        if dim is not None:
            candidates = tuple(_refit(crash, found, dim))
            message = (
                f"{found.shown} got an output of shape {tuple(x.shape)}, but targets of shape"
                f" {tuple(target.shape)}"
            )
            module = candidates[0].edits[0].module if candidates else None
            arithmetic = f"{x.shape[dim]} against {target.shape[dim - x.dim()]} in dim {dim}"
            yield suspect_loss(found, message, candidates, module=module, arithmetic=arithmetic)


def _find_odd_dim(found: FailingLoss) -> int | None:
    """The first dim of the output in which it differs from the targets in size alone."""
    x, target = tuple(found.input.shape), tuple(found.target.shape)
    if found.takes_classes and len(target) == len(x) - 1 > 1 and target != x[:-1]:
        target = (target[0], x[1], *target[1:])
    is_fit = found.takes_classes and not found.target.is_floating_point()
    if len(x) != len(target) or len(x) < 2 or x == target or x[0] != target[0]:
        return None
    if (is_fit and x[1] != target[1]) or (found.is_elementwise and not found.needs_one_shape):
        return None
    if sorted(x) == sorted(target):  # dims in another order
        return None
    return next(i for i, (a, b) in enumerate(zip(x, target, strict=True)) if a != b)


def _is_map(crash: Crash, x: Tensor) -> bool:
    """Whether the output is known to be a map with its channels on dim 1."""
    outputs = crash.trace.calls[0].outputs if crash.trace.calls else ()
    is_same = bool(outputs) and outputs[0].shape == tuple(x.shape)
    return is_same and is_channels_first(crash, outputs[0])


def _rescale_head(crash: Crash, odd: int, wanted: int) -> list[Edit]:
    """The last layer with as many outputs more as the output is to have: 3 boxes of 5 + C."""
    last = crash.find_last_layer() or ""
    for name in ("out_features", "out_channels"):
        count = getattr(crash.modules.get(last), name, 1)
        if count % odd == 0:
            return [configure(crash, last, **{name: count // odd * wanted})]
    return []


def _judge_setting(crash: Crash, found: FailingLoss) -> Suspects:
    """A loss of the user's own that was made for another number of classes."""
    classes = found.input.shape[1] if found.input.dim() > 1 else 0
    for name, count in found.arguments.items():
        is_count = type(count) is int and _COUNT.search(name.removeprefix("self."))
        if not found.is_own or not is_count or count in (0, 1, classes) or not classes:
            continue
        head = refit_head(crash, found, count)
        refit = found.give(f"{name}={classes}", options={name: classes})
        yield suspect_loss(
            found,
            f"{found.shown} has {name}={count}, but the output has {classes} classes",
            [*([propose(*head)] if head else []), propose(refit, weight=POSSIBLE)],
            module=head[0].module if head else None,
            weight=USUAL,
        )


def _refit(crash: Crash, found: FailingLoss, dim: int) -> Candidates:
    x, target = found.input, found.target
    odd, wanted = x.shape[dim], target.shape[dim - x.dim()]
    if dim == 1 or dim == x.dim() - 1:
        edits = refit_head(crash, found, wanted) if dim == 1 or x.dim() == 3 else []
        edits = edits or _rescale_head(crash, odd, wanted)
        if edits and found.is_elementwise and not target.is_floating_point():
            edits.append(found.give("targets.float()"))
        yield from (propose(*each) for each in [edits] if each)
    if dim == 1 or x.dim() > 5 or not _is_map(crash, x):
        return
    sizes = tuple(target.shape[2 - x.dim() :])
    output = crash.trace.calls[0].outputs[0]
    every = refit_every_upsampling(crash, output, sizes)
    single = sorted(refit_size(crash, output, sizes), key=lambda one: -one.weight)
    wholes = [every] if len(every) > 1 else []
    shuffle = refit_shuffle(crash, output, sizes)
    if shuffle:
        yield propose(*shuffle, weight=STRONG)
    for whole in [*wholes, *([one] for one in single)][:_MOST_TRIALS]:
        yield propose(*(one.to_edit(crash) for one in whole), weight=STRONG)
    code = f"F.interpolate(output, size={sizes})"
    yield propose(found.give(code, title=f"bring the output to the targets' size: {code}"))
