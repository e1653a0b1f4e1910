"""Layers that were built for another number of channels or axes: normalisation, embeddings and the like."""

from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.crash import growing
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetMode
from cnnprobe.crash.edits.build import adapt_call, change_input, change_tensor, configure
from cnnprobe.crash.edits.calls import Adapt, AdaptOutput
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.facts.channels import suspect_channel_maker
from cnnprobe.crash.facts.windows import count_dims, is_channels_first
from cnnprobe.crash.facts.words import (
    count_elements,
    get_tensor,
    is_floating,
    operation,
    quote,
    write_product,
)
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import TensorInfo

_BATCH = nn.modules.batchnorm._NormBase
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where one of these layers was given the wrong thing."""
    layer, call = crash.leaf, crash.call
    if call is None or not call.inputs:
        return
    x = call.inputs[0]
    if isinstance(layer, _BATCH):
        yield from _batch_norm(crash, layer, x)
    elif isinstance(layer, nn.GroupNorm):
        yield from _channels(crash, x, layer.num_channels, "num_channels")
    elif isinstance(layer, nn.LayerNorm):
        yield from _layer_norm(crash, layer, x)
    elif isinstance(layer, nn.PReLU):
        yield from _prelu(crash, layer, x)
    elif isinstance(layer, nn.Embedding | nn.EmbeddingBag) or operation(call) == "embedding":
        yield from _embedding(crash)
    elif isinstance(layer, nn.PixelShuffle):
        yield from _pixel_shuffle(crash, layer, x)
    elif operation(call) in ("batch_norm", "instance_norm"):
        yield from _functional_norm(crash, x)


def _batch_norm(crash: Crash, layer: nn.Module, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    is_instance = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    axes = count_dims(layer)
    allowed = {axes + 1, axes + 2} if is_instance or axes == 1 else {axes + 2}
    kinds = _INSTANCE_NORMS if is_instance else _BATCH_NORMS
    if axes and len(x.shape) not in allowed:
        candidates = []
        other = kinds.get(len(x.shape))
        if other is not None:
            count = int(layer.num_features)  # type: ignore[arg-type]
            title = f"make {quote(fqn)} an nn.{other.__name__}({count})"
            edit = Exchange(
                title=title,
                code=f"nn.{other.__name__}({count})",
                module=fqn,
                layer=lambda _old: other(count),
            )
            candidates.append(propose(edit, weight=USUAL))
        yield Suspect(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{describe_module(crash, fqn)} is for {' or '.join(map(str, sorted(allowed)))} axes, and {x.shape} has {len(x.shape)}",
            arithmetic=f"{crash.describe_origin(x)} gives {x.shape}",
            candidates=tuple(candidates),
        )
        return
    yield from _channels(crash, x, int(layer.num_features), "num_features")  # type: ignore[arg-type]
    if (
        _channel_count(x) == layer.num_features
        and layer.training
        and x.shape
        and count_elements(x.shape) // max(x.shape[1], 1) == 1
    ):
        yield _single_value(crash, fqn, x)


def _channel_count(x: TensorInfo) -> int:
    return x.shape[1] if len(x.shape) > 1 else -1


def _single_value(crash: Crash, fqn: str, x: TensorInfo) -> Suspect:
    double = change_input(
        lambda t: torch.cat([t, t]),
        "{x}",
        title="give the model at least two samples (DataLoader(..., drop_last=True))",
    )
    evaluate = SetMode(
        title="call model.eval() before the forward, if this is no training",
        code="model.eval()",
        module="",
        training=False,
    )
    return Suspect(
        diagnosis="bn-single-value",
        module=fqn,
        message=f"in train mode {describe_module(crash, fqn)} needs more than one value per channel for its variance, and sees one",
        arithmetic=f"{x.shape}: batch {x.shape[0]}"
        + (f", {write_product(x.shape[2:])} positions" if len(x.shape) > 2 else ""),
        candidates=(propose(double, weight=STRONG), propose(evaluate, weight=STRONG)),
        weight=STRONG,
    )


def _channels(crash: Crash, x: TensorInfo, wanted: int, name: str) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    got = _channel_count(x)
    if got == wanted:
        return
    yield from growing.other_growth(crash, x, wanted, fqn)
    candidates = [propose(configure(crash, fqn, **_settings(crash, fqn, name, got)), weight=STRONG)]
    yield from suspect_channel_maker(crash, x, wanted, module=fqn, diagnosis="channel-mismatch")
    if len(x.shape) == 3 and x.shape[-1] == wanted and not crash.is_input(x):
        candidates = [*_there_and_back(fqn), propose(candidates[0].edits[0], weight=POSSIBLE)]
    elif len(x.shape) >= 3 and x.shape[-1] == wanted:
        order = (0, len(x.shape) - 1, *range(1, len(x.shape) - 1))
        code = "{x}.permute(" + ", ".join(map(str, order)) + ")"
        edit = (
            change_tensor(crash, x, lambda t: t.permute(order), code)
            if crash.is_input(x)
            else adapt_call(crash, lambda t: t.permute(order), code)
        )
        yield Suspect(
            diagnosis="nhwc-input",
            module=fqn,
            message=f"the channel axis is last: {describe_module(crash, fqn)} wants {wanted} channels on axis 1 of {x.shape}",
            arithmetic=f"axis 1 has {got}, the last {wanted}",
            candidates=(propose(edit, weight=USUAL),),
        )
    yield Suspect(
        diagnosis="bn-features-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} has {name} {wanted}, and {got} channels arrive from {crash.describe_origin(x)}",
        arithmetic=f"{name} {wanted}, arrived {x.shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _there_and_back(fqn: str) -> Iterator[Candidate]:
    """(N, L, C) for a layer that wants (N, C, L): turned before it, and turned back after it."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)

    before = Adapt(
        title=f"pass x.transpose(1, 2) to {quote(fqn)}",
        code="{x}.transpose(1, 2)",
        module=fqn,
        function=turned,
    )
    after = AdaptOutput(
        title="transpose back what it gives",
        code="{x}.transpose(1, 2)",
        module=fqn,
        function=turned,
    )
    yield propose(before, after, weight=STRONG)
    yield propose(before, weight=USUAL)


