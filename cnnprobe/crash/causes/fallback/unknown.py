from collections.abc import Iterator

from torch import Tensor

from cnnprobe.crash.cause import FALLBACK, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.facts.frames import list_names, read_locals

_LONGEST = 60  # characters of a value that are shown

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 2)
-         self.limit = 2
+         self.limit = 3
      def forward(self, x):
          if self.limit < 3:
              raise ValueError("the limit is too low")
          return self.fc(x)
  model, args = Net(), (torch.randn(3, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", is_tried=False)


@cause("CP099", "unknown", EXAMPLE, stage=("forward", "loss", "backward", "step"))
def unknown(crash: Crash) -> Suspects:
    """No known cause fits: the page shows where it raised, and the tensors there.

    Why it happens: the code of the model or of the loop raised an exception of its own, or torch
    did in a way that no other page describes.
    What to do: read the values of the failing line. The trace shows what every layer got.
    Known exceptions: none.
    Source: none.
    """
    call = crash.call
    seen = tuple(_list_values(crash))
    if crash.stage != "forward":
        yield blame(None, "cause unknown", evidence=seen, weight=FALLBACK)
        return
    arrived = ", ".join(f"{t.shape} {t.dtype}" for t in crash.inputs[:8])
    raised = crash.describe_call(call) if call is not None else "the model"
    yield blame(
        crash.owner if call is None or call.fqn is None else call.fqn,
        f"the cause is not known; {raised} raised"
        + (f" when it was given {arrived}" if arrived else ""),
        evidence=seen if call is None or crash.leaf is None else (),
        weight=FALLBACK,
    )


def _list_values(crash: Crash) -> Iterator[str]:
    """What the names on the failing line stood for."""
    values = read_locals(crash.error)
    for name in dict.fromkeys(list_names(crash.error)):
        value = values.get(name)
        if isinstance(value, Tensor):
            dtype = str(value.dtype).removeprefix("torch.")
            yield f"{name} is {tuple(value.shape)} {dtype} on {value.device}"
        elif isinstance(value, tuple | list):
            yield f"{name} is a {type(value).__name__} of {len(value)}"
        elif isinstance(value, int | float | str | None) and name in values:
            yield f"{name} is {repr(value)[:_LONGEST]}"
