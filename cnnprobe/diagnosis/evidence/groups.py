"""What a row does, whichever way it was written: nn.ReLU, F.relu, torch.relu and x.relu_() are all
"relu".
"""

from cnnprobe.operations import (
    ALL,
    Effect,
    find,
    find_layer,
    is_writing,
    read_argument,
    resolve_name,
    select_groups,
)
from cnnprobe.records.trace import ModuleCall, ModuleInfo, Trace

_ARRANGING: tuple[Effect, ...] = ("keeps", "reshapes", "turns", "selects", "expands")
# Values go through as they are; only their arrangement, dtype, place or number changes.
ARRANGING = frozenset(
    info.group
    for info in ALL
    if info.effect in _ARRANGING and info.family != "ranking" and "cuts" not in info.traits
)
FORWARDING = ARRANGING | {"dropout"}
# They give new values, whatever they are given: of a tensor they take the shape, and no gradient.
CREATING = frozenset(
    {
        "zeros_like",
        "ones_like",
        "full_like",
        "empty_like",
        "new_zeros",
        "new_ones",
        "new_full",
        "new_empty",
    }
)
TURNING = select_groups(effect="turns")
RECTIFIERS = select_groups(trait="rectifies")
SQUASHING = select_groups(trait="saturates")
NONLINEAR = select_groups(family="activation") | select_groups(family="softmax") | {"max_pool"}
PROJECTIONS = frozenset(
    select_groups(family="linear", trait="product")
    | select_groups(family="convolution", trait="product")
)
NORMALISING = select_groups(family="norm")
# Those that compare an output with a target; others take pairs, or the weights of the last layer.
LOSSES = frozenset(
    info.group
    for info in ALL
    if info.family == "loss" and info.signature.names[:2] == ("input", "target")
)

# The same, and those of other arguments, as a triplet loss.
ANY_LOSS = frozenset(info.group for info in ALL if info.family == "loss")


def operation(call: ModuleCall) -> str:
    """The operation of a row: "relu", "conv", "cross_entropy"; the class name of a module that is
    not torch's.

    >>> operation(ModuleCall(fqn=None, kind="torch.Tensor.relu_", index=0, parent=None, depth=0))
    'relu'
    """
    info = find(call)
    if info is not None:
        return info.group
    return call.kind if call.fqn is not None else resolve_name(call.kind)


def operation_of_module(module: ModuleInfo) -> str:
    """The operation of a registered module."""
    info = find_layer(module.kind)
    return module.kind if info is None else info.group


def argument(call: ModuleCall, name: str, default: object = None) -> object:
    """An argument of a function's row that is no tensor, however it was given."""
    return read_argument(call, name, default)


def option(trace: Trace, call: ModuleCall, name: str, default: object = None) -> object:
    """A setting of a row: the module's attribute, or the function's argument."""
    if call.fqn is None:
        return argument(call, name, default)
    return trace.module(call.fqn).config.get(name, default)


def is_inplace(trace: Trace, call: ModuleCall) -> bool:
    """Whether the row writes to its first input."""
    if call.fqn is None:
        return is_writing(call.kind) or argument(call, "inplace") is True
    if find_layer(call.kind) is None:
        return False
    return bool(trace.module(call.fqn).config.get("inplace"))
