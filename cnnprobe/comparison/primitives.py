"""A trace as a sequence of primitive operations, each under one name and with one form of its
hyper-parameters, however it was written.

Containers are dropped: their layers stand for them. What an operation reads is kept as its data
flow, through whatever only hands a value on.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cnnprobe.operations import (
    OperationInfo,
    Signature,
    find,
    find_name,
    find_signature,
    is_variadic,
    name_keyword,
    name_position,
    resolve_name,
)
from cnnprobe.records.differences import Operation
from cnnprobe.records.trace import ModuleCall, ModuleInfo, ParameterInfo, TensorInfo, Trace

# They say how a result is stored or what a layer was called, not what is computed.
_IMMATERIAL = frozenset({
    "inplace", "name", "device", "dtype", "_stacklevel", "memory_format", "transposed",
    "num_features", "num_channels", "track_running_stats", "num_parameters", "init", "in_channels",
    "out_channels", "in_features", "out_features", "kernel_size", "head_dim", "kdim", "vdim",
    "num_embeddings", "embedding_dim", "affine", "elementwise_affine", "normalized_shape", "out",
    "cudnn_enable", "cudnn_enabled",
})  # fmt: skip
_STEP = re.compile(r"^(?:\[(\d+)\]|([A-Za-z_]\w*))?(.*)$", re.DOTALL)
_UNKNOWN = Signature(names=(), defaults={}, tensors=(), parameters=())
_REDUCTIONS = ("none", "mean", "sum")  # as torch.kl_div and its kind number them
Owned = Mapping[str, Sequence[tuple[str, str]]]
_PAIRWISE = ("conv", "max_pool", "avg_pool", "adaptive")  # a number stands for as many equal ones


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What a trace knows of its modules and parameters, by every name that they have."""

    trace: Trace
    modules: Mapping[str, ModuleInfo]
    parameters: Mapping[str, ParameterInfo]
    owned: Owned


def _collect_known(trace: Trace) -> _Known:
    return _Known(
        trace=trace,
        modules={
            name: module for module in trace.modules for name in (module.fqn, *module.aliases)
        },
        parameters={
            name: parameter
            for parameter in trace.parameters
            for name in (parameter.fqn, *parameter.aliases)
        },
        owned=_list_owned(trace),
    )


def list_operations(trace: Trace) -> tuple[Operation, ...]:
    """The primitive operations of a forward pass in the order in which they ran."""
    known = _collect_known(trace)
    above = {call.parent for call in trace.calls}
    found: list[Operation] = []
    at: dict[int, int] = {}  # row -> operation
    for row, call in enumerate(trace.calls):
        if row in above or call.recomputed or _is_pass_through(call, row, known.modules):
            continue
        at[row] = len(found)
        found.append(_make_operation(call, row, known, at))
    return tuple(found)


def _is_pass_through(call: ModuleCall, row: int, modules: Mapping[str, ModuleInfo]) -> bool:
    """A module without rows below that gives back what it got: an empty Sequential, a forward of
    `return x`.
    """
    if call.fqn is None or not call.completed:
        return False
    module = modules.get(call.fqn)
    if module is not None and module.is_container:
        return True
    return bool(call.outputs) and all(out.source != row for out in call.outputs)


def _make_operation(call: ModuleCall, row: int, known: _Known, at: Mapping[int, int]) -> Operation:
    info = find(call)
    if call.fqn is None:
        owner = _find_owner(known.trace, call)
        config, parameters = _describe_function(call, info, known.parameters)
    else:
        owner = call.fqn
        config, parameters = _describe_layer(known.modules[owner], info, known.owned)
    data = [
        tensor
        for tensor in call.inputs
        if not (isinstance(tensor.source, str) and call.fqn is None)
    ]
    if info is not None and call.fqn is None:
        data.sort(key=lambda tensor: _find_position(tensor, call, info))
    shapes = {role: known.parameters[fqn].shape for role, fqn in parameters.items()}
    name, config = _normalise(_choose_name(call, info), config, data, call.outputs, shapes)
    return Operation(
        name=name,
        kind=call.kind,
        module=owner,
        call=row,
        config=config,
        given=tuple(tensor.shape for tensor in data),
        made=tuple(tensor.shape for tensor in call.outputs),
        sources=tuple(
            at.get(tensor.source) if isinstance(tensor.source, int) else None for tensor in data
        ),
        parameters=parameters,
        shapes=shapes,
        source=call.source,
        completed=call.completed,
    )


