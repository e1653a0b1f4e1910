"""The arithmetic of windows: what size a convolution or a pooling makes of a size."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.words import read_argument, read_tensor
from cnnprobe.operations import find, find_signature
from cnnprobe.records.trace import ModuleCall, TensorInfo

LARGEST_INPUT = 1024  # pixels: no model asks for more at least
_POOLS = (
    nn.modules.pooling._MaxPoolNd | nn.modules.pooling._AvgPoolNd | nn.modules.pooling._LPPoolNd
)
_ADAPTIVE = nn.modules.pooling._AdaptiveAvgPoolNd | nn.modules.pooling._AdaptiveMaxPoolNd
_WINDOWS = ("conv", "conv_transpose", "max_pool", "avg_pool", "lp_pool")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The geometry of a convolution or a pooling; every tuple has one entry a dim."""

    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()  # on both sides together, so that "same" with an even kernel fits
    dilation: tuple[int, ...] = ()
    ceil: bool = False
    transposed: bool = False
    extra: tuple[int, ...] = ()  # output_padding of a transposed convolution
    adaptive: tuple[int | None, ...] = ()  # the output size, where it is fixed
    is_pool: bool = False

    def output(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """The sizes that come out.

        Source: the formulas in the documentation of torch.nn.Conv2d, ConvTranspose2d and MaxPool2d.
        """
        if self.adaptive:
            pairs = zip(sizes, self.adaptive, strict=False)
            return tuple(n if wanted is None else wanted for n, wanted in pairs)
        return tuple(self._one(i, n) for i, n in enumerate(sizes))

    def _one(self, i: int, n: int) -> int:
        reach = self.dilation[i] * (self.kernel[i] - 1)
        if self.transposed:
            return (n - 1) * self.stride[i] - self.padding[i] + reach + self.extra[i] + 1
        free = n + self.padding[i] - reach - 1
        if self.stride[i] < 1:
            return 0
        out = (free + (self.stride[i] - 1 if self.ceil else 0)) // self.stride[i] + 1
        if self.ceil and (out - 1) * self.stride[i] >= n + self.padding[i] // 2:
            out -= 1  # torch drops a last window that would start in the padding
        return max(out, 0)

    @property
    def least(self) -> tuple[int, ...]:
        """The least sizes of which something comes out."""
        dims = zip(self.kernel, self.dilation, self.padding, self.stride, strict=True)
        spare = [(d * (k - 1) + 1, p + (s - 1 if self.ceil else 0)) for k, d, p, s in dims]
        return tuple(1 if self.transposed else max(span - more, 1) for span, more in spare)

    @property
    def lacking(self) -> tuple[int, ...]:
        """The output_padding for which a transposed convolution multiplies its input by its stride.

        () where it does so already, or cannot.
        """
        dims = zip(self.stride, self.padding, self.dilation, self.kernel, strict=True)
        wanted = tuple(s + p - d * (k - 1) - 1 for s, p, d, k in dims) if self.transposed else ()
        fits = all(0 <= n < s for n, s in zip(wanted, self.stride, strict=False))
        return wanted if fits and wanted != self.extra else ()

    @property
    def is_padding_wrong(self) -> bool:
        """Whether a pooling pads by more than half of its kernel, which torch refuses."""
        pairs = zip(self.padding, self.kernel, strict=True)
        return self.is_pool and any(p > k for p, k in pairs)

    @property
    def is_same(self) -> bool:
        """Whether the padding makes up for the kernel."""
        dims = zip(self.padding, self.dilation, self.kernel, strict=True)
        return all(p == d * (k - 1) for p, d, k in dims)


def repeat_per_dim(value: Any, n: int) -> tuple[int, ...]:
    """A setting for each of `n` dims."""
    if not isinstance(value, tuple | list):
        value = (value,) * n
    return tuple(int(v) for v in (value if len(value) == n else (value[0],) * n))


def count_dims(module: nn.Module) -> int:
    """How many spatial dims the class of a layer is for: 2 for Conv2d; 0 where it is for none."""
    for kind in type(module).__mro__:
        digits = re.findall("[123]", kind.__name__)
        if digits and kind.__module__.startswith("torch.nn"):
            return int(digits[-1])
    return 0


def get_window(module: nn.Module) -> Window | None:
    """The geometry of a layer; None where it has none."""
    if isinstance(module, nn.modules.conv._ConvNd | _POOLS | _ADAPTIVE):
        settings = dict(module.__dict__)
        is_transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        return _build(count_dims(module), settings, is_transposed=is_transposed)
    return None


def get_call_window(crash: Crash, call: ModuleCall) -> Window | None:
    """The geometry of a recorded call, of a layer or of a function such as F.max_pool2d."""
    if call.fqn is not None:
        module = crash.modules.get(call.fqn)
        return None if module is None or module._modules else get_window(module)
    info, signature = find(call), find_signature(call.kind)
    if info is None or signature is None or info.group not in _WINDOWS:
        return None
    if info.name.startswith("fractional"):
        return None
    settings = {name: read_argument(call, name) for name in signature.names}
    if info.family == "convolution":
        if (weight := read_tensor(call, "weight")) is None or len(weight.shape) < 3:
            return None
        settings["kernel_size"] = weight.shape[2:]
    return _build(int(info.name[-2]), settings, is_transposed=info.group == "conv_transpose")


def _build(n: int, settings: Mapping[str, Any], *, is_transposed: bool) -> Window | None:
    """A window over `n` dims out of the arguments as torch names them; None where one lacks."""
    size, kernel = settings.get("output_size"), settings.get("kernel_size")
    if kernel is None:
        wanted = tuple(size) if isinstance(size, tuple | list) else (size,) * n
        has_size = "output_size" in settings and any(one is not None for one in wanted)
        return Window(adaptive=wanted) if has_size else None
    is_pool = "weight" not in settings and "in_channels" not in settings
    kernel, stride = repeat_per_dim(kernel, n), settings.get("stride")
    dilation = repeat_per_dim(settings.get("dilation") or 1, n)
    padding = settings.get("padding") or 0
    if isinstance(padding, str):
        spans = zip(kernel, dilation, strict=True)
        both = tuple(d * (k - 1) if padding == "same" else 0 for k, d in spans)
    else:
        both = tuple(2 * p for p in repeat_per_dim(padding, n))
    if stride in (None, ()):
        stride = kernel if is_pool else 1
    return Window(
        kernel=kernel,
        stride=repeat_per_dim(stride, n),
        padding=both,
        dilation=dilation,
        ceil=bool(settings.get("ceil_mode")),
        transposed=is_transposed,
        extra=repeat_per_dim(settings.get("output_padding") or 0, n) if is_transposed else (),
        is_pool=is_pool,
    )


def get_least(crash: Crash, call: ModuleCall) -> tuple[int, ...]:
    """The least sizes that a window or a padding by reflection takes; () for other calls."""
    window = get_call_window(crash, call)
    least = window.least if window is not None and window.kernel else ()
    mode, pads = _read_padding(crash, call)
    if mode not in ("reflect", "circular"):
        return least
    pairs = zip(pads[::2], pads[1::2], strict=False)
    spans = tuple(max(pair) + (mode == "reflect") for pair in pairs)[::-1]
    return tuple(map(max, least, spans)) if least else spans


def _read_padding(crash: Crash, call: ModuleCall) -> tuple[str, tuple[int, ...]]:
    """The mode of a padding, and its widths from the last dim backwards."""
    layer = crash.modules.get(call.fqn or "") if call.fqn is not None else None
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.padding_mode, tuple(layer._reversed_padding_repeated_twice)
    if isinstance(layer, nn.modules.padding._ReflectionPadNd | nn.modules.padding._CircularPadNd):
        is_reflection = isinstance(layer, nn.modules.padding._ReflectionPadNd)
        return "reflect" if is_reflection else "circular", tuple(layer.padding)
    if (info := find(call)) is None or info.name != "pad" or call.fqn is not None:
        return "", ()
    return str(read_argument(call, "mode")), tuple(read_argument(call, "pad") or ())


def is_channels_first(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor is known to have its channels in dim 1.

    A convolution, a pooling or a BatchNorm made it so, and nothing has moved them since.
    """
    for _, call in crash.walk_back(info):
        operation = find(call)
        moves = operation is not None and (
            operation.effect in ("turns", "reshapes") or operation.family == "matmul"
        )
        if moves or not call.outputs or len(call.outputs[0].shape) != len(info.shape):
            return False
        layer = crash.modules.get(call.fqn or "")
        is_norm = isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm)
        if get_call_window(crash, call) is not None or is_norm:
            return True
        if layer is not None and layer._parameters:
            return False
    return False


@dataclass(frozen=True, kw_only=True)
class PathStep:
    """One window on the path of a feature map, and the sizes before and after it."""

    call: ModuleCall
    window: Window
    before: tuple[int, ...]
    after: tuple[int, ...]


def list_steps(crash: Crash, info: TensorInfo) -> list[PathStep]:
    """The windows on the main path to a tensor, as long as they explain the recorded sizes.

    A change of size that no window explains (an interpolation, a crop) restarts the path there.
    """
    steps: list[PathStep] = []
    for _, call in crash.list_path(info):
        if not call.inputs or not call.outputs:
            continue
        window = get_call_window(crash, call)
        source = next((t for t in call.inputs if not isinstance(t.source, str)), call.inputs[0])
        before, after = source.shape, call.outputs[0].shape
        if window is not None:
            n = len(window.adaptive or window.kernel)
            steps.append(PathStep(call=call, window=window, before=before[-n:], after=after[-n:]))
        elif len(before) == len(after) >= 3 and before[2:] != after[2:]:
            steps.clear()
    return steps


def apply_windows(windows: Iterable[Window], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes after a chain of windows; (0, ...) where one of them does not fit any more."""
    for window in windows:
        if min(sizes, default=0) < 1:
            return tuple(0 for _ in sizes)
        sizes = window.output(sizes)
    return sizes


_ARGUMENTS = {
    "kernel": "kernel_size", "stride": "stride", "padding": "padding", "dilation": "dilation",
    "extra": "output_padding",
}  # fmt: skip


def list_variants(window: Window, others: Iterable[Window]) -> list[tuple[Window, dict[str, Any]]]:
    """Single changes of a window, with the arguments that make them; its siblings' first."""
    found: list[tuple[Window, dict[str, Any]]] = []
    for other in others:
        is_alike = len(other.kernel) == len(window.kernel) and other.transposed == window.transposed
        if other.adaptive or not is_alike:
            continue
        changes: dict[str, Any] = {}
        for name, argument in _ARGUMENTS.items():
            value, wanted = getattr(window, name), getattr(other, name)
            if value != wanted:
                sizes = [w // 2 for w in wanted] if name == "padding" else list(wanted)
                changes[argument] = _simplify(sizes)
        if 1 <= len(changes) <= 2:
            found.append((other, changes))
    is_plain = not (window.is_same or window.is_pool or window.transposed)
    if is_plain and all(k % 2 for k in window.kernel):
        same = tuple(d * (k - 1) for k, d in zip(window.kernel, window.dilation, strict=True))
        changes = {"padding": _simplify([p // 2 for p in same])}
        found.append((replace(window, padding=same), changes))
    return found


def _simplify(sizes: list[int]) -> Any:
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
