import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.layers import rebuild
from cnnprobe.crash.edits.method import replace_node
from cnnprobe.crash.facts.expected import NORMS, find_mismatch
from cnnprobe.crash.facts.methods import find_method, list_layers_read, list_module_calls
from cnnprobe.crash.facts.products import find_product
from cnnprobe.crash.suspect import STRONG, Candidate, propose

_SIZES = {
    nn.Linear: ("in_features", "out_features"),
    nn.modules.conv._ConvNd: ("in_channels", "out_channels"),
}

_FIRST = """
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
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 8, 3)
          self.conv2 = nn.Conv2d(8, 16, 3)
          self.norm1 = nn.BatchNorm2d(8)
          self.norm2 = nn.BatchNorm2d(16)
      def forward(self, x):
          x = F.relu(self.norm1(self.conv1(x)))
-         return F.relu(self.norm1(self.conv2(x)))
+         return F.relu(self.norm2(self.conv2(x)))
  model, args = Net(), (torch.randn(2, 3, 9, 9),)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="pass self.fc2(x) to 'fc3'"),
    Example(_SECOND, blames="", repair="write self.norm2(self.conv2(x))"),
)


@cause("CP040", "uncalled-layer", EXAMPLES, prior=795)
def uncalled_layer(crash: Crash) -> Suspects:
    """A layer that would make two others fit is never called.

    Why it happens: __init__ defines it, but forward calls the one after it on what came before, or
    calls another one twice.
    What to do: call it, with its activation; or delete it and change the layer after.
    Known exceptions: a layer of these sizes may be meant for another place.
    Source: none; the sizes say it.
    """
    if (failing := _find_failing(crash)) is None:
        return
    what = crash.describe_module(failing.module)
    for fqn, layer in _list_uncalled(crash, failing.module):
        if isinstance(layer, NORMS):
            edit = _call_instead(crash, failing.module, fqn)
            if edit is None or _count_channels(layer) != failing.got:
                continue
            message = f"it is for the {failing.got} channels that {what} got"
        else:
            sizes = next((s for kind, s in _SIZES.items() if isinstance(layer, kind)), ())
            if tuple(getattr(layer, size) for size in sizes) != (failing.got, failing.expected):
                continue
            name = fqn.rpartition(".")[2]
            edit = propose(adapt_call(crash, _copy(layer), f"self.{name}({{x}})"), weight=STRONG)
            message = f"it makes {failing.expected} of the {failing.got} that {what} got"
        yield blame(
            failing.module.rpartition(".")[0],
            f"{crash.describe_module(fqn)} is never called: {message}",
            edit,
            arithmetic=f"{what} expects {failing.expected}, got {failing.got}",
        )
        return


@dataclass(frozen=True)
class _Failing:
    module: str
    got: int
    expected: int


def _find_failing(crash: Crash) -> _Failing | None:
    """The layer that failed, where it got another number of features or channels."""
    product, mismatch = find_product(crash), find_mismatch(crash)
    if product is not None and product.is_layer:
        return _Failing(product.module, product.got, product.wanted)
    if mismatch is not None and mismatch.kind in ("conv", "norm") and mismatch.setting:
        return _Failing(mismatch.module, mismatch.got, mismatch.expected)
    return None


def _list_uncalled(crash: Crash, module: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers of its class beside a layer that did not run, and that no forward names."""
    parent, called = module.rpartition(".")[0], {call.fqn for call in crash.trace.calls}
    method = find_method(crash.modules[parent], parent)
    named = set(list_layers_read(method)) if method is not None else set()
    for name, layer in crash.modules[parent].named_children():
        fqn = f"{parent}.{name}" if parent else name
        if fqn not in called and name not in named and type(layer) is type(crash.modules[module]):
            yield fqn, layer


def _call_instead(crash: Crash, module: str, other: str) -> Candidate | None:
    """Call another layer on the failing line; None where the failing one is called once alone."""
    name = module.rpartition(".")[2]
    place, method, call = next(list_module_calls(crash, module), ("", None, None))
    if (
        method is None
        or call is None
        or place != module
        or list_layers_read(method).count(name) < 2
    ):
        return None
    given = ", ".join(ast.unparse(argument) for argument in call.args)
    edit = replace_node(method, call, f"self.{other.rpartition('.')[2]}({given})")
    return propose(edit, weight=STRONG) if edit is not None else None


def _count_channels(layer: nn.Module) -> int:
    return int(
        getattr(layer, "num_channels" if isinstance(layer, nn.GroupNorm) else "num_features")
    )


def _copy(layer: nn.Module) -> Callable[[Any], Any]:
    """A layer like it, which is made where the copy of the model is."""
    return lambda x: rebuild(layer, {}).to(x.device)(x)
