"""A U-Net whose input does not divide by its strides."""

import math
from collections.abc import Iterator

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.edits.parts import resize_parts
from cnnprobe.crash.facts.halvings import count_divisor, find_rounded, list_halvings
from cnnprobe.crash.facts.joins import Cat, read_cat, write_parts
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Candidate, Suspect, propose

EXAMPLE = Example(
    """
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
            return self.out(torch.cat([skip, up], dim=1))


    model, args = UNet(), (torch.randn(2, 3, 25, 25),)
    """,
    old="torch.cat([skip, up], dim=1)",
    new="torch.cat([skip, F.interpolate(up, size=skip.shape[2:])], dim=1)",
    blames="",
    repair="F.interpolate(up, size=skip.shape[2:])",
)


@cause(
    code="CP037",
    name="map-size-not-divisible",
    family="cat-mismatch",
    prior=402,
    examples=EXAMPLE,
)
def map_size_not_divisible(crash: Crash) -> Iterator[Suspect]:
    """A map is halved and doubled again, but its height or width does not divide by two.

    Why it happens: a pooling of stride 2 makes 12 of 25, of which an up-convolution makes 24, while
    the skip of the encoder still has 25.
    What to do: resize to the skip with F.interpolate(x, size=skip.shape[2:]), or pad with F.pad; or
    give the model images whose sizes divide by all of its strides together.
    Known exceptions: convolutions without padding also make a map smaller.
    Source: Ronneberger et al. 2015, "U-Net", section 2, arXiv:1505.04597.
    """
    cat = read_cat(crash.call)
    if cat is None or not cat.differing or min(cat.differing) < 2:
        return
    rounded = find_rounded(crash, cat.parts)
    if rounded is None:
        return
    candidates = [*resize_parts(crash, cat), *_resize_input(crash, cat)]
    yield Suspect(
        module=crash.owner,
        message=f"{cat.call.kind} in {describe_module(crash, crash.owner)}: the sizes differ, as"
        f" {crash.describe_call(rounded.call)} makes {rounded.after} of {rounded.before},"
        f" which does not divide by {rounded.stride}",
        arithmetic=write_parts(crash, cat.parts),
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _resize_input(crash: Crash, cat: Cat) -> Iterator[Candidate]:
    """The next larger input that divides by all strides together."""
    divisor = count_divisor(list_halvings(crash, *cat.parts))
    pixels = crash.root_inputs[0].shape[2:] if crash.root_inputs else ()
    sizes = tuple(math.ceil(n / divisor) * divisor for n in pixels)
    if sizes != pixels:
        yield propose(resize_input(sizes, multiple=divisor), weight=POSSIBLE)
