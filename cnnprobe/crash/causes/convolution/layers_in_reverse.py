from torch import nn

from cnnprobe.crash.cause import STRONG, Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.layers import Reverse
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.words import quote

_PROGRAM = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.stages = nn.ModuleList([nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 8, 3, 2)])
-         self.heads = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (8, 4)])
+         self.heads = nn.ModuleList([nn.Conv2d(c, 5, 1) for c in (4, 8)])
      def forward(self, x):
          found = []
          for stage, head in zip(self.stages, self.heads):
              x = stage(x)
              found.append(head(x).mean((2, 3)))
          return found[0] + found[1]
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLE = Example(_PROGRAM, blames="heads", repair="reverse the order of the layers in 'heads'")


@cause("CP0H6", "layers-in-reverse", EXAMPLE, family="channel-mismatch", prior=691)
def layers_in_reverse(crash: Crash) -> Suspects:
    """The layers of a list stand in the reverse order of the features that they get.

    Why it happens: a pyramid is built from its deepest level and a backbone from its shallowest,
    and zip() pairs the first of one with the first of the other.
    What to do: build the list in the order of the features, or go through it with reversed().
    Known exceptions: reported only where the forward passes with the reversed list.
    Source: torch.nn.ModuleList.
    """
    call, layer = crash.call, crash.leaf
    if call is None or not call.fqn or layer is None or not call.inputs:
        return
    found = find_mismatch(crash)
    expected = found.expected if found is not None else _count_features(layer)
    got = found.got if found is not None else (call.inputs[0].shape or (None,))[-1]
    path, below = call.fqn, ""
    while path and not isinstance(crash.modules[path.rpartition(".")[0]], nn.ModuleList):
        path, _, name = path.rpartition(".")
        below = f".{name}{below}"
    if not path:
        return
    place, _, name = path.rpartition(".")
    children = list(crash.modules[place]._modules)
    other = crash.modules.get(f"{place}.{children[-1 - children.index(name)]}{below}")
    if expected is None or got == expected or got != _count_features(other):
        return
    title = f"reverse the order of the layers in {quote(place)}"
    yield blame(
        place,
        f"the layers in {quote(place)} are in the reverse order of what they get: "
        f"{quote(call.fqn)} expects {expected} but got {got}, which its counterpart at the other "
        "end expects",
        Reverse(title=title, code="reversed", module=place),
        arithmetic=f"{call.inputs[0].shape} from {crash.describe_origin(call.inputs[0])}",
        weight=STRONG + 1,
        needs_proof=True,
    )


def _count_features(layer: nn.Module | None) -> int | None:
    """The channels or features that a layer expects."""
    sizes = getattr(layer, "normalized_shape", None)
    names = ("in_channels", "in_features", "num_features")
    found = [getattr(layer, name, None) for name in names] + list(sizes or ())[-1:]
    return next((count for count in found if type(count) is int), None)
