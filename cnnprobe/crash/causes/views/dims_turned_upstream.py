from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.facts.joins import write_parts
from cnnprobe.crash.facts.turned import list_turns
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL

_CHUNK = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.stem = nn.Conv2d(3, 8, 3, padding=1)
          self.side = nn.Conv2d(4, 4, 1)
          self.head = nn.Linear(8, 5)
      def forward(self, x):
-         a, b = self.stem(x).chunk(2)
+         a, b = self.stem(x).chunk(2, dim=1)
          return self.head(torch.cat((a, self.side(b)), dim=1).mean((2, 3)))
  model, args = Net(), (torch.randn(6, 3, 8, 8),)
"""
CHUNK = Example(_CHUNK, blames="", repair="use dim=1 in chunk")
_UNPACKED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.enc, self.dec = nn.Linear(12, 8), nn.Linear(4, 12)
      def forward(self, x):
-         mean, spread = self.enc(x)
+         mean, spread = self.enc(x).chunk(2, dim=1)
          return self.dec(mean + spread.exp() * torch.randn_like(mean))
  model, args = Net(), (torch.randn(2, 12),)
"""
UNPACKED = Example(_UNPACKED, blames="", repair="x.chunk(2, dim=1)")


@cause("CP0C0", "dims-turned-upstream", (CHUNK, UNPACKED), family="shape-mismatch", prior=900)
def dims_turned_upstream(crash: Crash) -> Suspects:
    """An operation before the failing call took the wrong dim, and the call got another shape.

    Why it happens: chunk and split take dim 0 unless told otherwise, `a, b = tensor` takes the
    batch apart, F.pad begins with the last dim, irfft gives an even length, pad_packed_sequence
    has its own batch_first, and a view merges whatever dims stand last.
    What to do: give that operation the right dim or order; leave the layers as they are.
    Known exceptions: reported only where the forward passes with the change.
    Source: torch.chunk, torch.nn.functional.pad, torch.fft.irfft, pad_packed_sequence.
    """
    for turn in list_turns(crash):
        # Nothing is built upon it: it has to mend the crash alone.
        yield blame(
            crash.find_module_above(turn.call.parent),
            turn.text,
            *(propose(edit, weight=POSSIBLE) for edit in turn.edits),
            arithmetic=write_parts(crash, crash.inputs),
            weight=STRONG + USUAL,
            needs_proof=True,
        )
