"""Tensors and layers of different dtypes or on different devices, and inputs that are not what a model takes."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import Move, RegisterLayers, SetAttribute
from cnnprobe.crash.edits.build import adapt_call, change_input, change_tensor, is_root_input
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.windows import count_dims
from cnnprobe.crash.facts.words import is_floating, operation, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo

_MIXING = frozenset({
    "linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "conv1d", "conv2d", "conv3d", "addmm", "baddbmm", "einsum", "layer_norm",
    "batch_norm", "group_norm", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "scaled_dot_product_attention", "lerp", "dot", "mv",
})  # fmt: skip
_BY_INDEX = (nn.Embedding, nn.EmbeddingBag)


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong with dtypes, devices and the input as a whole."""
    call = crash.call
    if call is not None and call.inputs:
        yield from _devices(crash, call)
        yield from _dtypes(crash, call)
    yield from _unbatched(crash)
    yield from _integers(crash)


# -- devices -----------------------------------------------------------------------------------------------------------------


def _own(crash: Crash, call: ModuleCall) -> dict[str, Tensor]:
    """The parameters and buffers that the failing call works with, by name."""
    layer = crash.leaf
    if layer is None or call.fqn is None:
        return {}
    return {
        f"{call.fqn}.{name}": t
        for registry in (layer._parameters, layer._buffers)
        for name, t in registry.items()
        if t is not None
    }


