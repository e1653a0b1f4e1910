"""The arithmetic behind a shape, spelled out with its numbers, and the receptive field of every
call. No torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnnprobe.operations import Effect, OperationInfo, find, read_argument
from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace

_AXES = {1: ("L",), 2: ("H", "W"), 3: ("D", "H", "W")}
# Each output element depends on the input element at its own place, or (normalisation in training)
# nearly so.
_POINTWISE: tuple[Effect, ...] = ("keeps", "elementwise", "broadcasts", "joins", "selects")
_WINDOWS = ("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool")


@dataclass(frozen=True, slots=True, kw_only=True)
class SlidingWindow:
    """A sliding window along each spatial axis: kernel, stride and dilation in elements; padding
    before and after together.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    output_padding: tuple[int, ...]
    ceil: bool = False
    transposed: bool = False


def explain_shape(call: ModuleCall, config: Mapping[str, object]) -> tuple[str, ...]:
    r"""The arithmetic of a call's output shape, a line an axis; empty where there is none to show.

    Args:
        call: a completed call of a layer or function.
        config: the module's `config`; ignored for functions, whose arguments the call itself has.

    >>> from cnnprobe.records.trace import TensorInfo
    >>> def tensor(*shape): return TensorInfo(shape=shape, dtype="float32", device="cpu", nbytes=0, requires_grad=False)
    >>> call = ModuleCall(fqn="c", kind="Conv2d", index=0, parent=0, depth=1, inputs=(tensor(8, 3, 32, 32),), outputs=(tensor(8, 32, 32, 32),))
    >>> config = {"kernel_size": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1), "out_channels": 32}
    >>> print(*explain_shape(call, config), sep="\n")
    H: floor((32 + 2*1 - 1*(3-1) - 1)/1 + 1) = 32
    W: floor((32 + 2*1 - 1*(3-1) - 1)/1 + 1) = 32
    """  # noqa: E501
    if not call.inputs or not call.outputs:
        return ()
    info = find(call)
    if info is None:
        return ()
    given, made = call.inputs[0].shape, call.outputs[0].shape
    if info.name.startswith("adaptive") and len(made) > 1:
        rank = _read_rank(info)
        return tuple(
            f"{axis}: output_size = {n}"
            for axis, n in zip(_AXES.get(rank, ()), made[-rank:], strict=False)
        )
    if info.name == "linear" and given and made:
        return (f"last dim: in_features {given[-1]} -> out_features {made[-1]}",)
    if info.effect == "reshapes" and info.name != "squeeze" and len(made) < len(given):
        return _explain_flatten(given, made)
    window = find_window(call, config)
    if window is None:
        return ()
    sizes = given[-len(window.kernel) :]
    return tuple(
        f"{axis}: {_write_formula(window, i, sizes[i])}"
        for i, axis in enumerate(_AXES[len(window.kernel)])
    )


def compute_output_size(window: SlidingWindow, axis: int, size: int) -> int:
    """Elements along one axis after a window has passed over `size` elements. Source: the shape
    sections of torch.nn's layer pages.
    """
    kernel, stride, dilation, padding = (
        values[axis] for values in (window.kernel, window.stride, window.dilation, window.padding)
    )
    if window.transposed:
        return (
            (size - 1) * stride
            - padding
            + dilation * (kernel - 1)
            + window.output_padding[axis]
            + 1
        )
    span = size + padding - dilation * (kernel - 1) - 1
    if not window.ceil:
        return span // stride + 1
    made = -(-span // stride) + 1
    # A last window that would begin in the padding after the input is left out.
    return made - 1 if (made - 1) * stride >= size + padding // 2 else made


def _write_formula(window: SlidingWindow, axis: int, size: int) -> str:
    kernel, stride, dilation, padding = (
        values[axis] for values in (window.kernel, window.stride, window.dilation, window.padding)
    )
    padded = f"2*{padding // 2}" if padding % 2 == 0 else str(padding)
    made = compute_output_size(window, axis, size)
    if window.transposed:
        return (
            f"({size} - 1)*{stride} - {padded} + {dilation}*({kernel}-1) + "
            f"{window.output_padding[axis]} + 1 = {made}"
        )
    rounding = "ceil" if window.ceil else "floor"
    return f"{rounding}(({size} + {padded} - {dilation}*({kernel}-1) - 1)/{stride} + 1) = {made}"


def _explain_flatten(given: tuple[int, ...], made: tuple[int, ...]) -> tuple[str, ...]:
    start = 0
    while start < len(made) - 1 and given[start] == made[start]:
        start += 1
    parts = given[start:]
    if math.prod(parts) != made[-1] or len(made) != start + 1:
        return ()
    return (f"{' x '.join(map(str, parts))} = {made[-1]}",)


def find_window(call: ModuleCall, config: Mapping[str, object]) -> SlidingWindow | None:
    """The sliding window of a convolution or pooling, from a layer's configuration or a function's
    arguments; None for all else.
    """
    info = find(call)
    rank = 0 if info is None else _read_rank(info)
    if info is None or rank not in _AXES or info.group not in _WINDOWS or _is_adaptive(info):
        return None
    options = dict(config) if call.fqn is not None else _read_options(call, info)
    is_pooling = info.family == "pooling"
    if call.fqn is None and not is_pooling:
        options["kernel_size"] = call.inputs[1].shape[-rank:] if len(call.inputs) > 1 else None
    kernel = _as_tuple(options.get("kernel_size"), rank)
    if kernel is None:
        return None
    stride = _as_tuple(options.get("stride"), rank) or (kernel if is_pooling else (1,) * rank)
    dilation = _as_tuple(options.get("dilation"), rank) or (1,) * rank
    return SlidingWindow(
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        padding=_add_padding(options.get("padding"), kernel, dilation, rank),
        output_padding=_as_tuple(options.get("output_padding"), rank) or (0,) * rank,
        ceil=bool(options.get("ceil_mode")),
        transposed=info.group == "conv_transpose",
    )


def _read_options(call: ModuleCall, info: OperationInfo) -> dict[str, object]:
    """A function's arguments by the names that the layers use."""
    names = [name for name in info.signature.names if name not in info.signature.tensors]
    return {name: read_argument(call, name) for name in names}


def _is_adaptive(info: OperationInfo) -> bool:
    return "output_size" in info.signature.names


def _as_tuple(value: object, rank: int) -> tuple[int, ...] | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,) * rank
    if isinstance(value, tuple | list) and value and all(isinstance(n, int) for n in value):
        return (
            tuple(value) if len(value) == rank else tuple(value) * rank if len(value) == 1 else None
        )
    return None


