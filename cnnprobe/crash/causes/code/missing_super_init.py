from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import add_first_statement
from cnnprobe.crash.facts.frames import list_frames
from cnnprobe.recorder.inventory import class_of

_PROGRAM = """
  class Head(nn.Module):
      def __init__(self):
+         super().__init__()
          self.fc = nn.Linear(8, 2)
      def forward(self, x):
          return self.fc(x)
  model = nn.Linear(4, 8)
  def run(model):
      nn.Sequential(model, Head())(torch.randn(2, 4))
"""
EXAMPLE = Example(
    _PROGRAM, repair="call super().__init__() first in the __init__ of Head", is_tried=False
)


@cause(
    "CP0A1",
    "missing-super-init",
    EXAMPLE,
    stage=("forward", "loss"),
    family="missing-attribute",
    prior=910,
)
def missing_super_init(crash: Crash) -> Suspects:
    """A module got a layer before nn.Module.__init__ had run.

    Why it happens: nn.Module.__init__ makes the places for layers and parameters. An __init__
    that does not call it, or calls it too late, has none.
    What to do: call super().__init__() first.
    Known exceptions: none.
    Source: PyTorch, torch.nn.Module.
    """
    module = find_unfinished(crash.error) if isinstance(crash.error, AttributeError) else None
    if module is None:
        return
    kind = class_of(module)
    code = getattr(vars(kind).get("__init__"), "__code__", None)
    edit = Advice(
        title=f"call super().__init__() first in the __init__ of {kind.__name__}",
        code="super().__init__()",
        written=None if code is None else add_first_statement(code, "super().__init__()"),
    )
    message = (
        f"{kind.__name__}.__init__ sets a layer or parameter before nn.Module.__init__ has "
        "run, which makes the place for them"
    )
    arithmetic = f"it has {', '.join(sorted(module.__dict__)) or 'no attribute'} so far"
    raised_in = f"{kind.__name__}.__init__"
    yield blame(None, message, propose(edit), arithmetic=arithmetic, raised_in=raised_in)


def find_unfinished(error: BaseException) -> nn.Module | None:
    """The module whose attributes were set or read before nn.Module.__init__ ran."""
    for frame in list_frames(error):
        module = frame.f_locals.get("self")
        is_access = frame.f_code.co_name in ("__setattr__", "__getattr__")
        if is_access and isinstance(module, nn.Module) and "_modules" not in module.__dict__:
            return module
    return None
