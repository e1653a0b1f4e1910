"""A layer that is defined and not called, between two that do not fit each other."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.layers import rebuild
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.facts.products import find_product
from cnnprobe.crash.suspect import STRONG, Suspect, propose

_SIZES = {
    nn.Linear: ("in_features", "out_features"),
    nn.modules.conv._ConvNd: ("in_channels", "out_channels"),
}

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(10, 64)
            self.fc2 = nn.Linear(64, 32)
            self.fc3 = nn.Linear(32, 2)

        def forward(self, x):
            x = torch.relu(self.fc1(x))
            return self.fc3(x)


    model, args = Net(), (torch.randn(3, 10),)
    """,
    old="self.fc3(x)",
    new="self.fc3(torch.relu(self.fc2(x)))",
    blames="",
    repair="pass self.fc2(x) to 'fc3'",
)


@cause(code="CP040", name="uncalled-layer", prior=795, examples=EXAMPLE)
def uncalled_layer(crash: Crash) -> Iterator[Suspect]:
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
            yield Suspect(
                module=parent,
                message=f"{describe_module(crash, fqn)} is never called: it makes {expected} of "
                f"the {got} that {describe_module(crash, module)} got",
                arithmetic=f"{describe_module(crash, module)} expects {expected}, got {got}",
                candidates=(
                    propose(adapt_call(crash, _copy(layer), f"self.{name}({{x}})"), weight=STRONG),
                ),
                weight=STRONG,
            )
            return


def _copy(layer: nn.Module) -> Callable[[Any], Any]:
    """A layer like it, which is made where the copy of the model is."""
    return lambda x: rebuild(layer, {}).to(x.device)(x)
