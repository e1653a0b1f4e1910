"""A Linear (or a product with a weight) that was given another number of features than it has weights for."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import (
    adapt_call,
    configure,
    flatten,
    insert_before,
    reshape_parameter,
    resize_input,
)
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.facts.windows import Step, apply_windows, list_steps, list_variants
from cnnprobe.crash.facts.words import (
    count_elements,
    get_tensor,
    operation,
    quote,
    shorten,
    write_product,
)
from cnnprobe.crash.suspect import LAST, POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo

_USUAL_SIZES = (
    16,
    24,
    28,
    32,
    48,
    64,
    84,
    96,
    112,
    128,
    160,
    192,
    224,
    227,
    256,
    299,
    320,
    384,
    416,
    448,
    512,
)
_RESHAPING = frozenset(
    {"view", "reshape", "flatten", "squeeze", "unsqueeze", "view_as", "ravel", "unflatten"}
)


@dataclass(frozen=True, kw_only=True)
class Product:
    """x @ weight: what arrived, how many features the weight is for, and whose weight it is."""

    x: TensorInfo
    wanted: int
    module: str
    is_layer: bool  # an nn.Linear, whose in_features can be changed
    parameter: str = ""  # where it is no layer: the weight's name
    shape: tuple[int, ...] = ()  # the shape with which that weight would fit


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where a Linear was given the wrong number of features, or anything lost its batch axis on the way."""
    found = product_of(crash)
    if found is None:
        yield from _squeezed(crash)
    if found is None or not found.x.shape or found.x.shape[-1] == found.wanted:
        return
    yield from _reshaped_wrongly(crash, found)
    yield from _not_flattened(crash, found)
    yield from _turned(crash, found)
    yield from _geometry(crash, found)
    yield from _features(crash, found)


def product_of(crash: Crash) -> Product | None:
    """The failing call as a product with a weight, if it is one."""
    call = crash.call
    if call is None or not call.inputs:
        return None
    if isinstance(crash.leaf, nn.Linear):
        return Product(
            x=call.inputs[0], wanted=crash.leaf.in_features, module=call.fqn or "", is_layer=True
        )
    name = operation(call)
    if name == "linear":
        x, weight, axis = get_tensor(call, 0, "input"), get_tensor(call, 1, "weight"), -1
    elif name in ("matmul", "__matmul__", "mm", "__rmatmul__"):
        x, weight, axis = (
            get_tensor(call, 0, "input"),
            get_tensor(call, 1, "other") or get_tensor(call, 1, "mat2"),
            0,
        )
    else:
        return None
    owner = None if weight is None else _owner(crash, weight)
    if x is None or weight is None or owner is None or len(weight.shape) != 2:
        return None
    source, turned = _named_weight(crash, weight)
    other = (weight.shape[0], x.shape[-1]) if axis == -1 else (x.shape[-1], weight.shape[1])
    return Product(
        x=x,
        wanted=weight.shape[axis],
        module=owner,
        is_layer=False,
        parameter=source,
        shape=other[::-1] if turned else other,
    )


def _owner(crash: Crash, weight: TensorInfo) -> str | None:
    """The module that a weight (or a transposed one) belongs to."""
    name, _ = _named_weight(crash, weight)
    return crash.owner_of_parameter(name) if name else None


def _named_weight(crash: Crash, weight: TensorInfo) -> tuple[str, bool]:
    """The name of a weight, and whether it was transposed first."""
    call = crash.find_producer(weight)
    turned = (
        call is not None
        and operation(call) in ("t", "T", "transpose", "permute", "mT", "__get__")
        and bool(call.inputs)
    )
    if call is not None and turned:
        weight = call.inputs[0]
    return (weight.source if isinstance(weight.source, str) else ""), turned


def _last_reshaping(crash: Crash, info: TensorInfo) -> ModuleCall | None:
    """The latest call on the way that gave the tensor its shape, if no layer with weights came after it."""
    for _, call in crash.walk_back(info):
        if operation(call) in _RESHAPING or call.kind in ("Flatten", "Unflatten"):
            return call
        module = crash.modules.get(call.fqn) if call.fqn is not None else None
        if module is not None and module._parameters:
            return None
    return None


