"""Tensors with axes too few or too many for a convolution: rows that are to be maps again, the frames of a film that are to be samples."""

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import (
    adapt_call,
    change_tensor,
    insert_before,
    is_in_sequential,
    is_root_input,
    keep_present,
)
from cnnprobe.crash.edits.calls import Adapt, AdaptOutput, Rewrite
from cnnprobe.crash.facts.words import count_elements, operation, quote, shorten
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, propose
from cnnprobe.trace import ModuleCall, TensorInfo


def unflattened(
    crash: Crash, x: TensorInfo, flattening: ModuleCall | None, *, channels: int, axes: int
) -> Iterator[Candidate]:
    """Rows that are to be maps again: (N, 784) into (N, 1, 28, 28), and (N, 1568) into the (N, 8, 14, 14) that it was."""
    sizes = _map_of(x, flattening, channels=channels, axes=axes) if len(x.shape) == 2 else None
    if sizes is None:
        return
    code = "{x}.view(" + ", ".join(map(str, (-1, *sizes))) + ")"

    def reshaped(t: Tensor) -> Tensor:
        return t.reshape(-1, *sizes)

    if is_root_input(crash, x):
        yield propose(change_tensor(crash, x, reshaped, code), weight=STRONG)
        return
    call = crash.call
    if call is not None and call.fqn is not None and is_in_sequential(crash, call.fqn):
        for edit in keep_present(
            insert_before(
                crash, call.fqn, lambda: nn.Unflatten(1, sizes), f"nn.Unflatten(1, {sizes})"
            )
        ):
            yield propose(edit, weight=STRONG)
    else:
        yield propose(adapt_call(crash, reshaped, code), weight=STRONG)


def left_as_it_was(crash: Crash, x: TensorInfo, *, channels: int, axes: int) -> Iterator[Candidate]:
    """A view that has flattened just what the layer wants: without it."""
    made = crash.find_producer(x)
    if (
        made is None
        or made.fqn is not None
        or operation(made) not in ("view", "reshape", "flatten")
        or not made.inputs
    ):
        return
    before = made.inputs[0].shape
    if len(before) == axes + 2 and before[1] == channels:
        title = f"take {operation(made)} at {shorten(made.source)} out, or put it after the layer: {before} is what is wanted"
        where: dict[str, Any] = {
            "module": crash.find_module_above(made.parent),
            "kind": made.kind,
            "source": made.source,
        }
        edit = Rewrite(title=title, function=lambda _func, args, _kwargs: args[0], **where)
        yield propose(edit, weight=STRONG)


def _map_of(
    x: TensorInfo, flattening: ModuleCall | None, *, channels: int, axes: int
) -> tuple[int, ...] | None:
    """The sizes of a map of these channels with as many elements as a row has: those that were flattened, else a square."""
    features = x.shape[1]
    before = flattening.inputs[0].shape[1:] if flattening is not None and flattening.inputs else ()
    if len(before) == axes + 1 and before[0] == channels and count_elements(before) == features:
        return before
    if features % channels:
        return None
    side = round((features // channels) ** (1 / axes))
    return (
        (channels, *(side,) * axes) if math.prod((channels, *(side,) * axes)) == features else None
    )


def folded(crash: Crash, x: TensorInfo, module: str, *, channels: int) -> Iterator[Candidate]:
    """(N, T, C, H, W) for a layer of images: the frames as samples of their own before the part that starts with it, and apart again after it."""
    at = next((axis for axis in (2, 1) if x.shape[axis] == channels), None)
    if at is None:
        return
    place, frames = crash.find_container(module), x.shape[3 - at]
    turned = "" if at == 2 else ".transpose(1, 2)"  # (N, C, T, H, W)
    code, back = f"{{x}}{turned}.flatten(0, 1)", f"{{x}}.unflatten(0, (-1, {frames}))"

    def merge(t: Any) -> Any:
        return (t if at == 2 else t.transpose(1, 2)).flatten(0, 1)

    before = Adapt(
        title=f"pass {code.format(x='x')} to {quote(place)}",
        code=code,
        module=place,
        function=merge,
    )
    after = AdaptOutput(
        title=f"give what comes out its frames again: {back.format(x='x')}",
        code=back,
        module=place,
        function=lambda t: t.unflatten(0, (-1, frames)),
    )
    yield propose(before, after, weight=STRONG)
    yield propose(before, weight=USUAL)
