"""A convolution that was given other channels than it has weights for, another number of axes, or a map smaller than its kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cnnprobe.crash import folding, growing, viewing
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import (
    adapt_call,
    change_tensor,
    configure,
    is_root_input,
    reshape_parameter,
    resize_input,
)
from cnnprobe.crash.edits.calls import AdaptOutput
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.facts.channels import suspect_channel_maker
from cnnprobe.crash.facts.products import find_flattened_map, find_product
from cnnprobe.crash.facts.windows import (
    LARGEST_INPUT,
    Window,
    apply_windows,
    count_dims,
    get_call_window,
    is_channels_first,
    list_steps,
)
from cnnprobe.crash.facts.words import count_elements, get_argument, get_tensor, operation, quote
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.crash.trials import Trials
from cnnprobe.trace import TensorInfo


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """What a convolution wants: `axes` spatial ones, `wanted` channels."""

    x: TensorInfo
    axes: int
    wanted: int
    module: str
    is_layer: bool
    is_first: bool  # it works on what the model was given

    @property
    def batched(self) -> int:
        """How many axes its input has with a batch."""
        return self.axes + 2


def kernel_of(crash: Crash) -> Kernel | None:
    """The failing call as a convolution, if it is one."""
    call, layer = crash.call, crash.leaf
    if call is None or not call.inputs:
        return None
    x = get_tensor(call, 0, "input") or call.inputs[0]
    first = is_root_input(crash, x)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return Kernel(
            x=x,
            axes=count_dims(layer),
            wanted=layer.in_channels,
            module=call.fqn or "",
            is_layer=True,
            is_first=first,
        )
    name = operation(call)
    if not name.startswith("conv") or name[-1] != "d" or not name[-2].isdigit():
        return None
    weight = get_tensor(call, 1, "weight")
    if weight is None or len(weight.shape) < 3:
        return None
    groups = get_argument(call, 6, "groups") or 1
    wanted = weight.shape[0] if "transpose" in name else weight.shape[1] * int(groups)
    owner = (
        crash.owner_of_parameter(weight.source) if isinstance(weight.source, str) else crash.owner
    )
    return Kernel(
        x=x, axes=int(name[-2]), wanted=wanted, module=owner, is_layer=False, is_first=first
    )


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where a convolution was given the wrong thing."""
    found = kernel_of(crash)
    if found is not None:
        dimensions = len(found.x.shape)
        if dimensions not in (found.batched, found.batched - 1):
            yield from _axes(crash, found)
        elif found.x.shape[dimensions - found.axes - 1] != found.wanted:
            yield from _last(crash, found)
            yield from _elsewhere(crash, found)
            yield from _unbatched(crash, found)
            yield from viewing.suspect_earlier_view(crash, found.x, found.wanted)
            yield from growing.other_growth(crash, found.x, found.wanted, found.module)
            yield from _channels(crash, found)
            yield from suspect_channel_maker(
                crash, found.x, found.wanted, module=found.module, diagnosis="channel-mismatch"
            )
    if crash.trials is not None:
        yield from _collapsed(crash, crash.trials)


