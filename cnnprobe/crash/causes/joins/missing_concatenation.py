from collections.abc import Iterator

from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.skips import TakeSkips, read_given, write_concatenation
from cnnprobe.crash.facts.channels import Lack, find_lack
from cnnprobe.crash.facts.joins import list_ancestors, read_cat
from cnnprobe.crash.facts.skips import find_variable, list_skips, list_untaken, name_tensor
from cnnprobe.crash.facts.words import quote
from cnnprobe.recorder.inventory import class_of
from cnnprobe.records.trace import TensorInfo

_FIRST = """
  class Up(nn.Module):
      def __init__(self, c_in, c_out):
          super().__init__()
          self.up = nn.ConvTranspose2d(c_in, c_out, 2, stride=2)
          self.conv = nn.Conv2d(2 * c_out, c_out, 3, padding=1)
      def forward(self, x, skip=None):
          x = self.up(x)
          if skip is not None:
              x = torch.cat([x, skip], dim=1)
          return F.relu(self.conv(x))
  class UNet(nn.Module):
      def __init__(self):
          super().__init__()
          self.enc1 = nn.Conv2d(1, 8, 3, padding=1)
          self.enc2 = nn.Conv2d(8, 16, 3, padding=1)
          self.middle = nn.Conv2d(16, 32, 3, padding=1)
          self.up2, self.up1 = Up(32, 16), Up(16, 8)
      def forward(self, x):
          e1 = self.enc1(x)
          e2 = self.enc2(F.max_pool2d(e1, 2))
          x = self.middle(F.max_pool2d(e2, 2))
-         return self.up1(self.up2(x))
+         return self.up1(self.up2(x, e2), e1)
  model, args = UNet(), (torch.randn(2, 1, 16, 16),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.color = nn.Conv2d(3, 16, 3, padding=1)
          self.depth = nn.Conv2d(1, 8, 3, padding=1)
          self.fuse = nn.Conv2d(24, 4, 1)
      def forward(self, color, depth):
          a = self.color(color)
          b = self.depth(depth)
-         return self.fuse(a)
+         return self.fuse(torch.cat([a, b], dim=1))
  model, args = Net(), (torch.randn(2, 3, 8, 8), torch.randn(2, 1, 8, 8))
"""
EXAMPLES = (
    Example(_FIRST, blames="up2", repair="with the output of 'enc2'"),
    Example(_SECOND, blames="", repair="with the output of 'depth'"),
)


@cause("CP0A0", "missing-concatenation", EXAMPLES, family="channel-mismatch", prior=861)
def missing_concatenation(crash: Crash) -> Suspects:
    """A layer expects the channels of two tensors, but they were never concatenated.

    Why it happens: a decoder block of a U-Net is made for its input beside the skip of the same
    height and width, and the skip is not passed to it; or the output of a second branch is left
    in a variable that nothing reads.
    What to do: torch.cat([x, skip], dim=1) before the layer.
    Known exceptions: in a decoder without skips the layer was made too wide.
    Source: Ronneberger et al. 2015, "U-Net", section 2, arXiv:1505.04597.
    """
    if (lack := find_lack(crash)) is None:
        return
    shape = (lack.x.shape[0], lack.missing, *lack.x.shape[2:])
    skips = list_skips(crash, lack.x) if _can_join(crash, lack) else []
    untaken = [t for t in list_untaken(crash) if t.shape == shape]
    found = [*untaken, *(t for t in skips if t.shape == shape), *_list_dense(crash, lack, shape)]
    if not found:
        return
    skip, place = found[0], crash.find_container(lack.module)
    name = find_variable(crash, skip)
    joined = f"torch.cat([{read_given(crash, place)}, {name or 'skip'}], dim=1)"
    # One that was never kept in a variable of its own may not be meant as a skip.
    weight = STRONG if name or skip in untaken else POSSIBLE
    called = {call.fqn for call in crash.trace.calls}
    later = () if skip in untaken else tuple(fqn for fqn in crash.modules if fqn not in called)
    kept = skips if skip in skips else [skip]
    edit = TakeSkips(
        title=f"concatenate what {quote(place)} gets with {name_tensor(crash, skip)}: {joined}",
        code=joined,
        module=place,
        skips=tuple((t, crash.find_producer(t)) for t in kept),
        layers=(lack.module, *later),
        written=write_concatenation(crash, place, skip),
    )
    owner = crash.find_module_above(crash.call.parent if crash.call is not None else None)
    while class_of(crash.modules[owner]).__module__.startswith("torch.nn."):
        owner = owner.rpartition(".")[0]
    yield blame(
        owner,
        f"{crash.describe_module(lack.module)} expects {lack.expected} channels but got"
        f" {lack.x.shape[1]}: {name_tensor(crash, skip)}, which has the other {lack.missing},"
        " is not concatenated with it",
        propose(edit, weight=weight),
        arithmetic=f"{lack.x.shape[1]} + {lack.missing} = {lack.expected};"
        f" {lack.x.shape} and {skip.shape}",
        weight=weight,
        needs_proof=True,
    )


def _can_join(crash: Crash, lack: Lack) -> bool:
    """Whether code of the user's stands between what made a map and the layer that got it."""
    made = crash.find_producer(lack.x)
    if made is None or crash.call is None or len([t for t in made.inputs if t.shape]) > 1:
        return False  # it was joined with something
    above = set(_list_parents(crash, made.parent))
    common = next((i for i in _list_parents(crash, crash.call.parent) if i in above), 0)
    module = crash.modules.get(crash.trace.calls[common].fqn or "")
    return module is None or not class_of(module).__module__.startswith("torch.nn.")


def _list_parents(crash: Crash, index: int | None) -> Iterator[int]:
    while index is not None:
        yield index
        index = crash.trace.calls[index].parent


def _list_dense(crash: Crash, lack: Lack, shape: tuple[int, ...]) -> list[TensorInfo]:
    """A part of an earlier concatenation that the latest one leaves out."""
    if (last := read_cat(crash.find_producer(lack.x))) is None:
        return []
    calls = [crash.trace.calls[i] for i in list_ancestors(crash, *last.parts)]
    parts = [part for call in calls if (cat := read_cat(call)) for part in cat.parts]
    given = [part.source for part in last.parts]
    return [part for part in parts if part.shape == shape and part.source not in given]
