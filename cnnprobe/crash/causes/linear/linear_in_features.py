"""A Linear, or a product with a weight, that got another number of features than it takes."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import configure, insert_before, keep_present, reshape_parameter
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.reshaping import reshape_otherwise
from cnnprobe.crash.facts.features import (
    Features,
    find_features,
    find_other_windows,
    propose_input_sizes,
)
from cnnprobe.crash.facts.products import Product, find_product, find_reshaping
from cnnprobe.crash.facts.windows import list_steps
from cnnprobe.crash.facts.words import count_elements, shorten, write_product
from cnnprobe.crash.suspect import LAST, POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.operations import resolve_name
from cnnprobe.trace import ModuleCall

EXAMPLE = Example(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 6, 5)
            self.pool = nn.MaxPool2d(2, 2)
            self.conv2 = nn.Conv2d(6, 16, 5)
            self.fc1 = nn.Linear(16 * 6 * 6, 120)
            self.fc2 = nn.Linear(120, 10)

        def forward(self, x):
            x = self.pool(F.relu(self.conv1(x)))
            x = self.pool(F.relu(self.conv2(x)))
            x = torch.flatten(x, 1)
            return self.fc2(F.relu(self.fc1(x)))


    model, args = Net(), (torch.randn(4, 3, 32, 32),)
    """,
    old="16 * 6 * 6",
    new="16 * 5 * 5",
    blames="fc1",
    repair="set in_features=400 in 'fc1'",
)


@cause(code="CP002", name="linear-in-features", prior=796, examples=EXAMPLE)
def linear_in_features(crash: Crash) -> Iterator[Suspect]:
    """A Linear got another number of features than its in_features.

    Why it happens: in_features was counted for another input size, another number of channels or
    another layer before it; a bidirectional LSTM gives twice its hidden_size.
    What to do: set in_features to what arrives, or change what makes the features. nn.LazyLinear
    takes what the first batch has; nn.AdaptiveAvgPool2d makes it independent of the input size.
    Known exceptions: with trained weights in_features is right, and the input or a layer is wrong.
    Source: docs of torch.nn.Linear and torch.nn.LazyLinear.
    """
    found = find_product(crash)
    if found is None:
        return
    weight = USUAL if len(found.x.shape) <= 3 else LAST
    name = f"{describe_module(crash, found.module)} should have in_features"
    if not found.is_layer:
        name = f"the weight '{found.parameter}' should take as many features as arrive:"
    yield Suspect(
        module=found.module,
        message=f"{name} {found.got}, not {found.wanted}: {_explain_features(crash, found)}",
        arithmetic=f"expects {found.wanted} features, got {found.x.shape}",
        candidates=(
            *_propose_layers(crash, found, weight),
            *_propose_maps(crash, found),
        ),
        weight=weight,
    )


def _propose_layers(crash: Crash, found: Product, weight: int) -> Iterator[Candidate]:
    """Another in_features, or another out_features of the Linear before it."""
    if found.is_layer:
        yield propose(configure(crash, found.module, in_features=found.got), weight=weight)
    elif (edit := reshape_parameter(crash, found.parameter, found.shape)) is not None:
        yield propose(edit, weight=weight)
    rows = [row for _, row in crash.walk_back(found.x) if row.fqn is not None]
    for row in rows:
        if isinstance(crash.modules.get(row.fqn or ""), nn.Linear):
            if row.outputs[0].shape[-1] == found.got:
                edit = configure(crash, row.fqn or "", out_features=found.wanted)
                yield propose(edit, weight=POSSIBLE)
            return


def _propose_maps(crash: Crash, product: Product) -> Iterator[Candidate]:
    """Another pooling, input size or number of channels, for which in_features fits."""
    found, call = find_features(crash), find_reshaping(crash, product.x)
    if found is None or call is None:
        return
    sized = [*_pool_once_more(crash, found, call), *propose_input_sizes(crash, found)]
    if not sized and not any(find_other_windows(crash, found)):
        sized += _change_channels(crash, found)
    yield from sized
    yield from _pool_first(crash, found, call)


