from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.facts.batches import correct_batches, find_maker
from cnnprobe.crash.facts.words import count_of, quote
from cnnprobe.records.trace import TensorInfo

_PROGRAM = """
  class VAE(nn.Module):
      def __init__(self):
          super().__init__()
          self.encode = nn.Linear(20, 8)
          self.mean, self.log_var = nn.Linear(8, 4), nn.Linear(8, 4)
          self.decode = nn.Linear(4, 20)
      def forward(self, x):
          h = torch.relu(self.encode(x))
-         noise = torch.randn(64, 4)
+         noise = torch.randn(x.size(0), 4)
          return self.decode(self.mean(h) + noise * torch.exp(self.log_var(h) / 2))
  model, args = VAE(), (torch.randn(50, 20),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="use x.size(0) instead of 64")


@cause("CP039", "fixed-batch-tensor", EXAMPLE, family="shape-mismatch", prior=450)
def fixed_batch_tensor(crash: Crash) -> Suspects:
    """A tensor was made for a batch of another size than arrived.

    Why it happens: noise, a mask, a token or a state is made with the batch size as a number, in
    the forward or in __init__; the last batch of an epoch and a single sample in use differ.
    What to do: take the size from the input: torch.zeros(x.size(0), 8, device=x.device); or make
    it of one row, which broadcasts.
    Known exceptions: none.
    Source: docs of torch.utils.data.DataLoader (drop_last) and of broadcasting semantics.
    """
    right = crash.batch
    given = [t for t in crash.inputs if t.shape]
    if right is None or not any(t.shape[0] == right for t in given):
        return
    for info in given:
        if (wrong := info.shape[0]) in (1, right):
            continue
        yield from _suspect_maker(crash, info, wrong, right)
        yield from _suspect_buffer(crash, info, wrong, right)


def _suspect_maker(crash: Crash, info: TensorInfo, wrong: int, right: int) -> Suspects:
    call = find_maker(crash, info, wrong)
    if call is not None:
        arithmetic = "; ".join(f"{t.shape} from {crash.describe_origin(t)}" for t in crash.inputs)
        yield blame(
            crash.find_module_above(call.parent),
            f"{crash.describe_call(call)} makes a tensor for "
            f"{count_of(wrong, 'sample')}, but {count_of(right, 'sample')} arrived",
            propose(*correct_batches(crash, [info], wrong, right), weight=STRONG),
            arithmetic=arithmetic,
        )


def _suspect_buffer(crash: Crash, info: TensorInfo, wrong: int, right: int) -> Suspects:
    """A buffer or a plain attribute: it cannot be told how it is made."""
    found = crash.find_attribute(info) if info.source is None else None
    owner, name = found or ("", "")
    if isinstance(info.source, str):
        owner, _, name = info.source.rpartition(".")
    module = crash.modules.get(owner)
    if module is None or (name not in module._buffers and found is None) or crash.is_input(info):
        return
    if any(len(t.shape) > len(info.shape) for t in crash.inputs):
        return
    title = f"make {name!r} in the forward for x.size(0) samples, or with one row"
    message = (
        f"{name!r} of {quote(owner)} was made for {count_of(wrong, 'sample')}, but "
        f"{count_of(right, 'sample')} arrived"
    )
    arithmetic = "; ".join(f"{t.shape} from {crash.describe_origin(t)}" for t in crash.inputs)
    yield blame(owner, message, propose(Advice(title=title, module=owner)), arithmetic=arithmetic)
