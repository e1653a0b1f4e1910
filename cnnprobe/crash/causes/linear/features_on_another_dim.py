"""Features that stand on another dim than the last."""

from collections.abc import Callable, Iterator
from typing import Any

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.facts.products import Product, find_product
from cnnprobe.crash.facts.words import operation, read_argument, shorten
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Suspect, propose
from cnnprobe.operations import find

EXAMPLES = (
    Example(
        """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv1d(6, 16, 3, padding=1)
            self.fc = nn.Linear(16, 4)

        def forward(self, x):
            return self.fc(self.conv(x)).mean(1)


    model, args = Net(), (torch.randn(2, 6, 50),)
    """,
        old="self.fc(self.conv(x))",
        new="self.fc(self.conv(x).transpose(1, 2))",
        blames="fc",
        repair="x.transpose(1, -1)",
    ),
    Example(
        """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 32, 3)
            self.fc = nn.Linear(32, 5)

        def forward(self, x):
            return self.fc(self.conv(x).mean([1, 2]))


    model, args = Net(), (torch.randn(2, 3, 12, 12),)
    """,
        old="[1, 2]",
        new="[2, 3]",
        blames="",
        repair="dim=(2, 3)",
    ),
)


@cause(
    code="CP010",
    name="features-on-another-dim",
    family="shape-mismatch",
    prior=798,
    examples=EXAMPLES,
)
def features_on_another_dim(crash: Crash) -> Iterator[Suspect]:
    """A Linear expects its features on the last dim, and they are on another one.

    Why it happens: Conv1d and BatchNorm1d have the channels on dim 1, (N, C, L); Linear, LayerNorm
    and attention have the features last, (N, L, C). Or a mean has averaged the features away.
    What to do: transpose before the Linear, x.transpose(1, 2); average over the other dims.
    Known exceptions: the sizes may agree by chance, and in_features be what is wrong.
    Source: docs of torch.nn.Linear and torch.nn.Conv1d.
    """
    found = find_product(crash)
    if found is None:
        return
    yield from _suspect_reduction(crash, found)
    shape = found.x.shape
    if len(shape) not in (2, 3) or shape[:-1].count(found.wanted) != 1:
        return
    dim = shape.index(found.wanted)
    edit = adapt_call(crash, lambda x: x.transpose(dim, -1), f"{{x}}.transpose({dim}, -1)")
    yield Suspect(
        module=found.module,
        message=f"{describe_module(crash, found.module)} expects its {found.wanted} features on "
        f"the last dim, but in {shape} they are on dim {dim}",
        arithmetic=f"{shape[dim]} on dim {dim}, {shape[-1]} on the last",
        candidates=(propose(edit),),
        weight=USUAL if len(shape) == 3 else POSSIBLE,
    )


def _suspect_reduction(crash: Crash, found: Product) -> Iterator[Suspect]:
    """A mean or maximum over the dim of the features: that of the others is what is meant."""
    call = next((row for _, row in crash.walk_back(found.x)), None)
    info = find(call) if call is not None and call.fqn is None else None
    if call is None or info is None or info.effect != "reduces" or not call.inputs:
        return
    before, given = call.inputs[0].shape, read_argument(call, "dim")
    dims = {dim % len(before) for dim in (given if isinstance(given, tuple) else (given,)) if dim}
    if len(found.x.shape) != 2 or before[1:].count(found.wanted) != 1:
        return
    kept = before.index(found.wanted, 1)
    rest = tuple(dim for dim in range(1, len(before)) if dim != kept)
    if kept not in dims or len(dims) != len(rest):
        return
    right = rest if len(rest) > 1 else rest[0]

    def reduce(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(args[0], **{**kwargs, "dim": right})

    name = operation(call)
    edit = Rewrite(
        title=f"use dim={right} in {name} at {shorten(call.source)}",
        code=f"dim={right}",
        module=crash.find_module_above(call.parent),
        kind=call.kind,
        source=call.source,
        function=reduce,
        keyword=("dim", right, 1),
    )
    yield Suspect(
        module=edit.module,
        message=f"{crash.describe_call(call)} reduces dim {kept}, which has the {found.wanted} "
        f"features that {describe_module(crash, found.module)} expects",
        arithmetic=f"{before} became {found.x.shape}",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )
