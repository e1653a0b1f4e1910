"""A module whose __init__ never called super().__init__()."""

import traceback
from collections.abc import Iterator

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import add_first_statement
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.recorder.inventory import class_of

EXAMPLE = Example(
    """
    class Head(nn.Module):
        def __init__(self):
            self.fc = nn.Linear(8, 2)

        def forward(self, x):
            return self.fc(x)


    model = nn.Linear(4, 8)


    def run(model):
        nn.Sequential(model, Head())(torch.randn(2, 4))
    """,
    old="        self.fc = nn.Linear(8, 2)",
    new="        super().__init__()\n        self.fc = nn.Linear(8, 2)",
    blames=None,
    repair="call super().__init__() first in the __init__ of Head",
    is_tried=False,
)


@cause(
    code="CP0A1",
    name="missing-super-init",
    stage=("forward", "loss"),
    family="missing-attribute",
    prior=910,
    examples=EXAMPLE,
)
def missing_super_init(crash: Crash) -> Iterator[Suspect]:
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
    yield Suspect(
        module=None,
        message=f"{kind.__name__}.__init__ sets a layer or parameter before nn.Module.__init__ has "
        "run, which makes the place for them",
        arithmetic=f"it has {', '.join(sorted(module.__dict__)) or 'no attribute'} so far",
        candidates=(propose(edit),),
        weight=STRONG,
        raised_in=f"{kind.__name__}.__init__",
    )


def find_unfinished(error: BaseException) -> nn.Module | None:
    """The module whose attributes were set or read before nn.Module.__init__ ran."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        is_access = frame.f_code.co_name in ("__setattr__", "__getattr__")
        if is_access and isinstance(module, nn.Module) and "_modules" not in module.__dict__:
            return module
    return None
