import copy
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from cnnprobe.crash.cause import POSSIBLE, STRONG, Crash, Example, Suspects, blame, cause, propose
from cnnprobe.crash.edits.build import insert_before
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.facts.features import Features, find_features
from cnnprobe.crash.facts.windows import Window, get_window
from cnnprobe.crash.facts.words import quote, shorten, write_product
from cnnprobe.operations import resolve_name
from cnnprobe.records.trace import ModuleCall

_GLOBAL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}
_MAX = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}

_FIRST = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
          self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
          self.pool = nn.MaxPool2d(2)
          self.fc = nn.Linear(16 * 8 * 8, 10)
      def forward(self, x):
          x = self.pool(F.relu(self.conv1(x)))
-         x = F.relu(self.conv2(x))
+         x = self.pool(F.relu(self.conv2(x)))
          x = x.view(x.size(0), -1)
          return self.fc(x)
  model, args = Net(), (torch.randn(4, 3, 32, 32),)
"""
_SECOND = """
  class Net(nn.Module):
      def __init__(self):
          super().__init__()
          self.conv = nn.Conv2d(3, 24, 3, padding=1)
          self.avgpool = nn.AdaptiveAvgPool2d(1)
          self.fc = nn.Linear(24, 10)
      def forward(self, x):
-         x = F.relu(self.conv(x))
+         x = self.avgpool(F.relu(self.conv(x)))
          return self.fc(torch.flatten(x, 1))
  model, args = Net(), (torch.randn(2, 3, 16, 16),)