def _add_padding(
    value: object, kernel: tuple[int, ...], dilation: tuple[int, ...], rank: int
) -> tuple[int, ...]:
    """Before and after together."""
    if value == "same":
        return tuple(d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
    return tuple(2 * n for n in _as_tuple(value, rank) or (0,) * rank)


def _read_rank(info: OperationInfo) -> int:
    """The spatial dimensions of conv2d and its kind; 0 where the name says none."""
    return int(info.name[-2]) if info.name[-1:] == "d" and info.name[-2:-1].isdigit() else 0


def _is_pointwise(call: ModuleCall) -> bool:
    info = find(call)
    return info is not None and (info.effect in _POINTWISE or info.name == "channel_shuffle")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceptiveField:
    """How far one output element sees into the model's input: `size` input elements an axis; `step`
    between neighbours.
    """

    size: tuple[int, ...]
    step: tuple[float, ...]


def compute_receptive_fields(trace: Trace) -> dict[int, ReceptiveField]:
    """The receptive field of each call by its index, along the flow of the tensors; calls that see
    everything are left out.

    Where branches meet, the larger one counts. Source: Araujo, Norris and Sim 2019, "Computing
    Receptive Fields of Convolutional Neural Networks", Distill, doi:10.23915/distill.00021,
    equations 1 and 2.
    """
    fields: dict[int, ReceptiveField] = {}
    configs = {module.fqn: module.config for module in trace.modules}
    parents = {call.parent for call in trace.calls}
    for index, call in enumerate(trace.calls):
        if index in parents or not call.completed or not call.outputs:
            continue
        rank = len(call.outputs[0].shape) - 2
        if rank not in _AXES:
            continue
        seen = [
            _find_field(tensor, fields, rank)
            for tensor in call.inputs
            if not isinstance(tensor.source, str)
        ]
        field = _join(seen)
        window = find_window(call, configs.get(call.fqn or "", {}))
        if field is None or len(field.size) != rank:
            continue
        if window is None and not _is_pointwise(call):
            continue
        fields[index] = field if window is None else _widen(field, window)
    return fields


def _find_field(
    tensor: TensorInfo, fields: Mapping[int, ReceptiveField], rank: int
) -> ReceptiveField | None:
    if isinstance(tensor.source, int):
        return fields.get(tensor.source)
    return (
        ReceptiveField(size=(1,) * rank, step=(1.0,) * rank)
        if len(tensor.shape) == rank + 2
        else None
    )


def _join(fields: Sequence[ReceptiveField | None]) -> ReceptiveField | None:
    if not fields or any(field is None for field in fields):
        return None
    known = [field for field in fields if field is not None]
    if len({len(field.size) for field in known}) > 1:
        return None
    return ReceptiveField(
        size=tuple(max(sizes) for sizes in zip(*(f.size for f in known), strict=True)),
        step=tuple(max(s) for s in zip(*(f.step for f in known), strict=True)),
    )


def _widen(field: ReceptiveField, window: SlidingWindow) -> ReceptiveField:
    sizes, steps = [], []
    for size, step, kernel, stride, dilation in zip(
        field.size, field.step, window.kernel, window.stride, window.dilation, strict=True
    ):
        reach = dilation * (kernel - 1)
        if window.transposed:
            sizes.append(size + math.floor(reach / stride) * step)
            steps.append(step / stride)
        else:
            sizes.append(size + reach * step)
            steps.append(step * stride)
    return ReceptiveField(size=tuple(math.ceil(n) for n in sizes), step=tuple(steps))