def _reshaped_wrongly(crash: Crash, found: Product) -> Iterator[Suspect]:
    call = _last_reshaping(crash, found.x)
    if call is None or not call.inputs or not call.outputs:
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if before == after or len(before) < 2 or (after and after[0] == before[0]):
        return
    if count_elements(before[1:]) != found.wanted and count_elements(before) != found.wanted:
        return
    place = crash.describe_call(call)
    owner = call.fqn if call.fqn is not None else crash.find_module_above(call.parent)
    if operation(call) == "squeeze" and before[0] == 1:
        yield Suspect(
            diagnosis="squeeze-batch",
            module=owner,
            message=f"squeeze() dropped the batch axis too, because there is one sample: {before} became {after}",
            arithmetic=f"{found.wanted} features are wanted; {write_product(before[1:])}",
            candidates=(propose(flattening(call, owner), weight=STRONG),),
            weight=STRONG,
        )
        return
    yield Suspect(
        diagnosis="batch-merge-view",
        module=owner,
        message=f"{place} merges the batch axis with the others: {before} became {after}, while {before[0]} samples went in",
        arithmetic=f"{quote(found.module)} wants {found.wanted} features; a sample has {write_product(before[1:])}",
        candidates=(propose(flattening(call, owner), weight=STRONG),),
        weight=STRONG,
    )


def _squeezed(crash: Crash) -> Iterator[Suspect]:
    """squeeze() took the batch of one sample away, and what came next was no Linear."""
    path = crash.walk_back(crash.inputs[0]) if crash.inputs else ()
    call = next((c for _, c in path if operation(c) == "squeeze" and c.inputs and c.outputs), None)
    if call is None or crash.batch != 1 or len(call.inputs[0].shape) < 2:
        return
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if before[0] != 1 or len(after) != sum(n != 1 for n in before):
        return
    owner = crash.find_module_above(call.parent)
    yield Suspect(
        diagnosis="squeeze-batch",
        module=owner,
        message=f"squeeze() dropped the batch axis too, because there is one sample: {before} became {after}",
        arithmetic=f"{crash.describe_call(crash.call) if crash.call is not None else 'the next call'} was given {after}",
        candidates=(propose(flattening(call, owner), weight=STRONG),),
        weight=STRONG,
    )


def flattening(call: ModuleCall, owner: str) -> Rewrite:
    """torch.flatten(x, 1) in the place of a reshaping call."""
    return Rewrite(
        title=f"use torch.flatten(x, 1) instead of {call.kind.rpartition('.')[2]} at {shorten(call.source)}",
        code="torch.flatten({x}, 1)",
        module=owner,
        kind=call.kind if call.fqn is None else "torch.Tensor.flatten",
        source=call.source,
        function=lambda _func, args, _kwargs: torch.flatten(args[0], 1),
        respell="torch.flatten({x}, 1)",
    )


def _not_flattened(crash: Crash, found: Product) -> Iterator[Suspect]:
    shape = found.x.shape
    if len(shape) < 3:
        return
    place = crash.find_container(found.module) if found.is_layer else found.module
    exact = count_elements(shape[1:]) == found.wanted
    pooled = not exact and len(shape) == 4 and shape[1] == found.wanted
    if len(shape) == 3 and not exact:
        return
    arrives = f"{quote(found.module)} wants {found.wanted} features; "
    made_by = crash.describe_origin(found.x)
    if exact:
        candidates = _flattenings(crash, found)
        message = f"the flatten between {made_by} and {describe_module(crash, found.module)} is missing: {shape} arrives unflattened"
        arithmetic = arrives + f"{write_product(shape[1:])} arrives as {shape}"
    elif pooled:
        candidates = _poolings(crash, found)
        message = (
            f"{shape} arrives at {describe_module(crash, found.module)} unpooled and unflattened"
        )
        arithmetic = arrives + f"the map has {shape[1]} channels of {shape[2]} x {shape[3]}"
    else:
        total = count_elements(shape[1:])
        candidates = ()
        if found.is_layer:
            candidates = tuple(
                Candidate(edits=(*one.edits, configure(crash, found.module, in_features=total)))
                for one in _flattenings(crash, found)
            )
        message = f"{shape} arrives at {describe_module(crash, found.module)} unflattened, and flattened it would have {total} features"
        arithmetic = arrives + write_product(shape[1:])
    yield Suspect(
        diagnosis="missing-flatten",
        module=place,
        message=message,
        arithmetic=arithmetic,
        candidates=candidates,
        weight=STRONG if exact else USUAL,
    )


