"""Layers that were built for another number of channels or axes: normalisation, embeddings and the like."""

from collections.abc import Iterator

import torch
from torch import nn

from cnnprobe.crash import branches, growing
from cnnprobe.crash.adapting import before_call, configured, with_input, with_tensor
from cnnprobe.crash.case import Case, is_floating, named, operation, product, quoted, size, tensor
from cnnprobe.crash.edits import Adapt, AdaptOutput, Exchange, SetMode
from cnnprobe.crash.geometry import axes_of, is_channels_first
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Candidate, Suspicion, candidate
from cnnprobe.trace import TensorInfo

_BATCH = nn.modules.batchnorm._NormBase
_BATCH_NORMS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE_NORMS = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong where one of these layers was given the wrong thing."""
    layer, call = case.leaf, case.call
    if call is None or not call.inputs:
        return
    x = call.inputs[0]
    if isinstance(layer, _BATCH):
        yield from _batch_norm(case, layer, x)
    elif isinstance(layer, nn.GroupNorm):
        yield from _channels(case, x, layer.num_channels, "num_channels")
    elif isinstance(layer, nn.LayerNorm):
        yield from _layer_norm(case, layer, x)
    elif isinstance(layer, nn.PReLU):
        yield from _prelu(case, layer, x)
    elif isinstance(layer, nn.Embedding | nn.EmbeddingBag) or operation(call) == "embedding":
        yield from _embedding(case)
    elif isinstance(layer, nn.PixelShuffle):
        yield from _pixel_shuffle(case, layer, x)
    elif operation(call) in ("batch_norm", "instance_norm"):
        yield from _functional_norm(case, x)


def _batch_norm(case: Case, layer: nn.Module, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    is_instance = isinstance(layer, nn.modules.instancenorm._InstanceNorm)
    axes = axes_of(layer)
    allowed = {axes + 1, axes + 2} if is_instance or axes == 1 else {axes + 2}
    kinds = _INSTANCE_NORMS if is_instance else _BATCH_NORMS
    if axes and len(x.shape) not in allowed:
        candidates = []
        other = kinds.get(len(x.shape))
        if other is not None:
            count = int(layer.num_features)  # type: ignore[arg-type]
            title = f"make {quoted(fqn)} an nn.{other.__name__}({count})"
            edit = Exchange(
                title=title,
                code=f"nn.{other.__name__}({count})",
                module=fqn,
                layer=lambda _old: other(count),
            )
            candidates.append(candidate(edit, weight=USUAL))
        yield Suspicion(
            diagnosis="shape-mismatch",
            module=fqn,
            message=f"{named(case, fqn)} is for {' or '.join(map(str, sorted(allowed)))} axes, and {x.shape} has {len(x.shape)}",
            arithmetic=f"{case.origin(x)} gives {x.shape}",
            candidates=tuple(candidates),
        )
        return
    yield from _channels(case, x, int(layer.num_features), "num_features")  # type: ignore[arg-type]
    if (
        _channel_count(x) == layer.num_features
        and layer.training
        and x.shape
        and size(x.shape) // max(x.shape[1], 1) == 1
    ):
        yield _single_value(case, fqn, x)


def _channel_count(x: TensorInfo) -> int:
    return x.shape[1] if len(x.shape) > 1 else -1


def _single_value(case: Case, fqn: str, x: TensorInfo) -> Suspicion:
    double = with_input(
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
    return Suspicion(
        diagnosis="bn-single-value",
        module=fqn,
        message=f"in train mode {named(case, fqn)} needs more than one value per channel for its variance, and sees one",
        arithmetic=f"{x.shape}: batch {x.shape[0]}"
        + (f", {product(x.shape[2:])} positions" if len(x.shape) > 2 else ""),
        candidates=(candidate(double, weight=STRONG), candidate(evaluate, weight=STRONG)),
        weight=STRONG,
    )


def _channels(case: Case, x: TensorInfo, wanted: int, name: str) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    got = _channel_count(x)
    if got == wanted:
        return
    yield from growing.other_growth(case, x, wanted, fqn)
    candidates = [
        candidate(configured(case, fqn, **_settings(case, fqn, name, got)), weight=STRONG)
    ]
    yield from branches.other_maker(case, x, wanted, module=fqn, diagnosis="channel-mismatch")
    if len(x.shape) == 3 and x.shape[-1] == wanted and not case.is_input(x):
        candidates = [*_there_and_back(fqn), candidate(candidates[0].edits[0], weight=POSSIBLE)]
    elif len(x.shape) >= 3 and x.shape[-1] == wanted:
        order = (0, len(x.shape) - 1, *range(1, len(x.shape) - 1))
        code = "{x}.permute(" + ", ".join(map(str, order)) + ")"
        edit = (
            with_tensor(case, x, lambda t: t.permute(order), code)
            if case.is_input(x)
            else before_call(case, lambda t: t.permute(order), code)
        )
        yield Suspicion(
            diagnosis="nhwc-input",
            module=fqn,
            message=f"the channel axis is last: {named(case, fqn)} wants {wanted} channels on axis 1 of {x.shape}",
            arithmetic=f"axis 1 has {got}, the last {wanted}",
            candidates=(candidate(edit, weight=USUAL),),
        )
    yield Suspicion(
        diagnosis="bn-features-mismatch",
        module=fqn,
        message=f"{named(case, fqn)} has {name} {wanted}, and {got} channels arrive from {case.origin(x)}",
        arithmetic=f"{name} {wanted}, arrived {x.shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _there_and_back(fqn: str) -> Iterator[Candidate]:
    """(N, L, C) for a layer that wants (N, C, L): turned before it, and turned back after it."""

    def turned(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)

    before = Adapt(
        title=f"pass x.transpose(1, 2) to {quoted(fqn)}",
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
    yield candidate(before, after, weight=STRONG)
    yield candidate(before, weight=USUAL)


def _settings(case: Case, fqn: str, name: str, got: int) -> dict[str, int]:
    groups = getattr(case.modules[fqn], "num_groups", 1)
    return (
        {name: got}
        if got % groups == 0
        else {"num_groups": next(g for g in range(groups, 0, -1) if got % g == 0), name: got}
    )


def _layer_norm(case: Case, layer: nn.LayerNorm, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    wanted = tuple(layer.normalized_shape)
    got = x.shape[-len(wanted) :]
    if got == wanted:
        return
    candidates = [
        candidate(
            configured(case, fqn, normalized_shape=got if len(got) > 1 else got[0]), weight=USUAL
        )
    ]
    if (
        len(wanted) == 1
        and len(x.shape) > 2
        and x.shape[1] == wanted[0]
        and is_channels_first(case, x)
    ):
        candidates = [
            *_channels_last_there(fqn, len(x.shape))
        ]  # the last axis is a size of the image, which is none of the layer
    if len(wanted) == 1 and len(x.shape) > 2 and x.shape[1] == wanted[0]:
        group = f"nn.GroupNorm(1, {wanted[0]})"
        edit = Exchange(
            title=f"make {quoted(fqn)} an {group}",
            code=group,
            module=fqn,
            layer=lambda _old: nn.GroupNorm(1, wanted[0]),
        )
        candidates.insert(0, candidate(edit, weight=USUAL))
    elif len(got) < len(wanted):
        return
    yield Suspicion(
        diagnosis="bn-features-mismatch",
        module=fqn,
        message=f"{named(case, fqn)} has normalized_shape {wanted}, and the last axes of {x.shape} are {got}",
        arithmetic=f"{case.origin(x)} gives {x.shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _channels_last_there(fqn: str, axes: int) -> Iterator[Candidate]:
    """The channels last for the layer alone: turned before it, and turned back after it."""
    there, back = (0, *range(2, axes), 1), (0, axes - 1, *range(1, axes - 1))
    before = Adapt(
        title=f"pass x.permute{there} to {quoted(fqn)}",
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
    yield candidate(before, after, weight=STRONG)
    yield candidate(before, weight=POSSIBLE)


def _functional_norm(case: Case, x: TensorInfo) -> Iterator[Suspicion]:
    call = case.call
    if call is None or len(x.shape) < 2:
        return
    others = [t for t in call.inputs[1:] if len(t.shape) == 1]
    wrong = next((t for t in others if t.shape[0] != x.shape[1]), None)
    if wrong is not None:
        owner = (
            case.owner_of_parameter(wrong.source) if isinstance(wrong.source, str) else case.owner
        )
        yield Suspicion(
            diagnosis="bn-features-mismatch",
            module=owner,
            message=f"the normalisation has {wrong.shape[0]} features ({case.origin(wrong)}), and {x.shape[1]} channels arrive",
            arithmetic=f"{wrong.shape[0]} against {x.shape}",
            weight=STRONG,
        )
    elif size(x.shape) // max(x.shape[1], 1) == 1:
        yield _single_value(case, case.owner, x)


def _prelu(case: Case, layer: nn.PReLU, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    got = _channel_count(x)
    if layer.num_parameters not in (1, got):
        yield Suspicion(
            diagnosis="channel-mismatch",
            module=fqn,
            message=f"{named(case, fqn)} has {layer.num_parameters} slopes, and {got} channels arrive from {case.origin(x)}",
            arithmetic=f"num_parameters {layer.num_parameters}, arrived {x.shape}",
            candidates=(candidate(configured(case, fqn, num_parameters=got)),),
            weight=STRONG,
        )


def _pixel_shuffle(case: Case, layer: nn.PixelShuffle, x: TensorInfo) -> Iterator[Suspicion]:
    fqn = case.call.fqn or "" if case.call is not None else ""
    unit = layer.upscale_factor**2
    got = x.shape[-3] if len(x.shape) > 2 else -1
    if got < 0 or got % unit == 0:
        return
    producer, scale = case.producer(x), layer.upscale_factor
    candidates = []
    if producer is not None and isinstance(case.modules.get(producer.fqn or ""), nn.Conv2d):
        # 3 * scale was written for 3 * scale ** 2, or the channels that are to come out; else the next multiple.
        meant = dict.fromkeys(
            [got * scale if got % scale == 0 else got * unit, got * unit, -(-got // unit) * unit]
        )
        candidates = [
            candidate(configured(case, producer.fqn or "", out_channels=n)) for n in meant
        ]
    yield Suspicion(
        diagnosis="channel-mismatch",
        module=fqn,
        message=f"{named(case, fqn)} wants a multiple of {layer.upscale_factor} x {layer.upscale_factor} = {unit} channels, and {got} arrive",
        arithmetic=f"{got} = {got // unit} x {unit} + {got % unit}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _embedding(case: Case) -> Iterator[Suspicion]:
    call = case.call
    if call is None:
        return
    x = tensor(call, 0, "input") or call.inputs[0]
    blamed = call.fqn if call.fqn is not None else case.owner
    if is_floating(x.dtype):
        edit = before_call(case, lambda t: t.long(), "{x}.long()")
        if case.is_input(x):
            edit = with_tensor(case, x, lambda t: t.long(), "{x}.long()")
        yield Suspicion(
            diagnosis="input-dtype",
            module=blamed,
            message=f"{named(case, blamed)} looks up integer indices, and {x.dtype} arrives from {case.origin(x)}",
            arithmetic=f"wanted int64, arrived {x.dtype} {x.shape}",
            candidates=(candidate(edit, weight=STRONG),),
            weight=STRONG,
        )
        return
    yield from _index_range(case, x, blamed)


def _index_range(case: Case, x: TensorInfo, blamed: str) -> Iterator[Suspicion]:
    rows = getattr(case.leaf, "num_embeddings", None)
    weight = tensor(case.call, 1, "weight") if case.call is not None and case.leaf is None else None
    rows = weight.shape[0] if weight is not None else rows
    bounds = case.bounds(x)
    if rows is None or bounds is None or (bounds[0] >= 0 and bounds[1] < rows):
        return
    low, high = int(bounds[0]), int(bounds[1])
    candidates = []
    if case.leaf is not None and low >= 0:
        candidates.append(
            candidate(configured(case, blamed, num_embeddings=high + 1), weight=USUAL)
        )
    yield Suspicion(
        diagnosis="index-range",
        module=blamed,
        message=f"an index is outside of the table of {named(case, blamed)}: indices go from {low} to {high}, legal are 0 to {int(rows) - 1}",
        arithmetic=f"num_embeddings {rows}, greatest index {high}, least {low}",
        candidates=tuple(candidates),
        weight=STRONG,
    )