def _axes(crash: Crash, found: Kernel) -> Iterator[Suspect]:
    shape = found.x.shape
    candidates: list[Candidate] = []
    if len(shape) == found.axes and found.is_first:
        if found.wanted == 1:
            candidates.append(
                propose(
                    change_tensor(crash, found.x, lambda x: x[None, None], "{x}[None, None]"),
                    weight=STRONG,
                )
            )
        elif found.axes == 1:
            candidates.append(
                propose(change_tensor(crash, found.x, lambda x: x[None], "{x}[None]"))
            )
    flattening = next(
        (
            c
            for _, c in crash.walk_back(found.x)
            if c.kind in ("Flatten", "torch.flatten", "torch.Tensor.flatten")
        ),
        None,
    )
    candidates += folding.left_as_it_was(crash, found.x, channels=found.wanted, axes=found.axes)
    candidates += folding.unflattened(
        crash, found.x, flattening, channels=found.wanted, axes=found.axes
    )
    if flattening is not None and flattening.fqn is not None:
        edit = Remove(
            title=f"take {quote(flattening.fqn)} out, or put it after {quote(found.module)}",
            module=flattening.fqn,
        )
        candidates.append(propose(edit))
    if len(shape) == found.batched + 1:
        candidates += folding.folded(crash, found.x, found.module, channels=found.wanted)
        if shape[1] == 1 or shape[0] == 1:
            axis = 0 if shape[0] == 1 else 1
            candidates.insert(
                0, propose(adapt_call(crash, lambda x: x.squeeze(axis), f"{{x}}.squeeze({axis})"))
            )
    yield Suspect(
        diagnosis="shape-mismatch",
        module=found.module,
        message=f"{describe_module(crash, found.module)} wants {found.batched} axes (batch, channels and {found.axes} more), and {shape} has {len(shape)}",
        arithmetic=f"{crash.describe_origin(found.x)} gives {shape}"
        + (f", flattened by {crash.describe_call(flattening)}" if flattening is not None else ""),
        candidates=tuple(candidates),
        weight=USUAL,
    )


