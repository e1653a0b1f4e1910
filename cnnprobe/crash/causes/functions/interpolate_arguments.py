from typing import Any

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_call, change_tensor, set_argument
from cnnprobe.crash.facts.words import read_argument
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Candidates
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall

# Dims of the input of each mode. Source: torch.nn.functional.interpolate, "mode".
_DIMS = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
_MODES = {3: "linear", 4: "bilinear", 5: "trilinear"}

_MODE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv1d(3, 8, 3, padding=1)
      def forward(self, x):
-         return F.interpolate(self.conv(x), scale_factor=2, mode="bilinear")
+         return F.interpolate(self.conv(x), scale_factor=2, mode="linear")
  model, args = Net(), (torch.randn(2, 3, 10),)
"""
_BOTH = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 4, 3, padding=1)
      def forward(self, x):
-         return F.interpolate(self.conv(x), size=(5, 5), scale_factor=2)
+         return F.interpolate(self.conv(x), size=(5, 5))
  model, args = Net(), (torch.randn(2, 3, 10, 10),)
"""
BOTH = Example(_BOTH, blames="", repair="leave out scale_factor")
MODE = Example(_MODE, blames="", repair="mode='linear'")
_SIZE = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.down, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)
      def forward(self, x):
-         return F.interpolate(self.head(self.down(x)), size=x.shape)
+         return F.interpolate(self.head(self.down(x)), size=x.shape[-2:])
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
SIZE = Example(_SIZE, blames="", repair="size=x.shape[-2:]")


@cause("CP063", "interpolate-arguments", (MODE, SIZE, BOTH), family="shape-mismatch", prior=296)
def interpolate_arguments(crash: Crash) -> Suspects:
    """The mode or the size of an interpolation is for another number of dims.

    Why it happens: linear is for (N, C, L), bilinear and bicubic for (N, C, H, W), trilinear for
    (N, C, D, H, W); size has one number for each dim after N and C.
    What to do: use the mode for these dims, or pass size=x.shape[2:].
    Known exceptions: the modes nearest and area are for all of them.
    Source: torch.nn.functional.interpolate.
    """
    call = crash.call
    operation = find(call) if call is not None else None
    if call is None or operation is None or operation.name != "interpolate" or not crash.inputs:
        return
    yield from _explain_both(crash, call)
    yield from _explain_size(crash, call)
    yield from _explain_mode(crash, call)


def _read(crash: Crash, call: ModuleCall, name: str) -> Any:
    """A setting of nn.Upsample, or an argument of the function."""
    return read_argument(call, name) if call.fqn is None else getattr(crash.leaf, name, None)


def _explain_both(crash: Crash, call: ModuleCall) -> Suspects:
    size, scale = _read(crash, call, "size"), _read(crash, call, "scale_factor")
    if size is None or scale is None or call.fqn is not None:
        return
    title = "leave out scale_factor at {place}, as size says the same"
    edit = set_argument(crash, call, "scale_factor", None, title=title)
    message = f"{crash.describe_call(call)} got both size={size} and scale_factor={scale}"
    yield blame(crash.owner, message, edit, arithmetic=f"size={size}, scale_factor={scale}")


def _explain_size(crash: Crash, call: ModuleCall) -> Suspects:
    x = crash.inputs[0]
    size, spatial = _read(crash, call, "size"), len(x.shape) - 2
    if not isinstance(size, tuple) or spatial < 1 or len(size) == spatial:
        return
    code = f"size=x.shape[-{spatial}:]"
    title = f"give it {spatial} sizes at {{place}}: {code}"
    edit = set_argument(crash, call, "size", tuple(size[-spatial:]), title=title, code=code)
    yield blame(
        crash.owner if call.fqn is None else call.fqn,
        f"{crash.describe_call(call)} resizes the {spatial} dims after batch and channels "
        f"but got {len(size)} sizes: {size}",
        edit if len(size) > spatial else None,
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}",
    )


def _explain_mode(crash: Crash, call: ModuleCall) -> Suspects:
    x, mode = crash.inputs[0], str(_read(crash, call, "mode"))
    expected, rank = _DIMS.get(mode), len(x.shape)
    if expected is None or rank == expected:
        return
    fits = f"; '{_MODES[rank]}' is for {rank}" if rank in _MODES else ""
    yield blame(
        crash.owner if call.fqn is None else call.fqn,
        f"{crash.describe_call(call)} with mode='{mode}' expects {expected} dims "
        f"but got {rank} in {x.shape}{fits}",
        *_mend_mode(crash, call, rank, expected),
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}",
    )


def _mend_mode(crash: Crash, call: ModuleCall, rank: int, expected: int) -> Candidates:
    x = crash.inputs[0]
    lacks_one = rank == expected - 1
    is_batched = crash.line is not None and crash.line.samples == x.shape[0]
    if lacks_one and is_batched:
        edit = adapt_call(crash, lambda t: t.unsqueeze(1), "{x}.unsqueeze(1)")
        yield propose(edit, weight=STRONG)
    elif lacks_one and crash.find_root(x) is not None and len(crash.root_inputs[0].shape) == rank:
        title = "add the batch dimension: x.unsqueeze(0)"
        edit = change_tensor(crash, x, lambda t: t[None], "{x}[None]", title=title)
        yield propose(edit, weight=STRONG)
    if rank in _MODES:
        yield propose(set_argument(crash, call, "mode", _MODES[rank]))
    if lacks_one:
        edit = adapt_call(crash, lambda t: t.unsqueeze(1), "{x}.unsqueeze(1)")
        yield propose(edit, weight=POSSIBLE)
