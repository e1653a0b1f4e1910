from torch import Tensor

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.edits.reshaping import reshape_otherwise
from cnnprobe.crash.facts.products import read_sizes
from cnnprobe.crash.facts.windows import LARGEST_INPUT, apply_windows, list_steps
from cnnprobe.crash.facts.words import get_argument, shorten
from cnnprobe.operations import resolve_name
from cnnprobe.records.trace import TensorInfo

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.features = nn.Sequential(
              nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(2), nn.MaxPool2d((2, 1))
          )
          self.lstm = nn.LSTM(8, 4)
      def forward(self, x):
          x = self.features(x)
          x = x.squeeze(2)
          return self.lstm(x.permute(2, 0, 1))[0]
- model, args = Net(), (torch.randn(2, 1, 8, 16),)
+ model, args = Net(), (torch.randn(2, 1, 4, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="give the model an input of 4 x 16")


@cause("CP013", "squeeze-drops-nothing", EXAMPLE, family="shape-mismatch", prior=200)
def squeeze_drops_nothing(crash: Crash) -> Suspects:
    """squeeze(dim) drops nothing, because the dim has more than one element.

    Why it happens: squeeze(dim) leaves a dim of another size than 1 as it is, without an error.
    The height of a text line is 1 for one input height alone.
    What to do: give the input the height that the layers reduce to 1, or use mean(dim).
    Known exceptions: none.
    Source: docs of torch.squeeze; CRNN (Shi et al. 2015, arXiv:1507.05717) takes lines of 32.
    """
    if (call := crash.call) is None or not call.inputs or resolve_name(call.kind) != "permute":
        return
    x, dims = call.inputs[0], len(read_sizes(call))
    for _, squeeze in crash.walk_back(x):
        if resolve_name(squeeze.kind) == "squeeze" and squeeze.outputs[0].shape == x.shape:
            break
    else:
        return
    dim = get_argument(squeeze, 1, "dim")
    if type(dim) is not int or dims != len(x.shape) - 1 or not -len(x.shape) <= dim < len(x.shape):
        return
    dim %= len(x.shape)

    def average(x: Tensor, *_: object) -> Tensor:
        return x.mean(dim)

    mean = reshape_otherwise(crash, squeeze, average, f"{{x}}.mean({dim})")
    yield blame(
        mean.module,
        f"squeeze({dim}) at {shorten(squeeze.source)} drops nothing, because dim {dim} of "
        f"{x.shape} has {x.shape[dim]} elements; the permute after it is for {dims} dims",
        *_propose_input(crash, squeeze.inputs[0], dim),
        propose(mean),
        arithmetic=f"{x.shape} from {crash.describe_origin(squeeze.inputs[0])}",
    )


def _propose_input(crash: Crash, x: TensorInfo, dim: int) -> Candidates:
    """The input whose map has one element there: of the sizes that do, the most even one."""
    steps = list_steps(crash, x)
    if dim < 2 or not steps or not crash.root_inputs:
        return
    before, windows = steps[0].before, [step.window for step in steps]
    if before != crash.root_inputs[0].shape[2:]:
        return

    def size(n: int) -> tuple[int, ...]:
        return (*before[: dim - 2], n, *before[dim - 1 :])

    sizes = range(1, LARGEST_INPUT)
    fitting = [n for n in sizes if apply_windows(windows, size(n))[dim - 2] == 1]
    if fitting:
        best = max(fitting, key=lambda n: (n & -n, -n))
        yield propose(resize_input(size(best), exact=True), weight=STRONG)