def _devices(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    own = {name: str(t.device) for name, t in _own(crash, call).items()}
    arrived = {t.device for t in call.inputs if t.shape}
    if len(arrived | set(own.values())) < 2:
        return
    usual = _majority([p.device for p in crash.trace.parameters], [str(p) for p in arrived])
    strangers = [name for name, device in own.items() if device != usual]
    if strangers:
        fqn = call.fqn or ""
        yield _stranger(crash, fqn, own[strangers[0]], usual)
        return
    yield from _foreign_tensors(crash, call, usual)


def _majority(first: list[str], otherwise: list[str]) -> str:
    found = Counter(first or otherwise).most_common(1)
    return found[0][0] if found else "cpu"


def _stranger(crash: Crash, fqn: str, device: str, usual: str) -> Suspect:
    move = Move(
        title=f"move {quote(fqn)} to {usual}: model.to({usual!r})",
        code=f".to({usual!r})",
        module=fqn,
        device=usual,
    )
    return Suspect(
        diagnosis="device-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} is on {device}, the rest of the model on {usual}",
        arithmetic=f"{quote(fqn)}: {device}; the input: {', '.join(t.device for t in crash.root_inputs)}",
        candidates=(propose(move, weight=STRONG),),
        weight=STRONG,
    )


def _foreign_tensors(crash: Crash, call: ModuleCall, usual: str) -> Iterator[Suspect]:
    for position, info in enumerate(call.inputs):
        if info.device == usual or not info.shape:
            continue
        attribute = crash.find_attribute(info)
        if isinstance(info.source, str):
            yield _stranger(crash, crash.owner_of_parameter(info.source), info.device, usual)
            return
        if attribute is None and (crash.is_input(info) or is_root_input(crash, info)):
            blamed = call.fqn if call.fqn is not None else crash.owner
            what = f"the input is on {info.device}, {describe_module(crash, blamed)} on {usual}"
            code = f"{{x}}.to({usual!r})"
            edit: Edit = change_input(
                lambda t: _moved(t, usual),
                code,
                every=True,
                title=f"move the input: x = x.to({usual!r})",
            )
        elif attribute is not None:
            blamed, name = attribute
            what = f"the tensor '{name}' of {describe_module(crash, blamed)} is no buffer, so that .to() left it on {info.device}"
            edit = adapt_call(
                crash, lambda t: _moved(t, usual), f"{{x}}.to({usual!r})", position=position
            )
            edit = replace(
                edit,
                title=f"register it: self.register_buffer({name!r}, ...), so that it moves with the model",
            )
        elif (hidden := hidden_layers(crash, info)) is not None:
            blamed, name = hidden
            what = f"the layers in '{name}' of {describe_module(crash, blamed)} stand in a plain list or dict, so that .to() left them on {info.device}"
            title = f"make it an nn.ModuleList (or nn.ModuleDict): self.{name} = nn.ModuleList(...)"
            edit = RegisterLayers(
                title=title, code="nn.ModuleList", module=blamed, name=name, device=usual
            )
        else:
            blamed = crash.owner
            what = f"a tensor from {crash.describe_origin(info)} is on {info.device}, the model on {usual}"
            edit = adapt_call(
                crash, lambda t: _moved(t, usual), f"{{x}}.to({usual!r})", position=position
            )
            edit = replace(
                edit, title=f"make it where the input is: device=x.device, or .to({usual!r})"
            )
        yield Suspect(
            diagnosis="device-mismatch",
            module=blamed,
            message=what,
            arithmetic="; ".join(
                f"{t.shape} on {t.device} from {crash.describe_origin(t)}" for t in call.inputs[:4]
            ),
            candidates=(propose(edit, weight=STRONG),),
            weight=STRONG,
        )
        return


def hidden_layers(crash: Crash, info: TensorInfo) -> tuple[str, str] | None:
    """The plain attribute in whose list or dict a layer stands that has such a tensor: fqn of the module and name."""
    for fqn, module in crash.modules.items():
        for name, value in module.__dict__.items():
            layers = (
                [m for m in tree_leaves(value) if isinstance(m, nn.Module)]
                if isinstance(value, list | tuple | dict) and name != "_modules"
                else ()
            )
            if any(
                tuple(p.shape) == info.shape and str(p.device) == info.device
                for layer in layers
                for p in layer.parameters()
            ):
                return fqn, name
    return None


def _moved(value: object, device: str) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.device.type == "meta" and device != "meta":
        return torch.zeros(value.shape, dtype=value.dtype, device=device)
    return value.to(device)


# -- dtypes ------------------------------------------------------------------------------------------------------------------


def _dtypes(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    own = [
        str(t.dtype).removeprefix("torch.")
        for t in _own(crash, call).values()
        if t.is_floating_point()
    ]
    if own and not isinstance(crash.leaf, _BY_INDEX):
        x = call.inputs[0]
        if x.dtype != own[0]:
            yield from _layer_dtype(crash, call, x, own[0])
    elif operation(call) in _MIXING and len({t.dtype for t in call.inputs}) > 1:
        yield from _function_dtype(crash, call)


def _layer_dtype(crash: Crash, call: ModuleCall, x: TensorInfo, wanted: str) -> Iterator[Suspect]:
    fqn = call.fqn or ""
    usual = _majority(
        [
            p.dtype
            for p in crash.trace.parameters
            if is_floating(p.dtype) and not p.fqn.startswith(fqn + ".")
        ],
        [wanted],
    )
    if wanted != usual and is_floating(x.dtype):
        edit = Move(
            title=f"bring {quote(fqn)} to {usual}: .to(torch.{usual})",
            code=f".to(torch.{usual})",
            module=fqn,
            dtype=getattr(torch, usual),
        )
        cast = adapt_call(
            crash, lambda t: t.to(getattr(torch, wanted)), f"{{x}}.to(torch.{wanted})"
        )
        yield Suspect(
            diagnosis="dtype-mismatch",
            module=fqn,
            message=f"{describe_module(crash, fqn)} has {wanted} weights, the rest of the model {usual}",
            arithmetic=f"wanted {wanted}, arrived {x.dtype} {x.shape}",
            candidates=(propose(edit, weight=STRONG), propose(cast, weight=USUAL)),
            weight=STRONG,
        )
        return
    yield from _cast_before(crash, x, fqn, wanted)


def _function_dtype(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    usual = _majority(
        [p.dtype for p in crash.trace.parameters if is_floating(p.dtype)], ["float32"]
    )
    odd = next((t for t in call.inputs if t.dtype != usual), None)
    if odd is None:
        return
    if isinstance(odd.source, str):
        owner = crash.owner_of_parameter(odd.source)
        edit = Move(
            title=f"bring {quote(owner)} to {usual}",
            code=f".to(torch.{usual})",
            module=owner,
            dtype=getattr(torch, usual),
        )
        yield Suspect(
            diagnosis="dtype-mismatch",
            module=owner,
            message=f"the parameter '{odd.source}' is {odd.dtype}, the rest of the model {usual}",
            arithmetic=", ".join(t.dtype for t in call.inputs),
            candidates=(propose(edit, weight=STRONG),),
            weight=STRONG,
        )
        return
    yield from _cast_before(crash, odd, crash.owner, usual, position=call.inputs.index(odd))


def _cast_before(
    crash: Crash, x: TensorInfo, fqn: str, wanted: str, *, position: int = 0
) -> Iterator[Suspect]:
    """The tensor is the odd one: the input's own dtype, a tensor of another dtype that was mixed in, or a cast on the way."""
    dtype = getattr(torch, wanted)
    code = "{x}.float()" if wanted == "float32" else f"{{x}}.to(torch.{wanted})"
    if (
        is_root_input(crash, x)
        and (root := crash.find_root(x)) is not None
        and root.dtype == x.dtype
    ):
        message = f"the input is {x.dtype}, and {describe_module(crash, fqn)} computes in {wanted}"
        if x.dtype == "uint8":
            message += "; bytes of an image are to be scaled too, by / 255"
        yield Suspect(
            diagnosis="input-dtype",
            module=fqn,
            message=message,
            arithmetic=f"wanted {wanted}, arrived {x.dtype} {x.shape}",
            candidates=(
                propose(change_tensor(crash, x, lambda t: t.to(dtype), code), weight=STRONG),
            ),
            weight=STRONG,
        )
        if crash.is_input(x):
            return
    mixed = _mixed_in(crash, x, dtype)
    if mixed is not None:
        yield mixed
    caster = next(
        (
            c
            for _, c in crash.walk_back(x)
            if c.outputs and c.inputs and c.outputs[0].dtype != c.inputs[0].dtype
        ),
        None,
    )
    made = f"; {crash.describe_call(caster)} made it {x.dtype}" if caster is not None else ""
    yield Suspect(
        diagnosis="dtype-mismatch",
        module=fqn,
        message=f"{x.dtype} from {crash.describe_origin(x)} arrives at {describe_module(crash, fqn)}, which computes in {wanted}{made}",
        arithmetic=f"wanted {wanted}, arrived {x.dtype} {x.shape}",
        candidates=(
            propose(
                adapt_call(crash, lambda t: t.to(dtype), code, position=position),
                weight=STRONG if caster else USUAL,
            ),
        ),
        weight=STRONG if caster is not None else USUAL,
    )


def _mixed_in(crash: Crash, x: TensorInfo, dtype: torch.dtype) -> Suspect | None:
    """The parameter, buffer or plain attribute of another dtype that has drawn what the model computed to it."""
    caster = next(
        (
            c
            for _, c in crash.walk_back(x)
            if c.outputs and any(t.dtype != x.dtype for t in c.inputs)
        ),
        None,
    )
    odd = (
        next((t for t in caster.inputs if t.dtype == x.dtype), None) if caster is not None else None
    )
    if caster is None or odd is None:
        return None
    if isinstance(odd.source, str):
        owner, _, name = odd.source.rpartition(".")
    elif (found := crash.find_attribute(odd)) is not None:
        owner, name = found
    else:
        return None
    short_type = str(dtype).removeprefix("torch.")
    edit = SetAttribute(
        title=f"make 'self.{name}' of {describe_module(crash, owner)} {short_type}: .to(torch.{short_type})",
        code=f".to(torch.{short_type})",
        module=owner,
        name=name,
        value=lambda module: _cast(getattr(module, name), dtype),
    )
    return Suspect(
        diagnosis="dtype-mismatch",
        module=owner,
        message=f"'self.{name}' of {describe_module(crash, owner)} is {odd.dtype}, so that {crash.describe_call(caster)} gives {x.dtype}",
        arithmetic=f"'self.{name}' {odd.shape} {odd.dtype}; {crash.describe_call(crash.call) if crash.call is not None else ''} computes in {short_type}",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG + 1,
    )


def _cast(value: Tensor, dtype: torch.dtype) -> Tensor:
    cast = value.detach().to(dtype)
    return (
        nn.Parameter(cast, requires_grad=value.requires_grad)
        if isinstance(value, nn.Parameter)
        else cast
    )


# -- the input as a whole ----------------------------------------------------------------------------------------------------


def _unbatched(crash: Crash) -> Iterator[Suspect]:
    """One sample without its batch axis: convolutions take it, what comes after them does not."""
    if not crash.root_inputs:
        return
    shape = crash.root_inputs[0].shape
    first = next(
        (c for c in crash.trace.calls if c.fqn is not None and c.inputs and _axes(crash, c)), None
    )
    if (
        first is None
        and crash.leaf is None
        and crash.call is not None
        and crash.call.fqn is not None
    ):
        yield from _unbatched_before_the_layers(crash, shape)
    if (
        first is None
        or first.fqn is None
        or len(first.inputs[0].shape) != _axes(crash, first) + 1
        or len(shape) != _axes(crash, first) + 1
    ):
        return
    layer = crash.modules[first.fqn]
    if (
        isinstance(layer, nn.modules.conv._ConvNd)
        and layer.in_channels != shape[0]
        and shape[-1] != layer.in_channels
    ):
        return
    yield Suspect(
        diagnosis="missing-batch",
        module=crash.call.fqn
        if crash.call is not None and crash.call.fqn is not None
        else crash.owner,
        message=f"the input {shape} is one sample without a batch axis",
        arithmetic=f"(N, {', '.join(map(str, shape))}) is wanted, {shape} arrived",
        candidates=(
            propose(
                change_input(
                    lambda t: t[None], "{x}[None]", title="add the batch axis: x.unsqueeze(0)"
                ),
                weight=STRONG,
            ),
        ),
        weight=STRONG,
    )


def _unbatched_before_the_layers(crash: Crash, shape: tuple[int, ...]) -> Iterator[Suspect]:
    """The user's own code wanted a batch axis, before the first convolution was called."""
    layer = next(
        (m for m in crash.modules.values() if isinstance(m, nn.modules.conv._ConvNd)), None
    )
    if layer is None or len(shape) != count_dims(layer) + 1 or shape[0] != layer.in_channels:
        return
    yield Suspect(
        diagnosis="missing-batch",
        module=crash.owner,
        message=f"the input {shape} is one sample without a batch axis",
        arithmetic=f"(N, {', '.join(map(str, shape))}) is wanted, {shape} arrived",
        candidates=(
            propose(
                change_input(
                    lambda t: t[None], "{x}[None]", title="add the batch axis: x.unsqueeze(0)"
                ),
                weight=STRONG,
            ),
        ),
    )


def _axes(crash: Crash, call: ModuleCall) -> int:
    module = crash.modules.get(call.fqn or "")
    return (
        count_dims(module)
        if isinstance(module, nn.modules.conv._ConvNd | nn.BatchNorm2d | nn.BatchNorm3d)
        else 0
    )


def _integers(crash: Crash) -> Iterator[Suspect]:
    """An input of integers where no layer looks anything up."""
    x = crash.root_inputs[0] if crash.root_inputs else None
    call = crash.call
    if (
        x is None
        or call is None
        or is_floating(x.dtype)
        or x.dtype.startswith("complex")
        or isinstance(crash.leaf, _BY_INDEX)
    ):
        return
    if not call.inputs or is_floating(call.inputs[0].dtype) or _own(crash, call):
        return
    candidates: tuple[Candidate, ...] = (
        propose(change_input(lambda t: t.float(), "{x}.float()"), weight=USUAL),
    )
    yield Suspect(
        diagnosis="input-dtype",
        module=call.fqn if call.fqn is not None else crash.owner,
        message=f"the input is {x.dtype}, and {crash.describe_call(call)} is for floating-point numbers",
        arithmetic=f"arrived {x.dtype} {x.shape}",
        candidates=candidates,
        weight=USUAL,
    )