def _settings(crash: Crash, fqn: str, name: str, got: int) -> dict[str, int]:
    groups = getattr(crash.modules[fqn], "num_groups", 1)
    return (
        {name: got}
        if got % groups == 0
        else {"num_groups": next(g for g in range(groups, 0, -1) if got % g == 0), name: got}
    )


def _layer_norm(crash: Crash, layer: nn.LayerNorm, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    wanted = tuple(layer.normalized_shape)
    got = x.shape[-len(wanted) :]
    if got == wanted:
        return
    candidates = [
        propose(
            configure(crash, fqn, normalized_shape=got if len(got) > 1 else got[0]), weight=USUAL
        )
    ]
    if (
        len(wanted) == 1
        and len(x.shape) > 2
        and x.shape[1] == wanted[0]
        and is_channels_first(crash, x)
    ):
        candidates = [
            *_channels_last_there(fqn, len(x.shape))
        ]  # the last axis is a size of the image, which is none of the layer
    if len(wanted) == 1 and len(x.shape) > 2 and x.shape[1] == wanted[0]:
        group = f"nn.GroupNorm(1, {wanted[0]})"
        edit = Exchange(
            title=f"make {quote(fqn)} an {group}",
            code=group,
            module=fqn,
            layer=lambda _old: nn.GroupNorm(1, wanted[0]),
        )
        candidates.insert(0, propose(edit, weight=USUAL))
    elif len(got) < len(wanted):
        return
    yield Suspect(
        diagnosis="bn-features-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} has normalized_shape {wanted}, and the last axes of {x.shape} are {got}",
        arithmetic=f"{crash.describe_origin(x)} gives {x.shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _channels_last_there(fqn: str, axes: int) -> Iterator[Candidate]:
    """The channels last for the layer alone: turned before it, and turned back after it."""
    there, back = (0, *range(2, axes), 1), (0, axes - 1, *range(1, axes - 1))
    before = Adapt(
        title=f"pass x.permute{there} to {quote(fqn)}",
        code=f"{{x}}.permute{there}",
        module=fqn,
        function=lambda x: x.permute(there),
    )
    after = AdaptOutput(
        title=f"turn back what it gives: x.permute{back}",
        code=f"{{x}}.permute{back}",
        module=fqn,
        function=lambda x: x.permute(back),
    )
    yield propose(before, after, weight=STRONG)
    yield propose(before, weight=POSSIBLE)


def _functional_norm(crash: Crash, x: TensorInfo) -> Iterator[Suspect]:
    call = crash.call
    if call is None or len(x.shape) < 2:
        return
    others = [t for t in call.inputs[1:] if len(t.shape) == 1]
    wrong = next((t for t in others if t.shape[0] != x.shape[1]), None)
    if wrong is not None:
        owner = (
            crash.owner_of_parameter(wrong.source) if isinstance(wrong.source, str) else crash.owner
        )
        yield Suspect(
            diagnosis="bn-features-mismatch",
            module=owner,
            message=f"the normalisation has {wrong.shape[0]} features ({crash.describe_origin(wrong)}), and {x.shape[1]} channels arrive",
            arithmetic=f"{wrong.shape[0]} against {x.shape}",
            weight=STRONG,
        )
    elif count_elements(x.shape) // max(x.shape[1], 1) == 1:
        yield _single_value(crash, crash.owner, x)


def _prelu(crash: Crash, layer: nn.PReLU, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    got = _channel_count(x)
    if layer.num_parameters not in (1, got):
        yield Suspect(
            diagnosis="channel-mismatch",
            module=fqn,
            message=f"{describe_module(crash, fqn)} has {layer.num_parameters} slopes, and {got} channels arrive from {crash.describe_origin(x)}",
            arithmetic=f"num_parameters {layer.num_parameters}, arrived {x.shape}",
            candidates=(propose(configure(crash, fqn, num_parameters=got)),),
            weight=STRONG,
        )


def _pixel_shuffle(crash: Crash, layer: nn.PixelShuffle, x: TensorInfo) -> Iterator[Suspect]:
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    unit = layer.upscale_factor**2
    got = x.shape[-3] if len(x.shape) > 2 else -1
    if got < 0 or got % unit == 0:
        return
    producer, scale = crash.find_producer(x), layer.upscale_factor
    candidates = []
    if producer is not None and isinstance(crash.modules.get(producer.fqn or ""), nn.Conv2d):
        # 3 * scale was written for 3 * scale ** 2, or the channels that are to come out; else the next multiple.
        meant = dict.fromkeys(
            [got * scale if got % scale == 0 else got * unit, got * unit, -(-got // unit) * unit]
        )
        candidates = [propose(configure(crash, producer.fqn or "", out_channels=n)) for n in meant]
    yield Suspect(
        diagnosis="channel-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} wants a multiple of {layer.upscale_factor} x {layer.upscale_factor} = {unit} channels, and {got} arrive",
        arithmetic=f"{got} = {got // unit} x {unit} + {got % unit}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _embedding(crash: Crash) -> Iterator[Suspect]:
    call = crash.call
    if call is None:
        return
    x = get_tensor(call, 0, "input") or call.inputs[0]
    blamed = call.fqn if call.fqn is not None else crash.owner
    if is_floating(x.dtype):
        edit = adapt_call(crash, lambda t: t.long(), "{x}.long()")
        if crash.is_input(x):
            edit = change_tensor(crash, x, lambda t: t.long(), "{x}.long()")
        yield Suspect(
            diagnosis="input-dtype",
            module=blamed,
            message=f"{describe_module(crash, blamed)} looks up integer indices, and {x.dtype} arrives from {crash.describe_origin(x)}",
            arithmetic=f"wanted int64, arrived {x.dtype} {x.shape}",
            candidates=(propose(edit, weight=STRONG),),
            weight=STRONG,
        )
        return
    yield from _index_range(crash, x, blamed)


def _index_range(crash: Crash, x: TensorInfo, blamed: str) -> Iterator[Suspect]:
    rows = getattr(crash.leaf, "num_embeddings", None)
    weight = (
        get_tensor(crash.call, 1, "weight")
        if crash.call is not None and crash.leaf is None
        else None
    )
    rows = weight.shape[0] if weight is not None else rows
    bounds = crash.read_bounds(x)
    if rows is None or bounds is None or (bounds[0] >= 0 and bounds[1] < rows):
        return
    low, high = int(bounds[0]), int(bounds[1])
    candidates = []
    if crash.leaf is not None and low >= 0:
        candidates.append(propose(configure(crash, blamed, num_embeddings=high + 1), weight=USUAL))
    yield Suspect(
        diagnosis="index-range",
        module=blamed,
        message=f"an index is outside of the table of {describe_module(crash, blamed)}: indices go from {low} to {high}, legal are 0 to {int(rows) - 1}",
        arithmetic=f"num_embeddings {rows}, greatest index {high}, least {low}",
        candidates=tuple(candidates),
        weight=STRONG,
    )
