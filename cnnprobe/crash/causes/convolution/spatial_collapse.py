import torch.nn.functional as F
from torch import nn

from cnnprobe.crash.cause import Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import change_input, configure, resize_input
from cnnprobe.crash.edits.calls import rewrite_call
from cnnprobe.crash.edits.layers import Exchange, Remove
from cnnprobe.crash.facts.input_sizes import find_least_input, fit_linear
from cnnprobe.crash.facts.windows import Window, get_call_window, get_least
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidates
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall

_GLOBAL = 4  # a pooling with a kernel of this size or more is meant to leave one value

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(4))
          self.pool = nn.MaxPool2d(2)
      def forward(self, x):
          for conv in self.convs:
              x = self.pool(F.relu(conv(x)))
          return x.mean((2, 3))
- model, args = Net(), (torch.randn(2, 3, 8, 8),)
+ model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
_SECOND = """
  model = nn.Sequential(
      nn.Conv2d(3, 16, 7, stride=2, padding=3),
      nn.MaxPool2d(3, 2, 1),
      nn.Conv2d(16, 32, 3, stride=2, padding=1),
-     nn.AvgPool2d(7),
+     nn.AdaptiveAvgPool2d(1),
      nn.Flatten(),
      nn.Linear(32, 10),
  )
  args = (torch.randn(4, 3, 32, 32),)
"""
EXAMPLES = (
    Example(_FIRST, blames="pool", repair="at least 16 x 16"),
    Example(_SECOND, blames="3", repair="nn.AdaptiveAvgPool2d(1)"),
)


@cause("CP021", "spatial-collapse", EXAMPLES, prior=680)
def spatial_collapse(crash: Crash) -> Suspects:
    """The map has become smaller than the kernel, or the reflected padding, that works on it.

    Why it happens: every pooling and every stride of 2 halves the map. A network for images of 224
    pixels has nothing left of an image of 32.
    What to do: give larger images, take a pooling out, pad the convolution, or end with
    nn.AdaptiveAvgPool2d(1) instead of a pooling of a fixed size.
    Known exceptions: the adaptive poolings take a map of any size.
    Source: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html, "Shape"
    """
    call = crash.call
    if crash.trials is None or call is None or not call.inputs:
        return
    least, window = get_least(crash, call), get_call_window(crash, call)
    shape, n = call.inputs[0].shape, len(least)
    if not n or len(shape) < n + 1 or (window is not None and window.is_padding_wrong):
        return
    sizes = shape[-n:]
    if all(size >= wanted for size, wanted in zip(sizes, least, strict=True)):
        return
    found = find_least_input(crash, crash.trials, n)
    note = f"; the least input that passes is {_join(found.sizes)}" if found.passes else ""
    text = (
        ""
        if window is None
        else "; ".join(_write_formula(window, i, m) for i, m in enumerate(sizes))
    )
    yield blame(
        call.fqn if call.fqn is not None else crash.owner,
        f"the map is too small: {crash.describe_call(call)} needs at least {_join(least)} "
        f"but got {_join(sizes)}{note}",
        *_pool_adaptively(crash, call, window, sizes),
        *_span_features(crash, call, window, sizes),
        *_lengthen_sequence(crash, least, sizes),
        *_enlarge_input(crash, n, found.sizes, found.multiple),
        *_change_layer(crash, call, window),
        arithmetic=text or f"{_join(sizes)} is less than {_join(least)}",
    )


def _write_formula(window: Window, i: int, n: int) -> str:
    reach, out = window.dilation[i] * (window.kernel[i] - 1), window.output((n,) * (i + 1))[i]
    return f"floor(({n} + {window.padding[i]} - {reach} - 1)/{window.stride[i]} + 1) = {out}"


def _join(sizes: tuple[int, ...]) -> str:
    """4 x 4."""
    return " x ".join(map(str, sizes))