def _find_position(tensor: TensorInfo, call: ModuleCall, info: OperationInfo) -> int:
    """Where a tensor stands among the arguments of the operation itself: torch.embedding and `2 -
    x` order them otherwise.
    """
    own = find_signature(call.kind) or info.signature
    plain = (find_name(info.mirrors) if info.mirrors else None) or info
    name, _ = _split_first_step(tensor.path, own)
    names = plain.signature.names
    return names.index(name) if name in names else len(names)


def _choose_name(call: ModuleCall, info: OperationInfo | None) -> str:
    """One name for what computes the same: every reshape is a flatten until its shapes are seen."""
    if info is None:
        return call.kind if call.fqn is not None else resolve_name(call.kind)
    if info.family == "reshape":
        return "flatten"
    return "identity" if info.family == "identity" else info.mirrors or info.name


def _find_owner(trace: Trace, call: ModuleCall) -> str:
    """The module whose forward called a function."""
    while call.fqn is None and call.parent is not None:
        call = trace.calls[call.parent]
    return call.fqn or ""


# -- hyper-parameters and parameters ---------------------------------------------------------------


def _describe_layer(
    module: ModuleInfo, info: OperationInfo | None, owned: Owned
) -> tuple[dict[str, object], dict[str, str]]:
    parameters = dict(_map_roles(module, owned))
    config = {
        key: value
        for key, value in module.config.items()
        if key != "bias" and (key not in _IMMATERIAL or key == "kernel_size")
    }
    if info is not None:
        signature = info.variants.get(module.kind, info.signature)
        given = info.constructor.names if info.constructor is not None else tuple(config)
        config = {
            **_list_defaults(info, signature),
            **{k: v for k, v in config.items() if k in signature.names or k in given},
        }
        if "training" in signature.names:
            config["training"] = module.training and (
                module.config.get("track_running_stats", True) is not False
            )
            if module.config.get("track_running_stats") is False:
                config["training"] = True
    return config, parameters


def _list_defaults(info: OperationInfo, signature: Signature) -> dict[str, object]:
    """The defaults of an operation, and of a spelling that has others; not of its tensors."""
    found = {**info.signature.defaults, **signature.defaults}
    return {
        key: value
        for key, value in found.items()
        if key not in info.signature.tensors and key not in _IMMATERIAL
    }


def _list_owned(trace: Trace) -> Owned:
    """Parameters and buffers by the module name that they stand under: (role, fqn), aliases too."""
    owned: dict[str, list[tuple[str, str]]] = {}
    for parameter in trace.parameters:
        for name in (parameter.fqn, *parameter.aliases):
            owner, _, role = name.rpartition(".")
            owned.setdefault(owner, []).append((role, parameter.fqn))
    return owned


def _map_roles(module: ModuleInfo, owned: Owned) -> Iterator[tuple[str, str]]:
    """The layer's own parameters and buffers by their names in it, also those inside of a layer
    that counts as a whole.
    """
    yield from owned.get(module.fqn, ())
    if module.kind == "MultiheadAttention":
        for role, fqn in owned.get(f"{module.fqn}.out_proj" if module.fqn else "out_proj", ()):
            yield f"out_proj.{role}", fqn


def _describe_function(
    call: ModuleCall, info: OperationInfo | None, known: Mapping[str, ParameterInfo]
) -> tuple[dict[str, object], dict[str, str]]:
    signature = (find_signature(call.kind) if info is not None else None) or _UNKNOWN
    values: dict[str, Any] = {} if info is None else _list_defaults(info, signature)
    several: set[str] = set()
    for path, value in call.arguments.items():
        first, rest = _split_first_step(path, signature)
        if rest or is_variadic(signature, first):
            values[first] = (*(values[first] if first in several else ()), value)
            several.add(first)
        else:
            values[first] = value
    parameters = {
        _split_first_step(tensor.path, signature)[0]: known[tensor.source].fqn
        for tensor in call.inputs
        if isinstance(tensor.source, str) and tensor.source in known
    }
    return {
        key: value
        for key, value in values.items()
        if key not in _IMMATERIAL - {"kernel_size"}
        and key not in signature.parameters
        and not (value is None and key in signature.tensors)
    }, parameters