def _pool_once_more(crash: Crash, found: Features, call: ModuleCall) -> Iterator[Candidate]:
    """One more pooling like the others: a VGG whose list has lost an 'M'."""
    windows = [step.window for step in list_steps(crash, found.map)]
    pools = [window for window in windows if window is not None and window.is_pool]
    n = len(found.map.shape) - 2
    if call.fqn is not None or not pools or len(pools[-1].kernel) != n:
        return
    last = pools[-1]
    is_alike = {(p.kernel, p.stride) for p in pools} == {(last.kernel, last.stride)}
    is_plain = len({*last.kernel}) == len({*last.stride}) == 1 and not any(last.padding)
    sizes = last.output(found.map.shape[2:])
    if not is_alike or not is_plain or found.count(sizes) != found.wanted:
        return
    kernel, stride = last.kernel[0], last.stride[0]
    pool = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}[n]
    code = f"F.max_pool{n}d({{x}}, {kernel}" + (f", {stride})" if stride != kernel else ")")
    name = resolve_name(call.kind)
    edit = Rewrite(
        title=f"pool the map once more before {name} at {shorten(call.source)}: "
        f"{code.format(x='x')}",
        code=code,
        module=crash.find_module_above(call.parent),
        kind=call.kind,
        source=call.source,
        function=lambda func, args, kwargs: func(
            pool(args[0], kernel, stride), *args[1:], **kwargs
        ),
        respell=f"torch.flatten({code}, {{rest}})"
        if name == "flatten"
        else f"{code}.{name}({{rest}})",
    )
    yield propose(edit, weight=POSSIBLE)


def _change_channels(crash: Crash, found: Features) -> Iterator[Candidate]:
    """The last convolution with so many channels that its map has the wanted features."""
    places = count_elements(found.map.shape[2:])
    for _, call in crash.walk_back(found.map) if places and not found.wanted % places else ():
        layer = crash.modules.get(call.fqn or "") if call.fqn else None
        if layer is None or not layer._parameters:
            continue
        is_plain = isinstance(layer, nn.modules.conv._ConvNd) and layer.groups == 1
        if is_plain and layer.out_channels == found.map.shape[1]:
            edit = configure(crash, call.fqn or "", out_channels=found.wanted // places)
            yield propose(edit, weight=POSSIBLE)
        return


def _pool_first(crash: Crash, found: Features, call: ModuleCall) -> Iterator[Candidate]:
    """The map pooled to one value a channel before it is flattened; or to another size."""
    if len(found.map.shape) != 4:
        return
    steps, channels = list_steps(crash, found.map), found.map.shape[1]
    last = steps[-1] if steps else None
    if last is not None and last.window is not None and last.window.adaptive and last.call.fqn:
        side = math.isqrt(found.wanted // channels)
        if side and found.count((side, side)) == found.wanted:
            edit = configure(crash, last.call.fqn, output_size=side)
            yield propose(edit, weight=POSSIBLE)
    elif channels == found.wanted:
        yield from (propose(edit, weight=STRONG) for edit in _pool_globally(crash, call))


def _pool_globally(crash: Crash, call: ModuleCall) -> tuple[Edit, ...]:
    code = "nn.AdaptiveAvgPool2d(1)"
    if call.fqn is not None:
        return keep_present(insert_before(crash, call.fqn, lambda: nn.AdaptiveAvgPool2d(1), code))

    def pool(x: Tensor, *_: object) -> Tensor:
        return x.mean((2, 3))

    return (reshape_otherwise(crash, call, pool, "{x}.mean((2, 3))"),)


def _explain_features(crash: Crash, found: Product) -> str:
    """Which call's output makes the number of features, with the product that gives it."""
    call = find_reshaping(crash, found.x)
    if call is not None and call.inputs and count_elements(call.inputs[0].shape[1:]) == found.got:
        shape = call.inputs[0].shape
        origin = crash.describe_origin(call.inputs[0])
        return f"{origin} gives {shape}, and {write_product(shape[1:])}"
    for _, row in crash.walk_back(found.x):
        if row.fqn is None and row.inputs and row.inputs[0].shape[-1:] == (found.got,):
            continue  # a slice or a mean over time: the features were there before
        if row.fqn is None or not row.outputs or row.outputs[0].shape[-1:] != (found.got,):
            break
        layer, both = crash.modules.get(row.fqn), ""
        if isinstance(layer, nn.RNNBase) and layer.bidirectional:
            both = f", both directions together: 2 x {found.got // 2} = {found.got}"
        return f"{crash.describe_call(row)} gives {row.outputs[0].shape}{both}"
    return f"{crash.describe_origin(found.x)} gives {found.x.shape}"
