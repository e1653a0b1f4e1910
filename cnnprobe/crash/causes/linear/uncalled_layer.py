from collections.abc import Callable
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.layers import rebuild
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.products import find_product

_SIZES = {
    nn.Linear: ("in_features", "out_features"),
    nn.modules.conv._ConvNd: ("in_channels", "out_channels"),
}

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.fc1 = nn.Linear(10, 64)
          self.fc2 = nn.Linear(64, 32)
          self.fc3 = nn.Linear(32, 2)
      def forward(self, x):
          x = torch.relu(self.fc1(x))
-         return self.fc3(x)
+         return self.fc3(torch.relu(self.fc2(x)))
  model, args = Net(), (torch.randn(3, 10),)
"""
EXAMPLE = Example(_PROGRAM, blames="", repair="pass self.fc2(x) to 'fc3'")


@cause("CP040", "uncalled-layer", EXAMPLE, prior=795)
def uncalled_layer(crash: Crash) -> Suspects:
    """A layer that would make two others fit is never called.

    Why it happens: __init__ defines it, but forward calls the one after it on what came before.
    What to do: call it in between, with its activation; or delete it and change the layer after.
    Known exceptions: a layer of these sizes may be meant for another place.
    Source: none; the sizes say it.
    """
    product, mismatch = find_product(crash), find_mismatch(crash)
    if product is not None and product.is_layer:
        module, got, expected = product.module, product.got, product.wanted
    elif mismatch is not None and mismatch.kind == "conv" and mismatch.setting:
        module, got, expected = mismatch.module, mismatch.got, mismatch.expected
    else:
        return
    parent, called = module.rpartition(".")[0], {call.fqn for call in crash.trace.calls}
    for name, layer in crash.modules[parent].named_children():
        fqn = f"{parent}.{name}" if parent else name
        sizes = next((s for kind, s in _SIZES.items() if isinstance(layer, kind)), None)
        if fqn in called or sizes is None or type(layer) is not type(crash.modules[module]):
            continue
        if tuple(getattr(layer, size) for size in sizes) == (got, expected):
            yield blame(
                parent,
                f"{crash.describe_module(fqn)} is never called: it makes {expected} of "
                f"the {got} that {crash.describe_module(module)} got",
                adapt_call(crash, _copy(layer), f"self.{name}({{x}})"),
                arithmetic=f"{crash.describe_module(module)} expects {expected}, got {got}",
            )
            return


def _copy(layer: nn.Module) -> Callable[[Any], Any]:
    """A layer like it, which is made where the copy of the model is."""
    return lambda x: rebuild(layer, {}).to(x.device)(x)
