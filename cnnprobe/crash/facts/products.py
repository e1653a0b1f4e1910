"""Products with a weight, and the reshaping that made the features of what they were given."""

from dataclasses import dataclass

from torch import nn

from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.facts.words import count_elements, read_tensor
from cnnprobe.operations import find, resolve_name
from cnnprobe.records.trace import ModuleCall, TensorInfo

# What is multiplied, by torch's names of arguments.
_PRODUCTS = {
    "linear": ("input", "weight"), "matmul": ("input", "other"), "addmm": ("mat1", "mat2"),
    "rmatmul": ("input", "other"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MatrixProduct:
    """x @ weight: the tensor, the number of features that the weight takes, and its owner."""

    x: TensorInfo
    wanted: int
    module: str
    is_layer: bool = True  # an nn.Linear, whose in_features can be changed
    parameter: str = ""  # where it is no layer: the weight's name
    weight: TensorInfo | None = None  # that weight as it was given
    shape: tuple[int, ...] = ()  # the shape with which that weight would fit

    @property
    def got(self) -> int:
        """The number of features that arrived."""
        return self.x.shape[-1]


@find_once
def find_product(crash: Crash) -> MatrixProduct | None:
    """The failing call as a product with a weight whose features do not fit; None: it is none."""
    if (call := crash.call) is None or not call.inputs:
        return None
    if isinstance(crash.leaf, nn.Linear):
        found = MatrixProduct(
            x=call.inputs[0], wanted=crash.leaf.in_features, module=call.fqn or ""
        )
    else:
        if (other := _find_function(crash, call)) is None:
            return None
        found = other
    return found if found.x.shape and found.got != found.wanted else None


def _find_function(crash: Crash, call: ModuleCall) -> MatrixProduct | None:
    """A product by a function: F.linear, @, torch.mm."""
    name = resolve_name(call.kind)
    if call.fqn is not None or name not in _PRODUCTS:
        return None
    dim = -1 if name == "linear" else 0
    x, weight = (read_tensor(call, argument) for argument in _PRODUCTS[name])
    if x is None or weight is None or len(weight.shape) != 2 or not x.shape:
        return None
    parameter, is_turned = _name_weight(crash, weight)
    if not parameter:
        return None
    fitting = (weight.shape[0], x.shape[-1]) if dim == -1 else (x.shape[-1], weight.shape[1])
    return MatrixProduct(
        x=x,
        wanted=weight.shape[dim],
        module=crash.owner_of_parameter(parameter),
        is_layer=False,
        parameter=parameter,
        weight=weight,
        shape=fitting[::-1] if is_turned else fitting,
    )


def _name_weight(crash: Crash, weight: TensorInfo) -> tuple[str, bool]:
    """The name of a weight, "" where it is none, and whether it was transposed first."""
    call = crash.find_producer(weight)
    info = find(call) if call is not None else None
    if call is None or info is None or info.effect != "turns" or not call.inputs:
        return (weight.source if isinstance(weight.source, str) else ""), False
    source = call.inputs[0].source
    return (source if isinstance(source, str) else ""), True


def find_reshaping(crash: Crash, info: TensorInfo) -> ModuleCall | None:
    """The latest call that gave a tensor its shape, if no layer with weights came after it."""
    for _, call in crash.walk_back(info):
        if (operation := find(call)) is not None and operation.effect == "reshapes":
            return call
        module = crash.modules.get(call.fqn) if call.fqn is not None else None
        if module is not None and module._parameters:
            return None
    return None


def find_flattened_map(crash: Crash, info: TensorInfo) -> TensorInfo | None:
    """The feature map that was flattened into a tensor; itself where it is one."""
    call = find_reshaping(crash, info)
    found = call.inputs[0] if call is not None and call.inputs else info
    return found if len(found.shape) >= 3 else None


def find_merging(crash: Crash) -> ModuleCall | None:
    """The reshaping that merged the batch with other dims, before a product that fits a sample."""
    found = find_product(crash)
    call = find_reshaping(crash, found.x) if found is not None else None
    if found is None or call is None or not call.inputs or not call.outputs:
        return None
    before, after = call.inputs[0].shape, call.outputs[0].shape
    if len(before) < 2 or after[:1] == before[:1] or resolve_name(call.kind) == "squeeze":
        return None
    fits = found.wanted in (count_elements(before[1:]), count_elements(before))
    return call if fits else None


def find_lost_batch(crash: Crash) -> ModuleCall | None:
    """The reshaping on the way that changed the batch, where the tensors differ in their batch."""
    batch, given = crash.batch, [t for t in crash.inputs if not isinstance(t.source, str)]
    is_flat = len(given) == 1 and len(given[0].shape) == 1  # all of the batch in one row
    asked = crash.call is not None and batch in crash.call.arguments.values()  # F.affine_grid
    if batch is None or not (is_flat or asked or any(t.shape[:1] == (batch,) for t in given)):
        return None
    for x in given:
        for _, call in crash.walk_back(x) if x.shape[:1] not in ((), (batch,), (1,)) else ():
            info = find(call)
            if info is None or info.effect != "reshapes" or not call.inputs or not call.outputs:
                continue
            before, after = call.inputs[0].shape, call.outputs[0].shape
            if before[:1] == (batch,) and len(before) > 1 and after[:1] == x.shape[:1]:
                return call
    return None


def is_batch_fixed(call: ModuleCall) -> bool:
    """Whether a view was asked for another batch than its tensor has."""
    sizes = read_sizes(call)
    return len(sizes) > 1 and sizes[0] not in (-1, call.inputs[0].shape[0])


def read_sizes(call: ModuleCall) -> tuple[int, ...]:
    """The sizes that a view was asked for: view(2, -1), view((2, -1)), view(size=(2, -1))."""
    given = [value for path, value in call.arguments.items() if path not in ("", "[0]", "input")]
    return tuple(value for value in given if type(value) is int)
