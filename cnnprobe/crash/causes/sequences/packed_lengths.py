from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence

from cnnprobe.crash.cause import STRONG, Candidate, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.outside import Check
from cnnprobe.crash.edits.places import find_called
from cnnprobe.crash.facts.frames import read_frame
from cnnprobe.crash.facts.words import get_argument
from cnnprobe.crash.suspect import Candidates
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  from torch.nn.utils.rnn import pack_padded_sequence
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.rnn = nn.LSTM(8, 16, batch_first=True)
      def forward(self, x, lengths):
-         packed = pack_padded_sequence(x, lengths, batch_first=True)
+         packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
          _, (h, _) = self.rnn(packed)
          return h[-1]
  model, args = Net(), (torch.randn(3, 6, 8), torch.tensor([3, 6, 2]))
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="enforce_sorted=False", on_meta=False)

_STRIDE = """
  from torch.nn.utils.rnn import pack_padded_sequence
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv1d(8, 8, 3, stride=2, padding=1)
          self.rnn = nn.GRU(8, 4, batch_first=True)
      def forward(self, x, lengths):
          x = self.conv(x).transpose(1, 2)
-         x = pack_padded_sequence(x, lengths, batch_first=True)
+         x = pack_padded_sequence(x, lengths // 2, batch_first=True)
          return self.rnn(x)[1][-1]
  model, args = Net(), (torch.randn(3, 8, 20), torch.tensor([20, 12, 8]))
"""
STRIDE = Example(_STRIDE, blames="", repair="pass lengths // 2", on_meta=False)


@cause(
    "CP0B0",
    "packed-lengths",
    (EXAMPLE, STRIDE),
    stage=("forward", "around"),
    family="shape-mismatch",
    prior=494,
)
def packed_lengths(crash: Crash) -> Suspects:
    """The lengths given to pack_padded_sequence do not fit the sequences.

    Why it happens: it expects one length a sample, each at least 1 and at most the padded length,
    on the CPU, and the longest first unless enforce_sorted=False.
    What to do: pass enforce_sorted=False, lengths.cpu(), and batch_first as the batch has it.
    Known exceptions: none.
    Source: torch.nn.utils.rnn.pack_padded_sequence.
    """
    yield from _suspect_packed(crash)
    found = read_frame(crash.error, "torch/nn/utils/rnn.py", "pack_padded_sequence")
    if found is None or not isinstance(found.get("input"), Tensor):
        return
    x, batch_first = found["input"], bool(found.get("batch_first"))
    lengths = torch.as_tensor(found.get("lengths"))
    if x.dim() < 2 or lengths.dim() != 1 or lengths.is_meta:
        return
    options = {"batch_first": batch_first, "enforce_sorted": bool(found.get("enforce_sorted"))}
    if (fault := _find_fault(x, lengths, options)) is None:
        return
    message, title, changes = fault
    yield blame(
        crash.owner if crash.stage == "forward" else None,
        message,
        *_try(x, lengths, options | changes, title),
        arithmetic=f"sequences {tuple(x.shape)}, lengths {_show(lengths)}",
        raised_in="pack_padded_sequence",
    )


def _suspect_packed(crash: Crash) -> Suspects:
    """Lengths beyond the steps, which are packed, and of which the recurrent layer then raises."""
    row = crash.find_producer(crash.inputs[0]) if crash.inputs else None
    if row is None or not row.kind.endswith("_pack_padded_sequence") or len(row.inputs) < 2:
        return
    x, lengths, is_first = row.inputs[0], row.inputs[1], bool(get_argument(row, 2, "batch_first"))
    bounds, time = crash.read_bounds(lengths), x.shape[1 if is_first else 0]
    if bounds is None or bounds[1] <= time:
        return
    longest = int(bounds[1])
    yield blame(
        crash.find_module_above(row.parent),
        f"a length is {longest}, but the sequences have {time} steps",
        *_shorten(crash, row, longest, time),
        arithmetic=f"sequences {x.shape} from {crash.describe_origin(x)}, lengths up to {longest}",
    )


def _shorten(crash: Crash, row: ModuleCall, longest: int, time: int) -> Candidates:
    """The lengths after the strides that the sequences went through."""
    factor = longest // time
    code = f"{{x}} // {factor}" if longest == factor * time else f"{{x}}.clamp(max={time})"

    def shorten(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        lengths = args[1] // factor if "//" in code else args[1].clamp(max=time)
        return func(args[0], lengths, *args[2:], **kwargs)

    def write() -> list[TextChange]:
        file, call = find_called(row.source, "pack_padded_sequence")
        return [file.replace(call.args[1], code.format(x=file.source(call.args[1])))]

    title = f"pass {code.format(x='lengths')} at {{place}}: the steps after the strides"
    edit = rewrite_call(crash, row, shorten, title=title, code=code, written=write)
    yield propose(edit, weight=STRONG)


def _find_fault(
    x: Tensor, lengths: Tensor, options: dict[str, Any]
) -> tuple[str, str, dict[str, Any]] | None:
    """What is wrong, what to write, and the arguments that change."""
    first = options["batch_first"]
    batch, time = (x.shape[0], x.shape[1]) if first else (x.shape[1], x.shape[0])
    if lengths.device.type != "cpu":
        return "the lengths have to be on the CPU", "pass lengths.cpu()", {}
    if len(lengths) != batch:
        said = f"there are {len(lengths)} lengths, but the batch is {batch} (batch_first={first})"
        return said, f"pass batch_first={not first}", {"batch_first": not first}
    if int(lengths.min()) < 1:
        return "a length is 0: every sequence needs a step", "leave out empty sequences", {}
    if int(lengths.max()) > time:
        return f"a length is {int(lengths.max())}, but the sequences have {time} steps", "", {}
    if options["enforce_sorted"] and bool((lengths[1:] > lengths[:-1]).any()):
        said = "the lengths are not sorted, the longest first"
        return said, "pass enforce_sorted=False", {"enforce_sorted": False}
    return None


def _try(x: Tensor, lengths: Tensor, options: dict[str, Any], title: str) -> tuple[Candidate, ...]:
    if not title:
        return ()

    def check() -> str:
        with torch.no_grad():
            packed = pack_padded_sequence(x.detach(), lengths.cpu(), **options)
        return f"it packs {packed.data.shape[0]} steps of {len(lengths)} sequences"

    return (propose(Check(title=title, check=check), weight=STRONG),)


def _show(lengths: Tensor) -> str:
    values = ", ".join(map(str, lengths[:8].tolist()))
    return f"({values}, ...)" if len(lengths) > 8 else f"({values})"
