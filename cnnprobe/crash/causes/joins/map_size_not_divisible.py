import math

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.edits.parts import resize_parts
from cnnprobe.crash.facts.halvings import count_divisor, find_rounded, list_halvings
from cnnprobe.crash.facts.joins import Cat, read_cat, write_parts
from cnnprobe.crash.suspect import POSSIBLE, Candidates

_PROGRAM = """
  class UNet(nn.Module):
      def __init__(self):
          super().__init__()
          self.down = nn.Conv2d(3, 4, 3, padding=1)
          self.middle = nn.Conv2d(4, 8, 3, padding=1)
          self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
          self.out = nn.Conv2d(8, 1, 1)
      def forward(self, x):
          skip = self.down(x)
          up = self.up(self.middle(F.max_pool2d(skip, 2)))
-         return self.out(torch.cat([skip, up], dim=1))
+         return self.out(torch.cat([skip, F.interpolate(up, size=skip.shape[2:])], dim=1))
  model, args = UNet(), (torch.randn(2, 3, 25, 25),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="F.interpolate(up, size=skip.shape[2:])")


@cause("CP037", "map-size-not-divisible", EXAMPLE, family="cat-mismatch", prior=402)
def map_size_not_divisible(crash: Crash) -> Suspects:
    """A map is halved and doubled again, but its height or width does not divide by two.

    Why it happens: a pooling of stride 2 makes 12 of 25, of which an up-convolution makes 24, while
    the skip of the encoder still has 25.
    What to do: resize to the skip with F.interpolate(x, size=skip.shape[2:]), or pad with F.pad; or
    give the model images whose sizes divide by all of its strides together.
    Known exceptions: convolutions without padding also make a map smaller.
    Source: Ronneberger et al. 2015, "U-Net", section 2, arXiv:1505.04597.
    """
    if (cat := read_cat(crash.call)) is None or not cat.differing or min(cat.differing) < 2:
        return
    if (rounded := find_rounded(crash, cat.parts)) is None:
        return
    candidates = [*resize_parts(crash, cat), *_resize_input(crash, cat)]
    message = (
        f"{cat.call.kind} in {crash.describe_module(crash.owner)}: the sizes differ, as"
        f" {crash.describe_call(rounded.call)} makes {rounded.after} of {rounded.before},"
        f" which does not divide by {rounded.stride}"
    )
    yield blame(crash.owner, message, *candidates, arithmetic=write_parts(crash, cat.parts))


def _resize_input(crash: Crash, cat: Cat) -> Candidates:
    """The next larger input that divides by all strides together."""
    divisor = count_divisor(list_halvings(crash, *cat.parts))
    pixels = crash.root_inputs[0].shape[2:] if crash.root_inputs else ()
    sizes = tuple(math.ceil(n / divisor) * divisor for n in pixels)
    if sizes != pixels:
        yield propose(resize_input(sizes, multiple=divisor), weight=POSSIBLE)
