"""The features that a Linear expects of a flattened map, and the sizes that would give them."""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.edits.build import configure, resize_input
from cnnprobe.crash.edits.reshaping import flatten_otherwise
from cnnprobe.crash.facts.products import (
    find_flattened_map,
    find_lost_batch,
    find_product,
    find_reshaping,
    read_sizes,
)
from cnnprobe.crash.facts.windows import PathStep, apply_windows, list_steps, list_variants
from cnnprobe.crash.facts.words import count_elements
from cnnprobe.crash.suspect import POSSIBLE, STRONG, Candidate, Candidates, propose
from cnnprobe.operations import resolve_name
from cnnprobe.records.trace import ModuleCall, TensorInfo

# Heights and widths that papers and data sets use.
USUAL_SIZES = (
    16, 24, 28, 32, 48, 64, 84, 96, 112, 128, 160, 192, 224, 227, 256, 299, 320, 384, 416, 448, 512,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Features:
    """What a Linear expects of the map that is flattened for it."""

    wanted: int
    module: str  # the Linear's fqn
    map: TensorInfo  # before it is flattened
    reshaping: ModuleCall | None  # what flattens it
    steps: tuple[PathStep, ...]  # the windows on the way to the map

    def count(self, sizes: tuple[int, ...]) -> int:
        """The number of features if the map had these sizes."""
        return self.map.shape[1] * count_elements(sizes)


@dataclass(frozen=True, kw_only=True)
class OtherWindow:
    """A convolution or pooling with other settings, for which the Linear fits."""

    fqn: str
    settings: dict[str, Any]
    is_like_others: bool  # other layers on the way have these settings
    sizes: tuple[int, ...]  # of the map then


@find_once
def find_features(crash: Crash) -> Features | None:
    """What a Linear expects, where it raised, or where the view before it did or merged samples."""
    found, call = find_product(crash), crash.call
    if found is not None:
        flattened = find_flattened_map(crash, found.x) if len(found.x.shape) == 2 else None
        if flattened is None:
            return None
        reshaping = find_reshaping(crash, found.x)
        return Features(
            wanted=found.wanted,
            module=found.module,
            map=flattened,
            reshaping=reshaping,
            steps=tuple(list_steps(crash, flattened)),
        )
    view = call if call is not None and is_failing_view(call) else find_lost_batch(crash)
    if view is None or not view.inputs or len(view.inputs[0].shape) < 3:
        return None
    x, sizes = view.inputs[0], read_sizes(view)
    layer = find_linear(crash, sizes[1]) if len(sizes) == 2 else None
    if layer is None or count_elements(x.shape[1:]) == sizes[1]:
        return None
    steps = tuple(list_steps(crash, x))
    return Features(wanted=sizes[1], module=layer, map=x, reshaping=view, steps=steps)


def is_failing_view(call: ModuleCall) -> bool:
    """Whether a call is a view or reshape of sizes that do not come to its elements."""
    if call.fqn is not None or resolve_name(call.kind) not in ("view", "reshape"):
        return False
    if not (sizes := read_sizes(call)) or not call.inputs or not call.inputs[0].shape:
        return False
    if any(type(value) is float for value in call.arguments.values()):  # no size at all
        return False
    known = count_elements(tuple(n for n in sizes if n != -1))
    total = count_elements(call.inputs[0].shape)
    return not known or (total % known != 0 if -1 in sizes else total != known)


def find_linear(crash: Crash, wanted: int) -> str | None:
    """Fqn of the first Linear of so many features."""
    layers = ((fqn, m) for fqn, m in crash.modules.items() if isinstance(m, nn.Linear))
    return next((fqn for fqn, layer in layers if layer.in_features == wanted), None)


def propose_input_sizes(crash: Crash, found: Features) -> list[Candidate]:
    """The usual input size that would make the wanted number of features, if there is one."""
    steps = found.steps
    if not steps or not crash.root_inputs or any(step.window.adaptive for step in steps):
        return []
    n = len(steps[0].before)
    if crash.root_inputs[0].shape[-n:] != steps[0].before:
        return []
    windows = [step.window for step in steps]

    def count(pixels: int) -> int:
        return found.count(apply_windows(windows, (pixels,) * n))

    # No window makes less of more pixels.
    at = bisect.bisect_left(USUAL_SIZES, found.wanted, key=count)
    if at == len(USUAL_SIZES) or count(USUAL_SIZES[at]) != found.wanted:
        return []
    return [propose(resize_input((USUAL_SIZES[at],) * n, exact=True), weight=POSSIBLE)]


def propose_rows(crash: Crash, call: ModuleCall) -> Candidates:
    """Rows of all that a sample has, with a Linear that takes them; or another input size."""
    sample, sizes = count_elements(call.inputs[0].shape[1:]), read_sizes(call)
    features = sizes[1] if len(sizes) == 2 else -1
    flat, layer = flatten_otherwise(crash, call), find_linear(crash, features)
    if layer is None or features in (-1, sample):
        yield propose(flat, weight=STRONG)
        return
    yield propose(flat, configure(crash, layer, in_features=sample), weight=STRONG)
    found = find_features(crash)
    yield from propose_input_sizes(crash, found) if found is not None else ()


@find_once
def list_other_windows(crash: Crash) -> tuple[OtherWindow, ...]:
    """Each change of one window on the way that makes exactly the wanted number of features."""
    found = find_features(crash)
    return tuple(_find_other_windows(found)) if found is not None else ()


def _find_other_windows(found: Features) -> Iterator[OtherWindow]:
    windows = [step.window for step in found.steps]
    for i, (step, window) in enumerate(zip(found.steps, windows, strict=True)):
        if step.call.fqn is None or window.adaptive:
            continue
        rest = [*windows[:i], *windows[i + 1 :]]
        others = [other for other in rest if other.is_pool == window.is_pool]
        for changed, settings in list_variants(window, others):
            sizes = apply_windows([*windows[:i], changed, *windows[i + 1 :]], found.steps[0].before)
            if found.count(sizes) == found.wanted:
                yield OtherWindow(
                    fqn=step.call.fqn,
                    settings=settings,
                    is_like_others=changed in others,
                    sizes=sizes,
                )