def _split_first_step(path: str, signature: Signature) -> tuple[str, str]:
    """The argument that a path begins with, by its name where it is known, and what is left of the
    path.
    """
    match = _STEP.match(path)
    position, name, rest = match.groups() if match is not None else (None, None, "")
    if name is not None:
        return name_keyword(signature, name), rest
    return name_position(signature, int(position) if position is not None else 0), rest


# -- one form for what can be written in several ---------------------------------------------------


def _normalise(
    name: str,
    config: dict[str, object],
    data: list[TensorInfo],
    made: tuple[TensorInfo, ...],
    shapes: Mapping[str, tuple[int, ...]],
) -> tuple[str, dict[str, object]]:
    before = data[0].shape if data else ()
    after = made[0].shape if made else ()
    if name == "flatten":
        return _reshape(before, after) if made else (name, config)
    config = _spell_values(name, config, len(before))
    if name.startswith("conv"):
        _complete_convolution(name, config, shapes)
    elif name.startswith(("max_pool", "avg_pool")) and config.get("stride") in (None, ()):
        config["stride"] = config.get("kernel_size")
    elif name == "mean" and _is_global(config, before):
        return "adaptive_avg_pool2d", {"output_size": 1}
    elif name == "pad":
        config = {("padding" if key == "pad" else key): value for key, value in config.items()}
        config["value"] = config.get("value") or 0
    elif name == "interpolate" and after:
        config = {
            "mode": config.get("mode"),
            "align_corners": config.get("align_corners"),
            "size": after[2:],
        }
    elif name == "prelu":
        config = {}
    elif name.startswith("dropout") and config.get("p") == 0:
        return "identity", {}
    return ("identity", {}) if name == "identity" else (name, config)


def _spell_values(name: str, config: Mapping[str, object], rank: int) -> dict[str, object]:
    """The arguments with one spelling for each value: (3, 3) is 3, and dim -1 is counted from the
    front.
    """
    spelt = {
        key: _shorten(value) if name.startswith(_PAIRWISE) else value
        for key, value in config.items()
        if value != "<Tensor>"
    }
    for key in ("dim", "start_dim", "end_dim", "dim0", "dim1"):
        value = spelt.get(key)
        if isinstance(value, int) and value < 0 and rank:
            spelt[key] = value + rank
    if isinstance(spelt.get("reduction"), int):
        spelt["reduction"] = _REDUCTIONS[int(str(spelt["reduction"]))]
    return spelt


def _reshape(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[str, dict[str, object]]:
    """`flatten(start, end)` where neighbouring dimensions were merged, else the shape that was
    asked for, without the batch.
    """
    if before == after:
        return "identity", {}
    merged = len(before) - len(after) + 1
    for start in reversed(range(len(after))):
        if (
            merged > 1
            and before[:start] == after[:start]
            and before[start + merged :] == after[start + 1 :]
        ):
            return "flatten", {"start_dim": start, "end_dim": start + merged - 1}
    return "reshape", {"shape": after[1:] if before and after and before[0] == after[0] else after}


def _shorten(value: object) -> object:
    """One number for as many equal ones."""
    if isinstance(value, tuple) and value and all(item == value[0] for item in value):
        return value[0]
    return value


def _complete_convolution(
    name: str, config: dict[str, object], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    weight = shapes.get("weight", ())
    if weight:
        config["kernel_size"] = _shorten(weight[2:])
    if config.get("padding") == "valid":
        config["padding"] = 0
    kernel, dilation = config.get("kernel_size"), config.get("dilation", 1)
    if (
        config.get("padding") == "same"
        and isinstance(kernel, int)
        and isinstance(dilation, int)
        and kernel * dilation % 2
    ):
        config["padding"] = dilation * (kernel - 1) // 2
    config.setdefault("padding_mode", "zeros")
    if "transpose" not in name:
        config.pop("output_padding", None)


def _is_global(config: Mapping[str, object], before: tuple[int, ...]) -> bool:
    dims = config.get("dim")
    if len(before) != 4 or not isinstance(dims, tuple) or config.get("keepdim") is not True:
        return False
    return {d % 4 for d in dims if isinstance(d, int)} == {2, 3}
