"""A model's architecture as text: one layer a line, without the values of its weights, so that two
of them can be compared line by line.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from cnnprobe.recorder.inventory import class_of, configuration, is_stock, named_modules
from cnnprobe.recorder.values import dtype_name
from cnnprobe.records.trace import Trace
from cnnprobe.testing.failures import Inputs, observe_model

ROOT = "(model)"
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedLayer:
    """A line: the layer's name, what it is, what parameters are its own, and what it puts out."""

    name: str  # ROOT for the model itself
    kind: str
    config: str
    weights: str
    shapes: str = ""
    shared_with: str = ""  # the name under which the same module stands further up

    def __str__(self) -> str:
        if self.shared_with:
            return f"{self.name}  the same module as {self.shared_with}"
        return f"{self.name}  {self.kind}({self.config})  {self.weights}" + (
            f"  -> {self.shapes}" if self.shapes else ""
        )


def architecture_text(model: nn.Module, inputs: Inputs | None = None) -> str:
    """One layer a line: name, kind and configuration, own parameters, and with `inputs` the shapes
    that it puts out.

    Meant to be kept beside the tests: a change of it in review reads as a change of the
    architecture. It is a plain string, for any snapshot tool.

    >>> print(architecture_text(nn.Sequential(nn.Linear(3, 2), nn.ReLU())), end="")
    (model)  Sequential()  0
    0  Linear(in_features=3, out_features=2, bias=True)  8
    1  ReLU()  0
    """
    __tracebackhide__ = True
    return "\n".join(map(str, list_layers(model, inputs))) + "\n"


def list_layers(
    model: nn.Module, inputs: Inputs | None = None, *, naming: Callable[[str], str] = str
) -> list[ListedLayer]:
    """The lines of a model; wrappers of torch.compile and of data parallelism are seen through."""
    __tracebackhide__ = True
    model = unwrap(model)
    shapes = _map_shapes(observe_model(model, inputs).trace) if inputs is not None else {}
    places: dict[int, str] = {}
    tensors: dict[int, str] = {}
    layers = []
    for fqn, module, first in named_modules(model):
        if _is_compiled_wrapper(module):
            continue
        name = naming(_strip_wrapper_names(fqn)) or ROOT
        if not first:
            layers.append(
                ListedLayer(
                    name=name, kind="", config="", weights="", shared_with=places[id(module)]
                )
            )
            continue
        places[id(module)] = name
        layers.append(
            ListedLayer(
                name=name,
                kind=class_of(module).__name__,
                config=_describe(module),
                weights=_describe_weights(module, name, tensors),
                shapes=shapes.get(fqn, ""),
            )
        )
    return layers


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own model inside what torch.compile and data parallelism have put around it."""
    while True:
        inner = model._modules.get(_COMPILED if _is_compiled_wrapper(model) else "module")
        if inner is None or not (_is_compiled_wrapper(model) or isinstance(model, _PARALLEL)):
            return model
        model = inner


def _is_compiled_wrapper(module: nn.Module) -> bool:
    return list(module._modules) == [_COMPILED]


def _strip_wrapper_names(fqn: str) -> str:
    return ".".join(part for part in fqn.split(".") if part != _COMPILED)


def _map_shapes(trace: Trace) -> Mapping[str, str]:
    return {
        call.fqn: ", ".join(str(t.shape) for t in call.outputs) or call.returned
        for call in reversed(trace.calls)  # of a module that is called twice, the first call
        if call.fqn is not None
    }


def _describe(module: nn.Module) -> str:
    """The layer's own description on one line; where it has none (attention, a user's block), its
    plain attributes.
    """
    try:
        text = " ".join(module.extra_repr().split())
    except Exception:  # a user's extra_repr may fail before the first forward
        text = ""
    if text or (is_stock(module) and not module._modules and not module._parameters):
        return text
    return ", ".join(f"{name}={value!r}" for name, value in configuration(module).items())


def _describe_weights(module: nn.Module, name: str, tensors: dict[int, str]) -> str:
    """How many parameters are its own; of a user's module also their names and shapes, as no
    constructor tells them.
    """
    own = {key: p for key, p in module._parameters.items() if p is not None}
    tied = {key: tensors[id(p)] for key, p in own.items() if id(p) in tensors}
    fresh = {key: p for key, p in own.items() if key not in tied}
    tensors.update({id(p): key if name == ROOT else f"{name}.{key}" for key, p in fresh.items()})
    parts = [str(sum(_format_size(p) for p in fresh.values()))]
    frozen = [p for p in fresh.values() if not p.requires_grad]
    if frozen:
        parts.append(
            "frozen"
            if len(frozen) == len(fresh)
            else f"({sum(_format_size(p) for p in frozen)} frozen)"
        )
    parts += sorted({dtype_name(p.dtype) for p in fresh.values()} - {"float32"})
    if not is_stock(module):
        buffers = {f"buffer {key}": b for key, b in module._buffers.items() if b is not None}
        parts += [f"{key} {_format_shape(t)}" for key, t in {**fresh, **buffers}.items()]
    return " ".join(parts + [f"{key} = {other}" for key, other in tied.items()])


def _format_size(tensor: Tensor) -> int:
    return 0 if nn.parameter.is_lazy(tensor) else tensor.numel()


def _format_shape(tensor: Tensor) -> str:
    return "?" if nn.parameter.is_lazy(tensor) else str(tuple(tensor.shape))
