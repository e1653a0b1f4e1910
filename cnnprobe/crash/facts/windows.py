"""The arithmetic of windows: what size a convolution or a pooling makes of a size, alone and in a chain."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.words import get_argument, get_tensor, operation
from cnnprobe.trace import ModuleCall, TensorInfo

LARGEST_INPUT = 1024  # pixels: no model asks for more at least
_POOLS = (
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._LPPoolNd,
)
_ADAPTIVE = (nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd)


@dataclass(frozen=True, kw_only=True)
class Window:
    """The geometry of a convolution or a pooling; every tuple has one entry an axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]  # on either side together, so that "same" with an even kernel fits
    dilation: tuple[int, ...]
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
            return tuple(
                n if wanted is None else wanted
                for n, wanted in zip(sizes, self.adaptive, strict=False)
            )
        return tuple(self._one(i, n) for i, n in enumerate(sizes))

    def _one(self, i: int, n: int) -> int:
        reach = self.dilation[i] * (self.kernel[i] - 1)
        if self.transposed:
            return (n - 1) * self.stride[i] - self.padding[i] + reach + self.extra[i] + 1
        free = n + self.padding[i] - reach - 1
        if free < 0 or self.stride[i] < 1:
            return 0
        out = (math.ceil(free / self.stride[i]) if self.ceil else free // self.stride[i]) + 1
        if self.ceil and (out - 1) * self.stride[i] >= n + self.padding[i] // 2:
            out -= 1  # torch drops a last window that would start in the padding
        return out

    @property
    def lacking(self) -> tuple[int, ...]:
        """The output_padding with which a transposed convolution gives exactly its stride times its input; () where it does, or cannot so."""
        axes = zip(self.stride, self.padding, self.dilation, self.kernel, strict=True)
        wanted = tuple(s + p - d * (k - 1) - 1 for s, p, d, k in axes) if self.transposed else ()
        fits = all(0 <= n < s for n, s in zip(wanted, self.stride, strict=False))
        return wanted if fits and wanted != self.extra else ()

    @property
    def is_same(self) -> bool:
        """Whether the padding makes up for the kernel."""
        return all(
            p == d * (k - 1)
            for p, d, k in zip(self.padding, self.dilation, self.kernel, strict=True)
        )


def repeat_per_dim(value: Any, n: int) -> tuple[int, ...]:
    """A setting for each of `n` axes."""
    if isinstance(value, tuple | list):
        return (
            tuple(int(v) for v in value)
            if len(value) == n
            else tuple(int(value[0]) for _ in range(n))
        )
    return tuple(int(value) for _ in range(n))


def count_dims(module: nn.Module) -> int:
    """How many spatial axes the class of a layer is for: 2 for Conv2d; 0 where it is for none."""
    digits = [letter for letter in type(module).__name__ if letter in "123"]
    for kind in type(module).__mro__:
        digits = [letter for letter in kind.__name__ if letter in "123"]
        if digits and kind.__module__.startswith("torch.nn"):
            return int(digits[-1])
    return 0


def get_window(module: nn.Module) -> Window | None:
    """The geometry of a layer; None where it has none."""
    n = count_dims(module)
    if isinstance(module, nn.modules.conv._ConvNd):
        kernel, dilation = repeat_per_dim(module.kernel_size, n), repeat_per_dim(module.dilation, n)
        if isinstance(module.padding, str):
            padding = tuple(
                d * (k - 1) if module.padding == "same" else 0
                for k, d in zip(kernel, dilation, strict=True)
            )
        else:
            padding = tuple(2 * p for p in repeat_per_dim(module.padding, n))
        transposed = isinstance(module, nn.modules.conv._ConvTransposeNd)
        return Window(
            kernel=kernel,
            stride=repeat_per_dim(module.stride, n),
            padding=padding,
            dilation=dilation,
            transposed=transposed,
            extra=repeat_per_dim(module.output_padding, n),
        )
    if isinstance(module, _POOLS):
        padding, dilation = module.__dict__.get("padding", 0), module.__dict__.get("dilation", 1)
        return _pool(
            n, module.kernel_size, module.stride, padding, dilation=dilation, ceil=module.ceil_mode
        )
    if isinstance(module, _ADAPTIVE):
        size = module.output_size
        wanted = size if isinstance(size, tuple | list) else (size,) * n
        return Window(kernel=(), stride=(), padding=(), dilation=(), adaptive=tuple(wanted))
    return None


def _pool(n: int, kernel: Any, stride: Any, padding: Any, *, dilation: Any, ceil: Any) -> Window:
    kernel = repeat_per_dim(kernel, n)
    return Window(
        kernel=kernel,
        stride=repeat_per_dim(stride, n) if stride not in (None, ()) else kernel,
        padding=tuple(2 * p for p in repeat_per_dim(padding or 0, n)),
        dilation=repeat_per_dim(dilation or 1, n),
        ceil=bool(ceil),
        is_pool=True,
    )


def get_call_window(crash: Crash, call: ModuleCall) -> Window | None:
    """The geometry of a recorded call, of a layer or of a function such as F.max_pool2d."""
    if call.fqn is not None:
        module = crash.modules.get(call.fqn)
        return None if module is None or module._modules else get_window(module)
    name = operation(call)
    if not name or name[-1] != "d" or name[-2:-1] not in ("1", "2", "3"):
        return None
    n = int(name[-2])
    if name.startswith(("max_pool", "avg_pool")):
        kernel = get_argument(call, 1, "kernel_size")
        dilation = get_argument(call, 4, "dilation") if name.startswith("max") else 1
        ceil = get_argument(call, 5 if name.startswith("max") else 4, "ceil_mode")
        if kernel is None:
            return None
        return _pool(
            n,
            kernel,
            get_argument(call, 2, "stride"),
            get_argument(call, 3, "padding"),
            dilation=dilation,
            ceil=ceil,
        )
    if name.startswith("conv") and not name.startswith("conv_t"):
        weight = get_tensor(call, 1, "weight")
        if weight is None or len(weight.shape) != n + 2:
            return None
        padding = get_argument(call, 4, "padding")
        kernel, dilation = (
            weight.shape[2:],
            repeat_per_dim(get_argument(call, 5, "dilation") or 1, n),
        )
        same = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        both = (
            (same if padding == "same" else (0,) * n)
            if isinstance(padding, str)
            else tuple(2 * p for p in repeat_per_dim(padding or 0, n))
        )
        return Window(
            kernel=kernel,
            stride=repeat_per_dim(get_argument(call, 3, "stride") or 1, n),
            padding=both,
            dilation=dilation,
        )
    return None


_TURNING = frozenset(
    {
        "permute",
        "transpose",
        "movedim",
        "moveaxis",
        "swapaxes",
        "swapdims",
        "reshape",
        "view",
        "unflatten",
        "einsum",
        "matmul",
        "t",
    }
)


def is_channels_first(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor is known to have its channels on axis 1: a convolution, a pooling or a BatchNorm made it so, and nothing turned it since."""
    for _, call in crash.walk_back(info):
        if (
            (call.fqn is None and operation(call) in _TURNING)
            or not call.outputs
            or len(call.outputs[0].shape) != len(info.shape)
        ):
            return False
        layer = crash.modules.get(call.fqn or "")
        is_norm = isinstance(layer, nn.modules.batchnorm._NormBase | nn.GroupNorm)
        if get_call_window(crash, call) is not None or is_norm:
            return True
        if layer is not None and layer._parameters:
            return False
    return False


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call on the path of a feature map: a window, or (window None) something that keeps its size."""

    call: ModuleCall
    window: Window | None
    before: tuple[int, ...]
    after: tuple[int, ...]


def list_steps(crash: Crash, info: TensorInfo) -> list[Step]:
    """The windows on the main path from the input to a tensor, as long as they explain the sizes that were recorded.

    A change of size that no window explains (an interpolation, a crop) restarts the path there.
    """
    steps: list[Step] = []
    for _, call in crash.list_path(info):
        if not call.inputs or not call.outputs:
            continue
        window = get_call_window(crash, call)
        source = next((t for t in call.inputs if not isinstance(t.source, str)), call.inputs[0])
        if window is None:
            if (
                len(source.shape) == len(call.outputs[0].shape) >= 3
                and source.shape[2:] != call.outputs[0].shape[2:]
            ):
                steps.clear()
            continue
        n = len(window.adaptive or window.kernel)
        steps.append(
            Step(
                call=call, window=window, before=source.shape[-n:], after=call.outputs[0].shape[-n:]
            )
        )
    return steps


def apply_windows(windows: Iterable[Window | None], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes after a chain of windows; (0, ...) where one of them does not fit any more."""
    for window in windows:
        if window is not None:
            if min(sizes, default=0) < 1:
                return tuple(0 for _ in sizes)
            sizes = window.output(sizes)
    return sizes


_ARGUMENTS = {
    "kernel": "kernel_size",
    "stride": "stride",
    "padding": "padding",
    "dilation": "dilation",
    "extra": "output_padding",
}


def list_variants(window: Window, others: Iterable[Window]) -> list[tuple[Window, dict[str, Any]]]:
    """Single changes of a window: first those that make it like one of its siblings; each with the constructor's arguments."""
    found: list[tuple[Window, dict[str, Any]]] = []
    for other in others:
        if (
            len(other.kernel) != len(window.kernel)
            or other == window
            or other.adaptive
            or other.transposed != window.transposed
        ):
            continue
        changes: dict[str, Any] = {}
        for name, argument in _ARGUMENTS.items():
            value, wanted = getattr(window, name), getattr(other, name)
            if value != wanted:
                changes[argument] = _argument(
                    [w // 2 for w in wanted] if name == "padding" else list(wanted)
                )
        if 1 <= len(changes) <= 2:
            found.append((other, changes))
    if (
        not window.is_same
        and not window.is_pool
        and not window.transposed
        and all(k % 2 for k in window.kernel)
    ):
        same = tuple(d * (k - 1) for k, d in zip(window.kernel, window.dilation, strict=True))
        found.append(
            (replace(window, padding=same), {"padding": _argument([p // 2 for p in same])})
        )
    return found


def _argument(sizes: list[int]) -> Any:
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
