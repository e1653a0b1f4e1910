"""Devices and dtypes: what is usual in a model, what the failing call owns, what hides in lists."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.attributes import RegisterBuffer, RegisterLayers
from cnnprobe.crash.facts.words import is_floating
from cnnprobe.crash.suspect import STRONG, Candidate, propose
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

_TRANSFORMS = ("fft", "fft2", "fftn", "rfft", "rfft2", "rfftn", "hfft", "stft")
_SPECTRA = (*_TRANSFORMS, *(f"i{name}" for name in _TRANSFORMS))
BY_INDEX = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, kw_only=True)
class HiddenLayers:
    """Layers in a plain list or dict at an attribute."""

    owner: str
    attribute: str
    layers: tuple[nn.Module, ...]


@dataclass(frozen=True, kw_only=True)
class OddTensor:
    """The tensor of the failing call whose dtype is not the one that it computes in."""

    info: TensorInfo
    position: int
    module: str  # fqn of what computes
    wanted: str  # its dtype


def list_own(crash: Crash) -> dict[str, Tensor]:
    """The parameters and buffers of the failing layer, by name."""
    layer, call = crash.leaf, crash.call
    if layer is None or call is None or call.fqn is None:
        return {}
    named = (*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False))
    return {f"{call.fqn}.{name}": tensor for name, tensor in named}


def find_usual(values: Iterable[str], otherwise: Iterable[str]) -> str:
    """The most frequent of some values; of others, where there are none."""
    found = Counter(values) or Counter(otherwise)
    return next((value for value, _ in found.most_common(1)), "cpu")


def find_odd_dtype(crash: Crash) -> OddTensor | None:
    """The tensor of another dtype than the failing call computes in."""
    if (call := crash.call) is None or not call.inputs:
        return None
    own = _list_float_dtypes(list_own(crash).values())
    if own and not isinstance(crash.leaf, BY_INDEX):
        x = call.inputs[0]
        odd = OddTensor(info=x, position=0, module=call.fqn or "", wanted=own[0])
        return odd if x.dtype != own[0] else None
    if not _asks_one_dtype(call):
        return None
    usual = find_usual_dtype(crash, "float32")
    for position, info in enumerate(call.inputs):
        if info.dtype != usual:
            return OddTensor(info=info, position=position, module=crash.owner, wanted=usual)
    return None


def _asks_one_dtype(call: ModuleCall) -> bool:
    operation = find(call)
    if call.fqn is not None or operation is None or len({t.dtype for t in call.inputs}) < 2:
        return False
    return "one-dtype" in operation.traits or operation.name in ("einsum", "tensordot")


def _list_float_dtypes(tensors: Iterable[Tensor]) -> list[str]:
    return [str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()]


def find_usual_dtype(crash: Crash, otherwise: str, *, outside: str = "") -> str:
    """The floating-point dtype of most parameters of a model, but for those of one module.

    Buffers count only where there are no such parameters: they take part in no training.
    """
    found = [p for p in crash.trace.parameters if is_floating(p.dtype)]
    others = [p for p in found if not outside or not p.fqn.startswith(outside + ".")]
    parameters = [p.dtype for p in others if p.kind == "parameter"]
    return find_usual(parameters or [p.dtype for p in others], [otherwise])


def find_autocast(crash: Crash) -> torch.dtype | None:
    """The dtype in which torch.autocast had layers of float32 compute; None where it was not on."""
    layers = nn.Linear | nn.modules.conv._ConvNd
    for call in crash.trace.calls:
        layer = crash.modules.get(call.fqn or "") if call.outputs and call.inputs else None
        if not isinstance(layer, layers) or type(layer.forward).__name__ != "method":
            continue
        dtype = call.outputs[0].dtype
        if layer.weight.dtype is torch.float32 and dtype in ("bfloat16", "float16"):
            return getattr(torch, dtype)  # type: ignore[no-any-return]
    return None


def list_hidden_layers(
    crash: Crash, is_odd: Callable[[Tensor], bool], info: TensorInfo
) -> list[HiddenLayers]:
    """Layers in plain lists or dicts that have odd parameters; none unless `info` is of one."""
    found, shapes = list[HiddenLayers](), set[tuple[int, ...]]()
    for fqn, module in crash.modules.items():
        for name, value in module.__dict__.items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            layers = [m for m in tree_leaves(value) if isinstance(m, nn.Module)]
            odd = tuple(m for m in layers if any(map(is_odd, m.parameters())))
            shapes |= {tuple(p.shape) for m in odd for p in m.parameters()}
            if odd:
                found.append(HiddenLayers(owner=fqn, attribute=name, layers=odd))
    return found if info.source is None and info.shape in shapes else []


def find_listed(crash: Crash, info: TensorInfo) -> tuple[str, str] | None:
    """The plain list or dict that holds a tensor, as far as shape, dtype and device tell."""
    meant = (info.shape, info.dtype, info.device)
    for fqn, module in crash.modules.items():
        for name, value in module.__dict__.items():
            if name.startswith("_") or not isinstance(value, list | tuple | dict):
                continue
            tensors = (t for t in tree_leaves(value) if isinstance(t, Tensor))
            if any(meant == (tuple(t.shape), *_list_types(t)) for t in tensors):
                return fqn, name
    return None


def _list_types(tensor: Tensor) -> tuple[str, str]:
    return str(tensor.dtype).removeprefix("torch."), str(tensor.device)


def describe_hidden(crash: Crash, hidden: list[HiddenLayers]) -> str:
    """Them in words: the 4 layers in 'heads' of the model (Net) are in a plain list or dict."""
    count = sum(len(each.layers) for each in hidden)
    names = " and ".join(f"'{h.attribute}' of {crash.describe_module(h.owner)}" for h in hidden)
    layers = "layer" if count == 1 else f"{count} layers"
    verb = "is" if count == 1 else "are"
    return f"the {layers} in {names} {verb} in a plain list or dict"


def register_hidden(
    hidden: list[HiddenLayers], *, device: str | None = None, dtype: torch.dtype | None = None
) -> Candidate:
    """Register them all, so that they are where and what the rest of the model is."""
    edits = [
        RegisterLayers(
            title="make it an nn.ModuleList (or nn.ModuleDict): "
            f"self.{each.attribute} = nn.ModuleList(...)",
            code="nn.ModuleList",
            module=each.owner,
            name=each.attribute,
            device=device,
            dtype=dtype,
        )
        for each in hidden
    ]
    return propose(*edits, weight=STRONG)


def register_attribute(fqn: str, name: str, function: Callable[[Tensor], Any]) -> RegisterBuffer:
    """Register the tensor at an attribute, so that it moves with the model."""
    title = f"register it: self.register_buffer({name!r}, ...), so that it moves with the model"
    return RegisterBuffer(
        title=title, code="self.register_buffer", module=fqn, name=name, function=function
    )


def move(value: object, device: str) -> object:
    """A tensor on another device; zeros stand for the values of one on meta."""
    if not isinstance(value, Tensor):
        return value
    if value.device.type == "meta" and device != "meta":
        return torch.zeros(value.shape, dtype=value.dtype, device=device)
    return value.to(device)


def cast_to(crash: Crash, info: TensorInfo, dtype: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """What brings a tensor to a dtype, and its code. A plain cast drops an imaginary part."""
    wanted = getattr(torch, dtype)
    code = "{x}.float()" if dtype == "float32" else f"{{x}}.to(torch.{dtype})"
    if not info.dtype.startswith("complex") or not wanted.is_floating_point:
        return lambda t: t.to(wanted), code
    if info.dtype == {"float32": "complex64", "float64": "complex128"}.get(dtype):
        code = "{x}"
    names = (call.kind.rpartition(".")[2] for _, call in crash.walk_back(info))
    maker = next((name for name in names if name in _SPECTRA), "")
    if maker.startswith("i"):  # of a real signal: what is left of the imaginary part is rounding
        return lambda t: t.real.to(wanted), code.format(x="{x}.real")
    return lambda t: t.abs().to(wanted), code.format(x="{x}.abs()")
