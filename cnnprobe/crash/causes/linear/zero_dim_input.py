from collections.abc import Callable
from typing import Any

from torch import nn

from cnnprobe.crash.cause import STRONG, USUAL, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import adapt_tensor
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.facts.words import operation
from cnnprobe.crash.suspect import Candidate
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

_REDUCED = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.a = nn.Linear(8, 4)
          self.b = nn.Linear(1, 2)
      def forward(self, x):
-         return self.b(self.a(x).mean())
+         return self.b(self.a(x).mean(1, keepdim=True))
  model, args = Net(), (torch.randn(3, 8),)
"""
_NUMBER = """
  model = nn.Sequential(nn.Linear(1, 4), nn.ReLU())
- args = (torch.tensor(0.5),)
+ args = (torch.tensor(0.5).reshape(1, 1),)
"""
EXAMPLES = (
    Example(_REDUCED, blames="b", repair="mean(1, keepdim=True)"),
    Example(_NUMBER, blames="0", repair="x.reshape(1, 1)"),
)


@cause("CP0L8", "zero-dim-input", EXAMPLES, family="shape-mismatch", prior=999)
def zero_dim_input(crash: Crash) -> Suspects:
    """A layer got a single number without any dim, where it expects samples with features.

    Why it happens: mean() or sum() without a dim reduces the batch and the features as well; a
    loop over a tensor of one dim gives numbers.
    What to do: reduce along one dim and keep it, x.mean(1, keepdim=True); give a number its two
    dims, x.reshape(1, 1).
    Known exceptions: none.
    Source: torch.nn.Linear, "Input: (*, H_in)".
    """
    call, layer = crash.call, crash.leaf
    if call is None or call.fqn is None or layer is None or not call.inputs:
        return
    if call.inputs[0].shape != () or not isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
        return
    x, maker = call.inputs[0], crash.find_producer(call.inputs[0])
    message = f"{crash.describe_module(call.fqn)} got a single number without a dim"
    if maker is not None:
        message += f", which {crash.describe_call(maker)} made"
    wanted = "(N, C, H, W)"
    if isinstance(layer, nn.Linear):
        wanted = f"(N, {layer.in_features})"
    yield blame(
        call.fqn,
        message,
        _reduce_one_dim(crash, maker),
        _reshape(crash, x) if getattr(layer, "in_features", 0) == 1 else None,
        arithmetic=f"expected {wanted}, got ()",
        advice=(f"give it an input of shape {wanted}",),
    )


def _reshape(crash: Crash, x: TensorInfo) -> Candidate:
    edit = adapt_tensor(crash, x, lambda t: t.reshape(1, 1), "{x}.reshape(1, 1)")
    return propose(edit, weight=USUAL)


def _reduce_one_dim(crash: Crash, maker: ModuleCall | None) -> Candidate | None:
    """A mean or a sum along the features alone, with the dim kept."""
    info = find(maker) if maker is not None and maker.fqn is None else None
    if maker is None or info is None or info.effect != "reduces" or maker.arguments:
        return None
    if not maker.inputs or len(maker.inputs[0].shape) < 2:
        return None
    name = operation(maker)

    def reduce(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, dim=1, keepdim=True, **kwargs)

    edit = rewrite_call(
        crash,
        maker,
        reduce,
        title=f"reduce the features alone: {name}(1, keepdim=True) at {{place}}",
        code=f"{name}(1, keepdim=True)",
        respell=f"{{x}}.{name}(1, keepdim=True)",
    )
    return propose(edit, weight=STRONG)