def _last(crash: Crash, found: Kernel) -> Iterator[Suspect]:
    """The channel axis is last, or elsewhere."""
    shape = found.x.shape
    if shape[-1] != found.wanted or is_channels_first(crash, found.x):
        return
    batched = len(shape) == found.batched
    order = (
        (0, len(shape) - 1, *range(1, len(shape) - 1))
        if batched
        else (len(shape) - 1, *range(len(shape) - 1))
    )
    code = "{x}.permute(" + ", ".join(map(str, order)) + ")" + ("" if batched else "[None]")

    def permuted(x: Tensor) -> Tensor:
        return x.permute(order) if batched else x.permute(order)[None]

    edit = (
        change_tensor(crash, found.x, permuted, code)
        if crash.is_input(found.x)
        else adapt_call(crash, permuted, code)
    )
    candidates = [propose(edit, weight=STRONG)]
    producer = crash.find_producer(found.x)
    if producer is not None and producer.fqn is not None:
        title = f"use {code.format(x=quote(producer.fqn) + '(...)')}"
        candidates.append(
            propose(
                AdaptOutput(title=title, code=code, module=producer.fqn, function=permuted),
                weight=STRONG,
            )
        )
    yield Suspect(
        diagnosis="nhwc-input",
        module=found.module,
        message=f"the channel axis is last: {describe_module(crash, found.module)} wants {found.wanted} channels on axis 1, and {shape} has them on the last",
        arithmetic=f"wanted (N, {found.wanted}, {', '.join('HWD'[: found.axes]) if found.axes > 1 else 'L'}), arrived {shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _elsewhere(crash: Crash, found: Kernel) -> Iterator[Suspect]:
    """The channels stand on another axis of the model's own input: (N, T, C, H, W) where (N, C, T, H, W) is wanted."""
    shape = found.x.shape
    at = [i for i in range(2, len(shape) - 1) if shape[i] == found.wanted]
    if len(shape) != found.batched or len(at) != 1 or not crash.is_input(found.x):
        return
    order = (0, at[0], *(i for i in range(1, len(shape)) if i != at[0]))
    code = "{x}.permute(" + ", ".join(map(str, order)) + ")"
    yield Suspect(
        diagnosis="nhwc-input",
        module=found.module,
        message=f"the channel axis is axis {at[0]}: {describe_module(crash, found.module)} wants {found.wanted} channels on axis 1 of {shape}",
        arithmetic=f"wanted (N, {found.wanted}, ...), arrived {shape}",
        candidates=(
            propose(change_tensor(crash, found.x, lambda x: x.permute(order), code), weight=STRONG),
        ),
        weight=STRONG,
    )


def _unbatched(crash: Crash, found: Kernel) -> Iterator[Suspect]:
    """(N, H, W) where (N, 1, H, W) was meant: torch takes the batch for the channels."""
    shape = found.x.shape
    if len(shape) != found.batched - 1 or found.wanted != 1:
        return
    edit = change_tensor(crash, found.x, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
    if not crash.is_input(found.x):
        edit = adapt_call(crash, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
    yield Suspect(
        diagnosis="channel-mismatch",
        module=found.module,
        message=f"the channel axis is missing: {shape} is taken for one sample of {shape[0]} channels, {describe_module(crash, found.module)} wants 1",
        arithmetic=f"(N, 1, ...) is wanted, {shape} arrived",
        candidates=(propose(edit, weight=STRONG),),
        weight=STRONG,
    )


def _channels(crash: Crash, found: Kernel) -> Iterator[Suspect]:
    shape = found.x.shape
    axis = len(shape) - found.axes - 1
    got = shape[axis]
    candidates = [*_input_channels(crash, found, got, axis)] if found.is_first else []
    if found.is_layer:
        candidates.append(
            propose(
                configure(crash, found.module, **_with_channels(crash, found, got)), weight=USUAL
            )
        )
        layer = crash.modules[found.module]
        if layer.out_channels == got and layer.groups == 1:  # in and out were swapped
            candidates.append(
                propose(
                    configure(crash, found.module, in_channels=got, out_channels=found.wanted),
                    weight=USUAL,
                )
            )
    elif (edit := _other_weight(crash, found, got)) is not None:
        candidates.append(propose(edit, weight=USUAL))
    unread = (
        f"; {shape} is taken for one sample without a batch axis"
        if len(shape) < found.batched
        else ""
    )
    if unread and shape[1] == found.wanted and found.axes > 1:
        wide = adapt_call(crash, lambda x: x.unsqueeze(2), "{x}.unsqueeze(2)")
        candidates.insert(0, propose(wide, weight=STRONG))
    moved = [
        i for i, n in enumerate(shape) if n == found.wanted and i not in (axis, len(shape) - 1)
    ]
    if moved and not is_channels_first(crash, found.x):
        at = moved[0]
        turned = adapt_call(
            crash, lambda x: x.transpose(at, axis), f"{{x}}.transpose({at}, {axis})"
        )
        candidates.append(propose(turned, weight=POSSIBLE))
    yield Suspect(
        diagnosis="channel-mismatch",
        module=found.module,
        message=f"{describe_module(crash, found.module)} has weights for {found.wanted} channels, and {got} arrive from {crash.describe_origin(found.x)}{unread}",
        arithmetic=_counted(crash, found, got),
        candidates=tuple(candidates),
        weight=USUAL,
    )


def _other_weight(crash: Crash, found: Kernel, got: int) -> Edit | None:
    """F.conv2d(x, self.weight): the parameter of another shape."""
    weight = get_tensor(crash.call, 1, "weight") if crash.call is not None else None
    if weight is None or found.wanted != weight.shape[1]:
        return None
    return reshape_parameter(crash, weight.source, (weight.shape[0], got, *weight.shape[2:]))


def _with_channels(crash: Crash, found: Kernel, got: int) -> dict[str, int]:
    layer = crash.modules[found.module]
    groups = getattr(layer, "groups", 1)
    if groups > 1 and got % groups:
        changes = {"in_channels": got, "groups": got}
        return (
            {**changes, "out_channels": got} if getattr(layer, "out_channels", 0) % got else changes
        )
    return {"in_channels": got}


def _input_channels(crash: Crash, found: Kernel, got: int, axis: int) -> Iterator[Candidate]:
    """Grey into colour, colour into grey, an alpha channel too many."""
    if got == 1:
        sizes = [-1] * (axis + found.axes + 1)
        sizes[axis] = found.wanted
        code = "{x}.expand(" + ", ".join(map(str, sizes)) + ")"
        yield propose(change_tensor(crash, found.x, lambda x: x.expand(sizes), code), weight=USUAL)
    elif found.wanted == 1:
        yield propose(
            change_tensor(
                crash,
                found.x,
                lambda x: x.mean(axis, keepdim=True),
                f"{{x}}.mean({axis}, keepdim=True)",
            ),
            weight=USUAL,
        )
    elif got == found.wanted + 1:
        code = (
            "{x}[:, :" + str(found.wanted) + "]" if axis == 1 else "{x}[:" + str(found.wanted) + "]"
        )
        yield propose(
            change_tensor(crash, found.x, lambda x: x.narrow(axis, 0, found.wanted), code),
            weight=USUAL,
        )


def _counted(crash: Crash, found: Kernel, got: int) -> str:
    producer = crash.find_producer(found.x)
    joined = (
        [t.shape for t in producer.inputs]
        if producer is not None and operation(producer) in ("cat", "concat", "concatenate")
        else []
    )
    if joined and all(len(shape) > 1 for shape in joined):
        parts = " + ".join(str(shape[1]) for shape in joined)
        return f"{parts} = {got} channels after the concatenation; in_channels is {found.wanted}"
    return f"wanted {found.wanted} channels, arrived {found.x.shape}"


# -- a map smaller than its kernel -------------------------------------------------------------------------------------------


def _collapsed(crash: Crash, trials: Trials) -> Iterator[Suspect]:
    call = crash.call
    window = get_call_window(crash, call) if call is not None else None
    if call is None or window is None or window.adaptive or not call.inputs:
        return
    n = len(window.kernel)
    sizes = call.inputs[0].shape[-n:]
    if len(call.inputs[0].shape) < n + 1:
        return
    if window.is_pool and any(p > k for p, k in zip(window.padding, window.kernel, strict=True)):
        yield _padding_too_wide(crash, window)
    elif min(window.output(sizes)) < 1:
        yield _too_small(crash, trials, window, sizes)


def _padding_too_wide(crash: Crash, window: Window) -> Suspect:
    call = crash.call
    fqn = call.fqn if call is not None else None
    half = window.kernel[0] // 2
    return Suspect(
        diagnosis="shape-mismatch",
        module=fqn if fqn is not None else crash.owner,
        message=f"the padding {window.padding[0] // 2} is more than half of the pooling's kernel {window.kernel[0]}",
        arithmetic=f"{window.padding[0] // 2} > {window.kernel[0]} / 2",
        candidates=(propose(configure(crash, fqn, padding=half), weight=STRONG),)
        if fqn is not None
        else (),
        weight=STRONG,
    )


def _too_small(crash: Crash, trials: Trials, window: Window, sizes: tuple[int, ...]) -> Suspect:
    call = crash.call
    fqn = call.fqn if call is not None and call.fqn is not None else None
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    least = _least_size(crash, trials, len(sizes))
    legal = f"; the least legal input is {' x '.join(map(str, least))}" if least else ""
    candidates: list[Candidate] = []
    if least:
        # What is large enough already stays as it is: a clip of 8 x 64 x 64 may be too short, and is not too small.
        kept = tuple(map(max, least, crash.root_inputs[0].shape[-len(sizes) :]))
        candidates.append(propose(resize_input(kept), weight=STRONG))
        candidates += [propose(resize_input(least), weight=USUAL)] if kept != least else []
        candidates += [
            propose(resize_input(more), weight=USUAL) for more in _sizes_for_the_rest(trials, least)
        ]
    if fqn is not None and window.is_pool:
        candidates.append(
            propose(Remove(title=f"take the pooling {quote(fqn)} out", module=fqn), weight=POSSIBLE)
        )
    elif fqn is not None and all(k % 2 for k in window.kernel):
        candidates.append(
            propose(
                configure(crash, fqn, padding=tuple(k // 2 for k in window.kernel)), weight=POSSIBLE
            )
        )
    what = (
        describe_module(crash, fqn)
        if fqn is not None
        else crash.describe_call(call)
        if call is not None
        else "the call"
    )
    return Suspect(
        diagnosis="spatial-collapse",
        module=fqn if fqn is not None else crash.owner,
        message=f"the map is smaller than the kernel: {what} looks at {product_of(reach)}, and {product_of(sizes)} arrives{legal}",
        arithmetic="; ".join(
            f"floor(({n} + {p} - {d * (k - 1)} - 1)/{s} + 1) = {out}"
            for n, p, d, k, s, out in zip(
                sizes,
                window.padding,
                window.dilation,
                window.kernel,
                window.stride,
                window.output(sizes),
                strict=True,
            )
        ),
        candidates=tuple(candidates),
        weight=STRONG,
    )


def product_of(sizes: tuple[int, ...]) -> str:
    """4 x 4."""
    return " x ".join(map(str, sizes))


def _least_size(crash: Crash, trials: Trials, n: int) -> tuple[int, ...] | None:
    """The least input for which no window of the model is larger than its map: by arithmetic where the path is known, then by trial."""
    if not crash.root_inputs or len(crash.root_inputs[0].shape) < n + 1:
        return None
    given = crash.root_inputs[0].shape[-n:]
    low = _by_arithmetic(crash, given) or max(given) + 1
    high = low
    while high <= LARGEST_INPUT and (fits := _fits(trials, high, given)) is not None:
        if fits:
            break
        low, high = high + 1, high * 2
    else:
        return None
    while low < high and trials.left > 10:
        middle = (low + high) // 2
        if _fits(trials, middle, given):
            high = middle
        else:
            low = middle + 1
    return tuple(max(high, 1) for _ in given)


def _by_arithmetic(crash: Crash, given: tuple[int, ...]) -> int | None:
    call = crash.call
    window = get_call_window(crash, call) if call is not None else None
    if call is None or window is None:
        return None
    steps = list_steps(crash, call.inputs[0])
    if steps and steps[0].before != given:
        return None
    chain = [*(step.window for step in steps), window]
    return next(
        (
            n
            for n in range(1, LARGEST_INPUT + 1)
            if n > min(given) and min(apply_windows(chain, (n,) * len(given))) >= 1
        ),
        None,
    )


def _fits(trials: Trials, pixels: int, given: tuple[int, ...]) -> bool | None:
    """Whether no window is too large for its map with an input of this size; None where that could not be tried."""
    outcome = trials.run([resize_input((pixels,) * len(given))])
    if outcome is None:
        return None
    failure = outcome.trace.failure
    if failure is None or failure.call is None:
        return failure is None
    call = outcome.trace.calls[failure.call]
    tried = Crash(error=trials.crash.error, trace=outcome.trace, model=trials.crash.model)
    window = get_call_window(tried, call)
    if window is None or window.adaptive or not call.inputs:
        return True
    return min(window.output(call.inputs[0].shape[-len(window.kernel) :])) >= 1


def _sizes_for_the_rest(trials: Trials, least: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Larger sizes for which the first Linear fits as well, by arithmetic over the path that the least size gets."""
    outcome = trials.run([resize_input(least)])
    if outcome is None or outcome.works or outcome.trace.failure is None:
        return []
    crash = Crash(error=trials.crash.error, trace=outcome.trace, model=trials.crash.model)
    found = find_product(crash)
    if found is None:
        return []
    flattened = find_flattened_map(crash, found.x)
    steps = list_steps(crash, flattened) if flattened is not None else []
    for pixels in range(least[0], LARGEST_INPUT + 1) if flattened is not None and steps else ():
        if (
            flattened is not None
            and flattened.shape[1]
            * count_elements(apply_windows([s.window for s in steps], (pixels,) * len(least)))
            == found.wanted
        ):
            return [(pixels,) * len(least)]
    return []
