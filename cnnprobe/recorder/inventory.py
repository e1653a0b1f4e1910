"""What a model consists of, called or not: its modules and parameters as data. Reads attributes only, never properties."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy as is_uninitialised

from cnnprobe.recorder import twins
from cnnprobe.recorder.values import PLAIN, device_name, dtype_name, plain
from cnnprobe.trace import ModuleInfo, ParameterInfo

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# Their forward is a fused function; what they do inside is one operation to their user.
WHOLE = (nn.MultiheadAttention,)
_INTERNAL = frozenset({"training", "call_super_init", "dump_patches"})


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module, bool]]:
    """Every (fqn, module, is_first) in registration order; a shared module comes again under each further name.

    Iterative, unlike `nn.Module.named_modules`, and does not go twice into a shared module: paths through nested sharing are exponentially many.
    """
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        fqn, module = stack.pop()
        first = id(module) not in seen
        yield fqn, module, first
        if not first:
            continue
        seen.add(id(module))
        children = module.__dict__.get("_modules") or {}
        prefix = fqn + "." if fqn else ""
        stack.extend((prefix + name, child) for name, child in reversed(children.items()) if child is not None)


def class_of(module: nn.Module) -> type:
    """The class as the user wrote it, where torch has replaced it: ParametrizedConv2d is a Conv2d, FSDPLinear a Linear."""
    kind: type = getattr(type(module), "_cnnprobe_class", type(module))
    if not kind.__name__.startswith(("Parametrized", "FSDP")):
        return kind
    while len(kind.__mro__) > 1 and (
        (kind.__name__.startswith("Parametrized") and "parametrizations" in module.__dict__.get("_modules", {}))
        or (kind.__name__.startswith("FSDP") and any(base.__name__ == "FSDPModule" for base in kind.__bases__))
    ):
        kind = next(base for base in kind.__bases__ if issubclass(base, nn.Module) and base.__name__ != "FSDPModule")
    return kind


def is_stock(module: nn.Module) -> bool:
    """Whether the class is torch's own."""
    return _is_torchs(class_of(module))


@functools.lru_cache(maxsize=4096)
def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith(("torch.nn.", "torch.ao."))


def is_leaf(module: nn.Module) -> bool:
    """Whether it is a stock layer whose inside is torch's business: its functions are no rows."""
    return is_stock(module) and (not module._modules or isinstance(module, WHOLE)) and type(module) not in CONTAINERS


def configuration(module: nn.Module) -> dict[str, object]:
    """The constructor-like attributes: public, plain, own. `bias` is whether there is one."""
    config: dict[str, object] = {}
    for name, value in module.__dict__.items():
        if name[0] != "_" and name not in _INTERNAL:
            kind = type(value)
            if kind in PLAIN:
                config[name] = value
            elif kind is tuple or kind is list or kind is torch.dtype or kind is torch.device:
                config[name] = plain(value)
    if ("bias" in module._parameters or "parametrizations" in module._modules) and is_stock(module):
        config["bias"] = _has_bias(module)
    return config


def _has_bias(module: nn.Module) -> bool:
    if module._parameters.get("bias") is not None:
        return True
    parametrizations = module._modules.get("parametrizations")
    return isinstance(parametrizations, nn.ModuleDict) and "bias" in parametrizations


def take_inventory(tree: Iterable[tuple[str, nn.Module, bool]]) -> tuple[tuple[ModuleInfo, ...], tuple[ParameterInfo, ...]]:
    """All modules and all distinct parameters and buffers of `named_modules(model)`, each once, with aliases."""
    drafts: dict[int, dict[str, Any]] = {}
    tensors: dict[int, dict[str, Any]] = {}
    for fqn, module, first in tree:
        own = _own_tensors(module, fqn, tensors)
        if first:
            drafts[id(module)] = {
                "fqn": fqn,
                "kind": (kind := class_of(module)).__name__,
                "aliases": (),
                "config": configuration(module),
                "training": module.training,
                "parameters": own,
                "is_stock": _is_torchs(kind),
                "is_container": isinstance(module, CONTAINERS) and not _overrides_forward(module),
            }
        else:
            drafts[id(module)]["aliases"] += (fqn,)
    return tuple(twins.ModuleInfo(**draft) for draft in drafts.values()), tuple(twins.ParameterInfo(**draft) for draft in tensors.values())


def _overrides_forward(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is not nn.Sequential.forward


def _own_tensors(module: nn.Module, fqn: str, tensors: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    prefix = fqn + "." if fqn else ""
    own: list[str] = []
    for kind, registry in (("parameter", module._parameters), ("buffer", module._buffers)):
        for name, tensor in registry.items():
            if tensor is None:
                continue
            known = tensors.get(id(tensor))
            if known is None:
                tensors[id(tensor)] = _draft(prefix + name, tensor, kind)
                own.append(prefix + name)
            elif known["fqn"] != prefix + name:
                known["aliases"] += (prefix + name,)
                own.append(known["fqn"])
    return tuple(own)


def _draft(fqn: str, tensor: Tensor, kind: str) -> dict[str, Any]:
    uninitialised = is_uninitialised(tensor)
    return {
        "fqn": fqn,
        "shape": () if uninitialised else tuple(tensor.shape),
        "dtype": dtype_name(tensor.dtype),
        "numel": 0 if uninitialised else tensor.numel(),
        "nbytes": 0 if uninitialised else tensor.numel() * tensor.element_size(),
        "trainable": kind == "parameter" and tensor.requires_grad,
        "kind": kind,
        "aliases": (),
        "device": device_name(tensor.device),
    }


def is_lazy(model: nn.Module) -> bool:
    """Whether it has parameters that the first forward pass will shape."""
    return any(
        tensor is not None and is_uninitialised(tensor)
        for _, module, first in named_modules(model)
        if first
        for registry in (module._parameters, module._buffers)
        for tensor in registry.values()
    )
