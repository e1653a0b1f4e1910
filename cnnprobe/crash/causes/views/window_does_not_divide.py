import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import change_input, resize_input
from cnnprobe.crash.facts.features import is_failing_view
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.words import operation
from cnnprobe.crash.suspect import USUAL

_PROGRAM = """
  class Windows(nn.Module):
      def __init__(self, size=4):
          super().__init__()
          self.size = size
          self.conv = nn.Conv2d(3, 8, 1)
      def forward(self, x):
          n, s = x.shape[0], self.size
          x = self.conv(x)
          h, w = x.shape[2:]
          x = x.view(n, 8, h // s, s, w // s, s)
          return x.mean((3, 5)).flatten(1)
- model, args = Windows(), (torch.randn(2, 3, 30, 28),)
+ model, args = Windows(), (torch.randn(2, 3, 32, 28),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="multiples of 4")


@cause("CP0J0", "window-does-not-divide", EXAMPLE, family="shape-mismatch", prior=812)
def window_does_not_divide(crash: Crash) -> Suspects:
    """A map is cut into windows of a size that does not divide its height and width.

    Why it happens: view(n, h // s, s, w // s, s, c) drops what is left over, so that the sizes
    come to fewer elements than the map has. Windows and patches need multiples of their size.
    What to do: give the model such an input, or pad it with F.pad.
    Known exceptions: where the windows are to overlap, x.unfold is meant.
    Source: Liu et al. 2021, "Swin Transformer", arXiv:2103.14030, whose code pads the map.
    """
    if (call := crash.call) is None or not is_failing_view(call):
        return
    x, sizes = call.inputs[0], read_sizes(call)
    cuts = _find_cuts(x.shape, sizes)
    windows = {window for _, window in cuts.values()}
    if len(windows) != 1 or len(cuts) < 2:  # height and width: one dim alone is no map
        return
    window = windows.pop()
    uneven = [n for n, each in cuts.values() if n % each]
    yield blame(
        crash.owner,
        f"{operation(call)}{sizes} cuts {x.shape} into windows of {window}, which does not divide "
        f"{' and '.join(map(str, dict.fromkeys(uneven)))}",
        *_list_candidates(crash, cuts, window),
        arithmetic="; ".join(f"{n} = {n // window} x {window} + {n % window}" for n in uneven),
    )


def _find_cuts(shape: tuple[int, ...], sizes: tuple[int, ...]) -> dict[int, tuple[int, int]]:
    """The dims that are cut into windows: to their size and that of the window; {}: none."""
    found: dict[int, tuple[int, int]] = {}
    rest, is_uneven = list(sizes), False
    for dim, n in enumerate(shape):
        if rest[:1] in ([n], [-1]):
            rest.pop(0)
        elif len(rest) > 1 and rest[1] > 0 and rest[0] == n // rest[1]:
            found[dim] = n, rest[1]
            is_uneven = is_uneven or n % rest[1] > 0
            del rest[:2]
        else:
            return {}
    return found if is_uneven and not rest else {}


def _list_candidates(crash: Crash, cuts: dict[int, tuple[int, int]], window: int) -> Candidates:
    """An input whose map has multiples of the window, larger or padded."""
    inputs, sizes = crash.root_inputs, [n for n, _ in cuts.values()]
    if not inputs or len(inputs[0].shape) != 4 or len(sizes) != 2:
        return
    given = inputs[0].shape[2:]
    if any(n % size for n, size in zip(given, sizes, strict=True)):
        return
    steps = [n // size * window for n, size in zip(given, sizes, strict=True)]
    wanted = tuple(-(-n // step) * step for n, step in zip(given, steps, strict=True))
    if len(set(steps)) == 1:
        yield propose(resize_input(wanted, multiple=steps[0]), weight=STRONG)
    pads = (0, wanted[1] - given[1], 0, wanted[0] - given[0])

    def pad(image: Tensor) -> Tensor:
        return F.pad(image, pads)

    yield propose(change_input(pad, f"F.pad({{x}}, {pads})"), weight=USUAL)
