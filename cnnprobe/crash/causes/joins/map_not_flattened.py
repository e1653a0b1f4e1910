from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.parts import change_part
from cnnprobe.crash.facts.joins import describe_output, read_cat, write_parts
from cnnprobe.crash.facts.operands import find_operands
from cnnprobe.crash.facts.words import count_elements
from cnnprobe.records.trace import TensorInfo

_PROGRAM = """
  class Patches(nn.Module):
      def __init__(self):
          super().__init__()
          self.embed = nn.Conv2d(3, 8, 4, stride=4)
          self.positions = nn.Parameter(torch.zeros(1, 16, 8))
          self.head = nn.Linear(8, 2)
      def forward(self, x):
-         x = self.embed(x)
+         x = self.embed(x).flatten(2).transpose(1, 2)
          x = x + self.positions
          return self.head(x.mean(1))
  model, args = Patches(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="x.flatten(2).transpose(1, 2)")


@cause("CP041", "map-not-flattened", EXAMPLE, family="shape-mismatch", prior=403)
def map_not_flattened(crash: Crash) -> Suspects:
    """A feature map meets a sequence without having been made one.

    Why it happens: a convolution gives (N, C, H, W), but positions and class tokens are made for
    (N, H * W, C).
    What to do: x.flatten(2).transpose(1, 2) after the convolution.
    Known exceptions: none.
    Source: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", section 3.1, arXiv:2010.11929.
    """
    pair, cat, call = find_operands(crash), read_cat(crash.call), crash.call
    parts = (pair.a, pair.b) if pair is not None else cat.parts if cat is not None else ()
    if call is None or len(parts) != 2 or (cat is not None and cat.dim != 1):
        return
    for x, sequence in (parts, parts[::-1]):
        if not _fits_flattened(x, sequence, is_cat=cat is not None):
            continue
        rank = len(x.shape)
        code = "{x}.flatten(2).transpose(1, 2)" if rank > 3 else "{x}.transpose(1, 2)"

        def flatten(x: Tensor, _: Tensor, rank: int = rank) -> Tensor:
            return x.flatten(2).transpose(1, 2) if x.dim() == rank else x

        verb = "flatten and transpose" if rank > 3 else "transpose"
        edit = change_part(crash, call, x, flatten, code, verb=verb, like=sequence)
        message = (
            f"{describe_output(crash, x)} is used as a sequence in"
            f" {crash.describe_module(crash.owner)}, but its channels are in dim 1:"
            f" {x.shape}"
        )
        yield blame(crash.owner, message, edit, arithmetic=write_parts(crash, parts))


def _fits_flattened(x: TensorInfo, sequence: TensorInfo, *, is_cat: bool) -> bool:
    """Whether (N, C, H, W) fits as (N, H * W, C), and does not by chance fit as it is."""
    rank, shape = len(x.shape), sequence.shape
    if rank < 3 or not 2 <= len(shape) <= 3 or shape[-1] != x.shape[1]:
        return False
    places = count_elements(x.shape[2:])
    if is_cat:
        return len(shape) == 3 and (rank > 3 or x.shape[2] != shape[2]) and shape[1] <= places
    return shape[-2] == places and (rank > 3 or x.shape[1:] != shape[-2:])