"""
EXAMPLES = (
    Example(_FIRST, blames="", repair="F.max_pool2d(x, 2)"),
    Example(_SECOND, blames="", repair="self.avgpool(x)"),
)


@dataclass(frozen=True, kw_only=True)
class Pooling:
    """A pooling that would make the map fit, and how it is written."""

    make: Callable[[], nn.Module]
    layer: str = ""  # as a layer: "nn.MaxPool2d(2)"
    call: str = ""  # as a call: "F.max_pool2d({x}, 2)"
    mean: str = ""  # in the place of the reshaping: "{x}.mean((2, 3))"
    weight: int = STRONG
    why: str


@cause("CP038", "missing-pooling", EXAMPLES, family="linear-in-features", prior=798)
def missing_pooling(crash: Crash) -> Suspects:
    """A map is flattened for a Linear without the pooling that in_features was counted for.

    Why it happens: a pooling is defined in __init__ but not called in forward, a list of layers
    has lost one, or a classifier of one value a channel got the whole map.
    What to do: call the pooling before the flatten, or count in_features without it.
    Known exceptions: with other numbers in_features itself is as likely wrong.
    Source: docs of torch.nn.MaxPool2d and torch.nn.AdaptiveAvgPool2d.
    """
    found = find_features(crash)
    call = found.reshaping if found is not None else None
    if found is None or call is None:
        return
    for pooling in _list_poolings(crash, found, call):
        if call.fqn is not None:
            edit = insert_before(crash, call.fqn, pooling.make, pooling.layer)
        else:
            edit = _pool_before(crash, call, pooling)
        if edit is not None:
            owner = call.parent if call.fqn is None else crash.trace.calls[call.parent or 0].index
            yield blame(
                crash.find_module_above(owner),
                f"a pooling is missing between {crash.describe_origin(found.map)} and "
                f"{crash.describe_module(found.module)}: {pooling.why}",
                propose(edit, weight=pooling.weight),
                arithmetic=f"{quote(found.module)} expects {found.wanted} features; the map is "
                f"{found.map.shape}, which makes {write_product(found.map.shape[1:])}",
                weight=pooling.weight,
            )
            return


def _list_poolings(crash: Crash, found: Features, call: ModuleCall) -> Iterator[Pooling]:
    """A pooling that is never called, the last one once more, or one over the whole map."""
    called = {row.fqn for row in crash.trace.calls}
    owner = crash.modules.get(crash.find_module_above(call.parent))
    for name, module in owner.named_children() if owner is not None and call.fqn is None else ():
        fqn = next(fqn for fqn, each in crash.modules.items() if each is module)
        window = get_window(module) if fqn not in called else None
        if window is not None and (window.is_pool or window.adaptive) and _fits(found, window):
            yield Pooling(
                make=functools.partial(copy.copy, module),
                call=f"self.{name}({{x}})",
                why=f"{crash.describe_module(fqn)} is never called",
            )
    n = len(found.map.shape) - 2
    is_pooled = bool(found.steps) and found.steps[-1].window.adaptive
    if found.map.shape[1] == found.wanted and n in _GLOBAL and not is_pooled:
        dims = tuple(range(2, 2 + n))
        yield Pooling(
            make=lambda: _GLOBAL[n](1),
            layer=f"nn.AdaptiveAvgPool{n}d(1)",
            mean=f"{{x}}.mean({dims})",
            why=f"{quote(found.module)} expects one value for each of the {found.wanted} channels",
        )
    yield from _repeat_last(found)
    side = _find_side(found, n)
    if side > 1 and not is_pooled:
        yield Pooling(
            make=lambda: _GLOBAL[n](side),
            layer=f"nn.AdaptiveAvgPool{n}d({side})",
            call=f"F.adaptive_avg_pool{n}d({{x}}, {side})",
            weight=POSSIBLE,
            why=f"pooled to {' x '.join([str(side)] * n)}, it fits whatever the input size is",
        )


def _find_side(found: Features, n: int) -> int:
    """The one size of a map of n dims that makes as many features as are expected; 0: none."""
    places, left = divmod(found.wanted, found.map.shape[1])
    side = round(places ** (1 / n)) if n in _GLOBAL and not left else 0
    return side if side**n == places else 0


def _fits(found: Features, window: Window) -> bool:
    sizes = found.map.shape[2:]
    is_rank_right = len(window.adaptive or window.kernel) == len(sizes)
    return is_rank_right and found.count(window.output(sizes)) == found.wanted


def _repeat_last(found: Features) -> Iterator[Pooling]:
    """One more pooling like the others: a VGG whose list has lost an 'M'."""
    steps = found.steps
    windows = [step.window for step in steps]
    kinds = [step.call.kind.lower() for step in steps if step.window.is_pool]
    pools = [window for window in windows if window.is_pool]
    if not pools or not _fits(found, pools[-1]) or not all("max" in kind for kind in kinds):
        return
    last, n = pools[-1], len(pools[-1].kernel)
    is_alike = {(pool.kernel, pool.stride) for pool in pools} == {(last.kernel, last.stride)}
    is_plain = len({*last.kernel}) == len({*last.stride}) == 1 and not any(last.padding)
    if not is_alike or not is_plain:
        return
    kernel, stride = last.kernel[0], last.stride[0]
    text = f"{kernel}" + (f", {stride}" if stride != kernel else "")
    yield Pooling(
        make=lambda: _MAX[n](kernel, stride),
        layer=f"nn.MaxPool{n}d({text})",
        call=f"F.max_pool{n}d({{x}}, {text})",
        weight=STRONG if _lacks_last(windows) else POSSIBLE,
        why=f"with one more, of {' x '.join(map(str, last.kernel))}, the map fits",
    )


def _lacks_last(windows: list[Window]) -> bool:
    """Whether a pooling follows each group of as many convolutions, but not the last group."""
    groups = itertools.groupby(window.is_pool for window in windows)
    sizes = {len(list(group)) for is_pool, group in groups if not is_pool}
    return not windows[-1].is_pool and len(sizes) == 1


def _pool_before(crash: Crash, call: ModuleCall, pooling: Pooling) -> RewriteCall:
    """The pooling before a function that reshapes the map, or in its place."""
    name, place = resolve_name(call.kind), shorten(call.source)

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        pooled = pooling.make()(args[0])
        return torch.flatten(pooled, 1) if pooling.mean else func(pooled, *args[1:], **kwargs)

    code = pooling.mean or pooling.call
    respell = code if pooling.mean else f"{code}.{name}({{rest}})"
    if name == "flatten" and not pooling.mean:
        respell = f"torch.flatten({code}, {{rest}})"
    title = f"pool the map before {name} at {place}: {code.format(x='x')}"
    if pooling.mean:
        title = f"use {code.format(x='x')} instead of {name} at {place}"
    return rewrite_call(crash, call, rewrite, title=title, code=code, respell=respell)
