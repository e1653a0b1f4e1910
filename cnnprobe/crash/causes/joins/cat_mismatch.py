from torch import Tensor

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.parts import change_part, match_inputs, resize_parts, spell_part
from cnnprobe.crash.facts.batches import correct_batches
from cnnprobe.crash.facts.branches import suspect_layers
from cnnprobe.crash.facts.halvings import find_rounded
from cnnprobe.crash.facts.joins import Cat, read_cat, write_parts

_PROGRAM = """
  class Inception(nn.Module):
      def __init__(self):
          super().__init__()
          self.one = nn.Conv2d(3, 8, 1)
          self.three = nn.Conv2d(3, 8, 3, padding=1)
-         self.five = nn.Conv2d(3, 8, 5, padding=1)
+         self.five = nn.Conv2d(3, 8, 5, padding=2)
      def forward(self, x):
          return torch.cat([self.one(x), self.three(x), self.five(x)], 1)
  model, args = Inception(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="five", repair="padding=2")


@cause("CP030", "cat-mismatch", EXAMPLE, prior=400)
def cat_mismatch(crash: Crash) -> Suspects:
    """The tensors of a concatenation differ in a dim along which they are not joined.

    Why it happens: one branch has another kernel, stride or padding than the others, or the parts
    come from inputs or batches of different sizes. torch.cat allows one dim alone to differ.
    What to do: give the branches layers that keep the same height and width, or resize one part.
    Known exceptions: none.
    Source: documentation of torch.cat.
    """
    if (cat := read_cat(crash.call)) is None or not cat.differing:
        return
    differing = " and ".join(map(str, cat.differing))
    along = "" if cat.dim is None else f" along dim {cat.dim}"
    message = (
        f"{cat.call.kind}{along} in {crash.describe_module(crash.owner)}:"
        f" the sizes differ in dim {differing}"
    )
    arithmetic = write_parts(crash, cat.parts)
    if min(cat.differing) >= 2:
        yield from suspect_layers(crash, cat.parts, message, arithmetic)
    candidates = [*match_inputs(crash, cat.parts), *_correct_batches(crash, cat)]
    candidates += _expand(crash, cat)
    if min(cat.differing) >= 2 and find_rounded(crash, cat.parts) is None:
        candidates += resize_parts(crash, cat)
    yield blame(crash.owner, message, *candidates, arithmetic=arithmetic)


def _expand(crash: Crash, cat: Cat) -> Candidates:
    """A token of batch size 1 beside sequences of a whole batch."""
    single = [t for t in cat.parts if t.shape[0] == 1]
    others = [t for t in cat.parts if t.shape[0] == crash.batch]
    if cat.differing != [0] or not others or len(single) + len(others) < len(cat.parts):
        return
    like, rest = others[0], ["-1"] * (len(others[0].shape) - 1)
    name = spell_part(crash, cat.call, like)
    size = f"{name}.shape[0]" if name else str(like.shape[0])
    code = f"{{x}}.expand({', '.join([size, *rest])})"

    def expand(x: Tensor, other: Tensor) -> Tensor:
        return x.expand(other.shape[0], *[-1] * (x.dim() - 1))

    edits = (
        change_part(crash, cat.call, t, expand, code, verb="expand", like=like) for t in single
    )
    yield propose(*edits, weight=STRONG)


def _correct_batches(crash: Crash, cat: Cat) -> Candidates:
    """A part that was made for a batch of another size."""
    wrong = [t for t in cat.parts if t.shape[0] != crash.batch]
    if 0 in cat.differing and crash.batch is not None and wrong:
        edits = correct_batches(crash, wrong, wrong[0].shape[0], crash.batch)
        if edits:
            yield propose(*edits, weight=STRONG)
