from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.calls import RewriteCall
from cnnprobe.crash.edits.reshaping import flatten_otherwise, reshape_otherwise
from cnnprobe.crash.facts.features import is_failing_view
from cnnprobe.crash.facts.products import find_lost_batch, find_merging, is_batch_fixed, read_sizes
from cnnprobe.crash.facts.words import count_elements, count_of, operation, write_product
from cnnprobe.records.trace import ModuleCall

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(1, 4, 3, padding=1)
          self.fc = nn.Linear(4 * 14 * 14, 10)
      def forward(self, x):
          x = F.max_pool2d(F.relu(self.conv(x)), 2)
-         x = x.view(64, 4 * 14 * 14)
+         x = x.view(x.size(0), 4 * 14 * 14)
          return self.fc(x)
  model, args = Net(), (torch.randn(40, 1, 28, 28),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="torch.flatten(x, 1)")


@cause("CP005", "fixed-batch-view", EXAMPLE, family="batch-merge-view", prior=805)
def fixed_batch_view(crash: Crash) -> Suspects:
    """A view asks for another batch than arrived.

    Why it happens: the batch size is written as a number, and the last batch of an epoch is
    smaller (60000 samples leave 32 after 937 batches of 64), or the loader makes other batches.
    What to do: take it from the tensor: x.view(x.size(0), -1), or torch.flatten(x, 1).
    Known exceptions: drop_last=True in the DataLoader hides it in training, not in use.
    Source: docs of torch.Tensor.view and torch.utils.data.DataLoader (drop_last).
    """
    call = find_merging(crash) or find_lost_batch(crash) or crash.call
    if call is None or not call.inputs or not call.inputs[0].shape or not is_batch_fixed(call):
        return
    shape, sizes = call.inputs[0].shape, read_sizes(call)
    if call is crash.call and not (is_failing_view(call) and _fits_samples(shape, sizes)):
        return
    owner = crash.find_module_above(call.parent)
    yield blame(
        owner,
        f"{operation(call)}{sizes} in {crash.describe_module(owner)} asks for "
        f"{count_of(sizes[0], 'row')}, but {count_of(shape[0], 'sample')} arrived",
        _keep_batch(crash, call),
        arithmetic=f"{shape} from {crash.describe_origin(call.inputs[0])} has "
        f"{write_product(shape[1:])} elements a sample",
    )


def _fits_samples(shape: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether the other sizes are those of a sample."""
    sample = count_elements(shape[1:])
    known = count_elements(tuple(n for n in sizes[1:] if n != -1))
    return bool(known) and (sample % known == 0 if -1 in sizes else sample == known)


def _keep_batch(crash: Crash, call: ModuleCall) -> RewriteCall:
    sizes = read_sizes(call)[1:]
    if len(sizes) == 1:
        return flatten_otherwise(crash, call)
    shown = ", ".join(map(str, sizes))

    def reshape(x: Tensor, *_: object) -> Tensor:
        return x.reshape(x.shape[0], *sizes)

    return reshape_otherwise(crash, call, reshape, f"{{x}}.view({{x}}.size(0), {shown})")
