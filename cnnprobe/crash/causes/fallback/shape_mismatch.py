from cnnprobe.crash.cause import FALLBACK, Crash, Example, Suspects, blame, cause

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc = nn.Linear(4, 4)
      def forward(self, x):
          return torch.linalg.inv(self.fc(x))
- model, args = Net(), (torch.randn(3, 4),)
+ model, args = Net(), (torch.randn(4, 4),)
"""
EXAMPLE = Example(_PROGRAM, blames="", is_tried=False)


@cause("CP098", "shape-mismatch", EXAMPLE, prior=1)
def shape_mismatch(crash: Crash) -> Suspects:
    """An operation refused the tensors it got, and no other cause says why.

    Why it happens: the shapes, the dtypes or the values do not fit the operation.
    What to do: compare what arrived with what its page in the documentation of torch asks for.
    Known exceptions: none.
    Source: none.
    """
    call = crash.call
    if call is None or not crash.inputs or (call.fqn is not None and crash.leaf is None):
        return
    arrived = ", ".join(f"{t.shape} {t.dtype}" for t in crash.inputs[:8])
    message = (
        f"the cause is not known; {crash.describe_call(call)} raised when it was given {arrived}"
    )
    yield blame(crash.owner if call.fqn is None else call.fqn, message, weight=FALLBACK)