def _pool_adaptively(
    crash: Crash, call: ModuleCall, window: Window | None, sizes: tuple[int, ...]
) -> Candidates:
    """A pooling that was to leave one value: an adaptive one leaves it whatever the size."""
    info = find(call)
    if window is None or info is None or info.family != "pooling" or min(window.kernel) < _GLOBAL:
        return
    if any(kernel < size for kernel, size in zip(window.kernel, sizes, strict=True)):
        return
    n, kind = len(sizes), "Max" if info.group == "max_pool" else "Avg"
    layer, function = f"Adaptive{kind}Pool{n}d", f"adaptive_{kind.lower()}_pool{n}d"
    if call.fqn is not None:
        code = f"nn.{layer}(1)"
        title, make = f"make {quote(call.fqn)} an {code}", getattr(nn, layer)
        exchange = Exchange(title=title, code=code, module=call.fqn, layer=lambda _old: make(1))
        yield propose(exchange, weight=STRONG)
        return
    code, pool = f"F.{function}({{x}}, 1)", getattr(F, function)
    edit = rewrite_call(
        crash,
        call,
        lambda _func, args, _kwargs: pool(args[0], 1),
        title=f"use {code.format(x='x')} instead of {info.name} at {{place}}",
        code=code,
        respell=code,
    )
    yield propose(edit, weight=STRONG)


def _span_features(
    crash: Crash, call: ModuleCall, window: Window | None, sizes: tuple[int, ...]
) -> Candidates:
    """A kernel that is to span the features of an embedding, which has others."""
    if window is None or call.fqn is None or window.is_pool or len(sizes) != 2:
        return
    width, features = window.kernel[1], sizes[1]
    if width <= features or window.least[0] > sizes[0] or window.padding[1]:
        return
    rows = [row for _, row in crash.walk_back(call.inputs[0])]
    tables = [row.fqn for row in rows if isinstance(crash.modules.get(row.fqn or ""), nn.Embedding)]
    if tables:
        kernel = (window.kernel[0], features)
        yield propose(configure(crash, call.fqn, kernel_size=kernel), weight=STRONG)
        yield propose(configure(crash, tables[0] or "", embedding_dim=width), weight=USUAL)


def _lengthen_sequence(crash: Crash, least: tuple[int, ...], sizes: tuple[int, ...]) -> Candidates:
    """Sequences of indices that are shorter than the kernel: padded at their end."""
    given, more = crash.root_inputs[:1], least[0] - sizes[0]
    if given and len(given[0].shape) == 2 and more > 0 and given[0].dtype.startswith("int"):
        length = given[0].shape[1] + more
        title = f"pad the sequences to a length of at least {length}: F.pad(x, (0, {more}))"
        edit = change_input(
            lambda x: F.pad(x, (0, more)), f"F.pad({{x}}, (0, {more}))", title=title
        )
        yield propose(edit, weight=STRONG)


def _enlarge_input(crash: Crash, n: int, least: tuple[int, ...], multiple: int) -> Candidates:
    if not least or crash.trials is None:
        return
    # What is large enough stays: a clip of 8 x 64 x 64 may be too short, and is not too small.
    kept = tuple(map(max, least, crash.root_inputs[0].shape[-n:]))
    if not any(size % multiple for size in kept):
        yield propose(resize_input(kept, multiple=multiple), weight=STRONG)
    if kept != least:
        yield propose(resize_input(least, multiple=multiple), weight=USUAL)
    for size in fit_linear(crash.trials, least):
        yield propose(resize_input(size), weight=USUAL)


def _change_layer(crash: Crash, call: ModuleCall, window: Window | None) -> Candidates:
    if window is None or call.fqn is None:
        return
    if window.is_pool:
        edit = Remove(title=f"take the pooling {quote(call.fqn)} out", module=call.fqn)
        yield propose(edit, weight=POSSIBLE)
    elif all(k % 2 for k in window.kernel):
        padding = tuple(k // 2 for k in window.kernel)
        yield propose(configure(crash, call.fqn, padding=padding), weight=POSSIBLE)