def _flattenings(crash: Crash, found: Product) -> tuple[Candidate, ...]:
    edits = [
        insert_before(crash, found.module, nn.Flatten, "nn.Flatten()") if found.is_layer else None
    ]
    edits.append(adapt_call(crash, flatten, "torch.flatten({x}, 1)"))
    return tuple(propose(edit, weight=STRONG) for edit in edits if edit is not None)


def _poolings(crash: Crash, found: Product) -> tuple[Candidate, ...]:
    code = "nn.AdaptiveAvgPool2d(1), nn.Flatten()"
    edits = [
        insert_before(
            crash, found.module, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), code
        )
        if found.is_layer
        else None
    ]
    edits.append(adapt_call(crash, lambda x: x.mean((-2, -1)), "{x}.mean((-2, -1))"))
    last = propose(
        adapt_call(crash, lambda x: x.permute(0, 2, 3, 1), "{x}.permute(0, 2, 3, 1)"),
        weight=POSSIBLE,
    )
    return (*(propose(edit) for edit in edits if edit is not None), last)


def _turned(crash: Crash, found: Product) -> Iterator[Suspect]:
    """The features are there, but on another axis."""
    shape = found.x.shape
    if len(shape) not in (2, 3) or found.wanted not in shape[:-1] or shape.count(found.wanted) > 1:
        return
    axis = shape.index(found.wanted)
    yield Suspect(
        diagnosis="shape-mismatch",
        module=found.module,
        message=f"{describe_module(crash, found.module)} wants its {found.wanted} features on the last axis; in {shape} they are on axis {axis}",
        arithmetic=f"{shape[axis]} on axis {axis}, {shape[-1]} on the last",
        candidates=(
            propose(
                adapt_call(crash, lambda x: x.transpose(axis, -1), f"{{x}}.transpose({axis}, -1)"),
                weight=USUAL,
            ),
        ),
        weight=USUAL if len(shape) == 3 else POSSIBLE,
    )


def _features(crash: Crash, found: Product) -> Iterator[Suspect]:
    got = found.x.shape[-1]
    weight = USUAL if len(found.x.shape) <= 3 else LAST
    candidates: list[Candidate] = []
    if found.is_layer:
        candidates.append(propose(configure(crash, found.module, in_features=got), weight=weight))
    elif (edit := reshape_parameter(crash, found.parameter, found.shape)) is not None:
        candidates.append(propose(edit, weight=weight))
    previous = next(
        (
            call
            for _, call in crash.walk_back(found.x)
            if call.fqn is not None and _is_linear(crash, call.fqn)
        ),
        None,
    )
    if previous is not None and previous.fqn is not None and previous.outputs[0].shape[-1] == got:
        candidates.append(
            propose(configure(crash, previous.fqn, out_features=found.wanted), weight=POSSIBLE)
        )
    flat = _flattened_map(crash, found)
    sized = [*_pooled_once_more(crash, found, flat), *resizings(crash, found.wanted, flat)]
    if not sized and not (flat is not None and list(other_windows(crash, found, flat))):
        sized += _other_channels(crash, found, flat)  # no size explains it
    candidates += [*sized, *_pooled_first(crash, found, flat)]
    should = f"{describe_module(crash, found.module)} should have in_features "
    if not found.is_layer:
        should = f"the weight '{found.parameter}' should be for as many features as arrive: "
    yield Suspect(
        diagnosis="linear-in-features",
        module=found.module,
        message=f"{should}{got}, not {found.wanted}: {_makes_it_so(crash, found)}",
        arithmetic=f"wanted {found.wanted}, arrived {found.x.shape}",
        candidates=tuple(candidates),
        weight=weight,
    )


