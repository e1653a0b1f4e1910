"""What torch calls a function: its public name, and whether a call of it belongs into a trace."""

from collections.abc import Callable
from typing import Any

import torch

from cnnprobe import operations
from cnnprobe.recorder import cost

# Questions, bookkeeping and conversions to Python: they make no tensor of the forward pass.
NO_OPERATIONS = frozenset({
    "requires_grad_", "retain_grad", "register_hook", "register_post_accumulate_grad_hook",
    "backward", "grad", "set_", "record_stream", "share_memory_", "grad_fn", "_backward_hooks",
    "_base", "__reduce_ex__", "__deepcopy__", "__repr__", "__format__", "get_rng_state",
    "__hash__", "storage", "untyped_storage", "_typed_storage", "rename_", "_version",
    "result_type", "__setstate__",
})  # fmt: skip
# They hand the memory itself to somebody who may write to it.
EXPOSING = frozenset(
    {
        "numpy",
        "__array__",
        "data_ptr",
        "untyped_storage",
        "storage",
        "_typed_storage",
        "__dlpack__",
        "set_",
        "backward",
        "resize_",
    }
)
# They take the values out of torch: to be printed, logged or compared.
READING = frozenset(
    {
        "item",
        "tolist",
        "numpy",
        "__array__",
        "__float__",
        "__int__",
        "__index__",
        "__complex__",
        "__bool__",
        "is_nonzero",
        "__format__",
        "__repr__",
    }
)

_MODULES = {
    "_linalg": ("torch.linalg.", "linalg_"),
    "_fft": ("torch.fft.", "fft_"),
    "_special": ("torch.special.", "special_"),
    "_nn": ("torch.nn.functional.", ""),
}


def public_name(function: Callable[..., Any]) -> str:
    """The name under which users know it: "torch.flatten", "torch.nn.functional.relu",
    "torch.Tensor.view".

    >>> public_name(torch.flatten), public_name(torch.Tensor.view), public_name(torch.nn.functional.relu)
    ('torch.flatten', 'torch.Tensor.view', 'torch.nn.functional.relu')
    """  # noqa: E501
    owner = getattr(function, "__self__", None)
    if type(function).__name__ == "method-wrapper" and owner is not None:  # a property: x.T, x.data
        return "torch.Tensor." + str(getattr(owner, "__name__", "property"))
    if isinstance(function, torch._ops.OpOverload | torch._ops.OpOverloadPacket):
        return "torch.ops." + str(function).removeprefix("torch.ops.")
    name = str(getattr(function, "__name__", type(function).__name__))
    qualified = str(getattr(function, "__qualname__", name))
    if qualified.startswith(("TensorBase.", "Tensor.")):
        return "torch.Tensor." + name
    if qualified.startswith(
        "boolean_dispatch"
    ):  # F.max_pool2d and its kind: torch gives them the name of their closure
        return _dispatched_name(function)
    module = str(getattr(function, "__module__", None) or "torch")
    prefix, redundant = _MODULES.get(module.rsplit(".", maxsplit=1)[-1], (None, ""))
    if module.startswith("torch._C") and prefix is not None:
        return prefix + name.removeprefix(redundant)
    if module in ("torch", "torch.functional", "torch._VF", "torch._C") or module.startswith(
        "torch._C"
    ):
        return "torch." + name
    return f"{module}.{name}"


def _dispatched_name(function: Callable[..., Any]) -> str:
    for place in (torch.nn.functional, torch):  # torch.unique is one of them, too
        for name, value in vars(place).items():
            if value is function and not name.startswith("_"):
                return f"{place.__name__}.{name}"
    return "torch.nn.functional.dispatched"


def is_writing(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether a function of this name writes to one of its arguments, or lets somebody do so."""
    return operations.is_writing(name) or "out" in kwargs


class FunctionOperation:
    """What must be known of a torch function at each call of it, found once."""

    __slots__ = ("counting", "exposes", "function", "ignored", "kind", "name", "reads", "writes")

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.kind = public_name(function)
        self.name = operations.read_name(self.kind)
        self.ignored = self.name in NO_OPERATIONS
        self.writes = is_writing(self.name, {}) or _has_mutable_schema(function)
        self.exposes = self.name in EXPOSING
        self.reads = self.name in READING
        self.counting = cost.counting_of(self.kind)


def _has_mutable_schema(function: Callable[..., Any]) -> bool:
    schema = getattr(function, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


_operations: dict[Any, FunctionOperation] = {}


def operation_of(function: Callable[..., Any]) -> FunctionOperation:
    """The Operation of a torch function, cached."""
    try:
        found = _operations.get(function)
        if found is None:
            found = _operations[function] = FunctionOperation(function)
    except TypeError:  # an unhashable callable
        return FunctionOperation(function)
    return found
