from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.skips import TakeSkips
from cnnprobe.crash.facts.joins import read_cat, write_parts
from cnnprobe.crash.facts.skips import list_skips, name_tensor

_PROGRAM = """
  class UNet(nn.Module):
      def __init__(self):
          super().__init__()
          self.downs = nn.ModuleList(nn.Conv2d(i, 2 * i, 3, padding=1) for i in (4, 8, 16))
          self.ups = nn.ModuleList(nn.ConvTranspose2d(i, i, 2, 2) for i in (32, 16, 8))
          self.merges = nn.ModuleList(nn.Conv2d(2 * i, i // 2, 1) for i in (32, 16, 8))
      def forward(self, x):
          skips = []
          for down in self.downs:
              x = down(x)
              skips.append(x)
              x = F.max_pool2d(x, 2)
-         for up, merge, skip in zip(self.ups, self.merges, skips):
+         for up, merge, skip in zip(self.ups, self.merges, skips[::-1]):
              x = merge(torch.cat([up(x), skip], dim=1))
          return x
  model, args = UNet(), (torch.randn(2, 4, 16, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="in reverse order")


@cause("CP0A5", "skip-of-another-level", EXAMPLE, family="cat-mismatch", prior=404)
def skip_of_another_level(crash: Crash) -> Suspects:
    """A decoder is given the skip of another level of the encoder than its own.

    Why it happens: the encoder appends its skips from the largest map to the smallest, but the
    decoder needs the smallest first.
    What to do: skips[::-1], or skips.pop() for skips.pop(0).
    Known exceptions: none.
    Source: Ronneberger et al. 2015, "U-Net", section 2, arXiv:1505.04597.
    """
    cat = read_cat(crash.call)
    if cat is None or not cat.differing or min(cat.differing) < 2 or len(cat.parts) != 2:
        return
    given, x = sorted(cat.parts, key=lambda t: t.source if isinstance(t.source, int) else -1)
    skips = list_skips(crash, x)
    fitting = [t for t in skips if t.shape[2:] == x.shape[2:]]
    if given.source not in [t.source for t in skips] or not fitting:
        return
    needed = fitting[0]
    is_reversed = len(skips) > 1 and given.source == skips[0].source and needed == skips[-1]
    title = f"concatenate with {name_tensor(crash, needed)} instead of {name_tensor(crash, given)}"
    edit = TakeSkips(
        title=title + (", and take all skips in reverse order" if is_reversed else ""),
        code="skips[::-1]" if is_reversed else "",
        module=crash.owner,
        skips=tuple((t, crash.find_producer(t)) for t in skips),
        cats=cat.call.kind,
    )
    message = (
        f"{cat.call.kind} in {crash.describe_module(crash.owner)} gets the skip of another"
        f" level: {given.shape} beside {x.shape}"
    )
    arithmetic = write_parts(crash, cat.parts)
    yield blame(crash.owner, message, edit, arithmetic=arithmetic, needs_proof=True)