def _pooled_first(crash: Crash, found: Product, info: TensorInfo | None) -> Iterator[Candidate]:
    """The Linear takes one value a channel: the map was to be pooled before it was flattened; or to another size."""
    call = _last_reshaping(crash, found.x)
    if info is None or call is None or len(info.shape) != 4:
        return
    steps = list_steps(crash, info)
    last = steps[-1] if steps else None
    if (
        last is not None
        and last.window is not None
        and last.window.adaptive
        and last.call.fqn is not None
    ):
        side = math.isqrt(found.wanted // info.shape[1])
        if side and side * side * info.shape[1] == found.wanted:
            yield propose(configure(crash, last.call.fqn, output_size=side), weight=POSSIBLE)
    elif info.shape[1] == found.wanted:
        edit = (
            insert_before(
                crash, call.fqn, lambda: nn.AdaptiveAvgPool2d(1), "nn.AdaptiveAvgPool2d(1)"
            )
            if call.fqn is not None
            else None
        )
        if edit is None and call.fqn is None:
            edit = Rewrite(
                title=f"pool the map instead of flattening it at {shorten(call.source)}: x.mean((2, 3))",
                code="x.mean((2, 3))",
                module=crash.find_module_above(call.parent),
                kind=call.kind,
                source=call.source,
                function=lambda _func, args, _kwargs: args[0].mean((2, 3)),
                respell="{x}.mean((2, 3))",
            )
        if edit is not None:
            yield propose(edit, weight=STRONG)


def _pooled_once_more(crash: Crash, found: Product, info: TensorInfo | None) -> Iterator[Candidate]:
    """One more pooling like the last one, where exactly the wanted number of features would be left: a VGG whose list has lost an 'M'."""
    call = _last_reshaping(crash, found.x)
    steps = list_steps(crash, info) if info is not None else []
    pools = [s for s in steps if s.window is not None and s.window.is_pool]
    if (
        info is None
        or call is None
        or call.fqn is not None
        or not pools
        or pools[-1].window is None
    ):
        return
    window, n = pools[-1].window, len(info.shape) - 2
    alike = {
        (len(s.window.kernel), s.window.kernel[0], s.window.stride[0])
        for s in pools
        if s.window is not None
    }
    square = all(len(set(sizes)) == 1 for sizes in (window.kernel, window.stride)) and not any(
        window.padding
    )
    if (
        len(alike) > 1
        or not square
        or len(window.kernel) != n
        or info.shape[1] * count_elements(window.output(info.shape[2:])) != found.wanted
    ):
        return
    kernel, stride = window.kernel[0], window.stride[0]
    pool = {1: torch.max_pool1d, 2: torch.max_pool2d, 3: torch.max_pool3d}[n]
    code = f"F.max_pool{n}d({{x}}, {kernel}" + (f", {stride})" if stride != kernel else ")")
    name = operation(call)
    edit = Rewrite(
        title=f"pool the map once more before {name} at {shorten(call.source)}: {code.format(x='x')}",
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


def _other_channels(crash: Crash, found: Product, info: TensorInfo | None) -> Iterator[Candidate]:
    """The last convolution with so many channels that its map has the wanted number of features."""
    places = count_elements(info.shape[2:]) if info is not None else 0
    if info is None or not places or found.wanted % places:
        return
    for _, call in crash.walk_back(info):
        layer = crash.modules.get(call.fqn or "") if call.fqn else None
        if (
            isinstance(layer, nn.modules.conv._ConvNd)
            and layer.out_channels == info.shape[1]
            and layer.groups == 1
        ):
            yield propose(
                configure(crash, call.fqn or "", out_channels=found.wanted // places),
                weight=POSSIBLE,
            )
        if layer is not None and layer._parameters:
            return


def _is_linear(crash: Crash, fqn: str) -> bool:
    return isinstance(crash.modules.get(fqn), nn.Linear)


def _makes_it_so(crash: Crash, found: Product) -> str:
    """Which call's output makes the number of features, with the product that gives it."""
    call = _last_reshaping(crash, found.x)
    if (
        call is not None
        and call.inputs
        and count_elements(call.inputs[0].shape[1:]) == found.x.shape[-1]
    ):
        shape = call.inputs[0].shape
        return (
            f"{crash.describe_origin(call.inputs[0])} gives {shape}, and {write_product(shape[1:])}"
        )
    for _, row in crash.walk_back(found.x):
        if row.fqn is None or not row.outputs or row.outputs[0].shape[-1:] != found.x.shape[-1:]:
            if row.fqn is None and row.inputs and row.inputs[0].shape[-1:] == found.x.shape[-1:]:
                continue  # a slice or a mean over time: the features were there before
            break
        layer = crash.modules.get(row.fqn)
        both = isinstance(layer, nn.RNNBase) and layer.bidirectional
        each = (
            f", both directions together: 2 x {found.x.shape[-1] // 2} = {found.x.shape[-1]}"
            if both
            else ""
        )
        return f"{crash.describe_call(row)} gives {row.outputs[0].shape}{each}"
    return f"{crash.describe_origin(found.x)} gives {found.x.shape}"


def _flattened_map(crash: Crash, found: Product) -> TensorInfo | None:
    """The feature map that was flattened for the Linear."""
    call = _last_reshaping(crash, found.x)
    info = call.inputs[0] if call is not None and call.inputs else found.x
    return info if len(info.shape) >= 3 else None


def resizings(crash: Crash, wanted: int, info: TensorInfo | None) -> list[Candidate]:
    """Input sizes that would make the wanted number of features of the map `info`."""
    steps = list_steps(crash, info) if info is not None else []
    if (
        info is None
        or not steps
        or not crash.root_inputs
        or any(s.window is not None and s.window.adaptive for s in steps)
    ):
        return []
    n = len(steps[0].before)
    if crash.root_inputs[0].shape[-n:] != steps[0].before:
        return []
    for pixels in _USUAL_SIZES:
        if (
            info.shape[1] * count_elements(apply_windows([s.window for s in steps], (pixels,) * n))
            == wanted
        ):
            return [propose(resize_input((pixels,) * n, exact=True), weight=POSSIBLE)]
    return []


def _geometry(crash: Crash, found: Product) -> Iterator[Suspect]:
    info = _flattened_map(crash, found)
    if info is not None and len(found.x.shape) == 2:
        yield from other_windows(crash, found, info)


def other_windows(crash: Crash, found: Product, info: TensorInfo) -> Iterator[Suspect]:
    """A convolution or pooling before it whose change would make exactly the wanted number of features of the map `info`."""
    steps = [step for step in list_steps(crash, info) if step.window is not None]
    windows = [step.window for step in steps]
    for i, step in enumerate(steps):
        if step.call.fqn is None or step.window is None or step.window.adaptive:
            continue
        others = [
            w
            for j, w in enumerate(windows)
            if j != i and w is not None and w.is_pool == step.window.is_pool
        ]
        for changed, settings in list_variants(step.window, others):
            after = apply_windows([*windows[:i], changed, *windows[i + 1 :]], steps[0].before)
            if info.shape[1] * count_elements(after) == found.wanted:
                yield _wrong_window(
                    crash, found, step, settings, like=changed in others, sizes=after
                )


def _wrong_window(
    crash: Crash,
    found: Product,
    step: Step,
    settings: dict[str, object],
    *,
    like: bool,
    sizes: tuple[int, ...],
) -> Suspect:
    fqn = step.call.fqn or ""
    texts = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    weight = STRONG if like else POSSIBLE
    alike = "as the others have it, " if like else ""
    return Suspect(
        diagnosis="linear-in-features",
        module=fqn,
        message=f"{describe_module(crash, fqn)} makes another size than {describe_module(crash, found.module)} was written for: with {texts}, {alike}it fits",
        arithmetic=f"{quote(found.module)} wants {found.wanted}; with {texts} the map is {sizes}, so that "
        f"{write_product((found.wanted // max(count_elements(sizes), 1), *sizes))}; arrived {found.x.shape}",
        candidates=(propose(configure(crash, fqn, **settings), weight=weight),),
        weight=weight,
    )
