from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.facts.frames import list_called
from cnnprobe.crash.facts.methods import find_failing_method
from cnnprobe.crash.facts.words import quote

_PROGRAM = """
  class Block(nn.Module):
      def __init__(self, channels, down=None):
          super().__init__()
          self.conv = nn.Conv2d(channels, channels, 3, padding=1)
          self.down = down
      def forward(self, x):
          return self.conv(x) + self.down(x)
- model, args = nn.Sequential(Block(3)), (torch.randn(2, 3, 8, 8),)
+ model, args = nn.Sequential(Block(3, nn.Identity())), (torch.randn(2, 3, 8, 8),)
"""
EXAMPLE = Example(_PROGRAM, blames="0", repair="make '0.down' an nn.Identity()")


@cause("CP045", "layer-is-none", EXAMPLE, family="missing-attribute", prior=1080)
def layer_is_none(crash: Crash) -> Suspects:
    """A module calls one of its layers, but the layer is None.

    Why it happens: an option of the constructor left it out, or its default None was kept.
    What to do: build the layer, make it an nn.Identity(), or call it only where it is not None.
    Known exceptions: none.
    Source: the BasicBlock of torchvision calls its downsample only where it is not None.
    """
    method, call = find_failing_method(crash), crash.call
    if call is None or not isinstance(crash.error, TypeError):
        return
    fqn, module = (method.fqn, method.module) if method else (call.fqn or "", crash.module)
    if module is None:
        return
    is_chain = isinstance(module, nn.Sequential)
    called = list(module._modules) if is_chain else list_called(crash.error)
    if (name := next((n for n in called if _is_none(module, n)), None)) is None:
        return
    child = f"{fqn}.{name}" if fqn else name
    skip = SetAttribute(
        title=f"make {quote(child)} an nn.Identity() where there is nothing to do",
        code="nn.Identity()",
        module=fqn,
        name=name,
        value=lambda _module: nn.Identity(),
    )
    message = f"{crash.describe_module(fqn)} calls its layer {name!r}, which is None"
    advice = (f"build {quote(child)} in __init__, or call it only where it is not None",)
    yield blame(fqn, message, skip, arithmetic=f"self.{name} is None", advice=advice)


def _is_none(module: nn.Module, name: str) -> bool:
    places = (module._modules, module.__dict__)
    return any(name in place and place[name] is None for place in places)
