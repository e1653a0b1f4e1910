"""A convolution that was given other channels than it has weights for, another number of axes, or a map smaller than its kernel."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from cnnprobe.crash import branches, folding, growing, viewing
from cnnprobe.crash.adapting import (
    before_call,
    configured,
    is_root_input,
    reshaped_parameter,
    resized,
    with_tensor,
)
from cnnprobe.crash.bench import Bench
from cnnprobe.crash.case import Case, named, operation, quoted, size, tensor, values
from cnnprobe.crash.edits import AdaptOutput, Edit, Remove
from cnnprobe.crash.geometry import (
    LARGEST_INPUT,
    Window,
    axes_of,
    is_channels_first,
    steps_to,
    through,
    window_of_call,
)
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Candidate, Suspicion, candidate
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


def kernel_of(case: Case) -> Kernel | None:
    """The failing call as a convolution, if it is one."""
    call, layer = case.call, case.leaf
    if call is None or not call.inputs:
        return None
    x = tensor(call, 0, "input") or call.inputs[0]
    first = is_root_input(case, x)
    if isinstance(layer, nn.modules.conv._ConvNd):
        return Kernel(
            x=x,
            axes=axes_of(layer),
            wanted=layer.in_channels,
            module=call.fqn or "",
            is_layer=True,
            is_first=first,
        )
    name = operation(call)
    if not name.startswith("conv") or name[-1] != "d" or not name[-2].isdigit():
        return None
    weight = tensor(call, 1, "weight")
    if weight is None or len(weight.shape) < 3:
        return None
    groups = values(call, 6, "groups") or 1
    wanted = weight.shape[0] if "transpose" in name else weight.shape[1] * int(groups)
    owner = case.owner_of_parameter(weight.source) if isinstance(weight.source, str) else case.owner
    return Kernel(
        x=x, axes=int(name[-2]), wanted=wanted, module=owner, is_layer=False, is_first=first
    )


def suspect(case: Case, bench: Bench) -> Iterator[Suspicion]:
    """What may be wrong where a convolution was given the wrong thing."""
    found = kernel_of(case)
    if found is not None:
        dimensions = len(found.x.shape)
        if dimensions not in (found.batched, found.batched - 1):
            yield from _axes(case, found)
        elif found.x.shape[dimensions - found.axes - 1] != found.wanted:
            yield from _last(case, found)
            yield from _elsewhere(case, found)
            yield from _unbatched(case, found)
            yield from viewing.suspect_earlier_view(case, found.x, found.wanted)
            yield from growing.other_growth(case, found.x, found.wanted, found.module)
            yield from _channels(case, found)
            yield from branches.other_maker(
                case, found.x, found.wanted, module=found.module, diagnosis="channel-mismatch"
            )
    yield from _collapsed(case, bench)


def _axes(case: Case, found: Kernel) -> Iterator[Suspicion]:
    shape = found.x.shape
    candidates: list[Candidate] = []
    if len(shape) == found.axes and found.is_first:
        if found.wanted == 1:
            candidates.append(
                candidate(
                    with_tensor(case, found.x, lambda x: x[None, None], "{x}[None, None]"),
                    weight=STRONG,
                )
            )
        elif found.axes == 1:
            candidates.append(candidate(with_tensor(case, found.x, lambda x: x[None], "{x}[None]")))
    flattening = next(
        (
            c
            for _, c in case.lineage(found.x)
            if c.kind in ("Flatten", "torch.flatten", "torch.Tensor.flatten")
        ),
        None,
    )
    candidates += folding.left_as_it_was(case, found.x, channels=found.wanted, axes=found.axes)
    candidates += folding.unflattened(
        case, found.x, flattening, channels=found.wanted, axes=found.axes
    )
    if flattening is not None and flattening.fqn is not None:
        edit = Remove(
            title=f"take {quoted(flattening.fqn)} out, or put it after {quoted(found.module)}",
            module=flattening.fqn,
        )
        candidates.append(candidate(edit))
    if len(shape) == found.batched + 1:
        candidates += folding.folded(case, found.x, found.module, channels=found.wanted)
        if shape[1] == 1 or shape[0] == 1:
            axis = 0 if shape[0] == 1 else 1
            candidates.insert(
                0, candidate(before_call(case, lambda x: x.squeeze(axis), f"{{x}}.squeeze({axis})"))
            )
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=found.module,
        message=f"{named(case, found.module)} wants {found.batched} axes (batch, channels and {found.axes} more), and {shape} has {len(shape)}",
        arithmetic=f"{case.origin(found.x)} gives {shape}"
        + (f", flattened by {case.name_of(flattening)}" if flattening is not None else ""),
        candidates=tuple(candidates),
        weight=USUAL,
    )


def _last(case: Case, found: Kernel) -> Iterator[Suspicion]:
    """The channel axis is last, or elsewhere."""
    shape = found.x.shape
    if shape[-1] != found.wanted or is_channels_first(case, found.x):
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
        with_tensor(case, found.x, permuted, code)
        if case.is_input(found.x)
        else before_call(case, permuted, code)
    )
    candidates = [candidate(edit, weight=STRONG)]
    producer = case.producer(found.x)
    if producer is not None and producer.fqn is not None:
        title = f"use {code.format(x=quoted(producer.fqn) + '(...)')}"
        candidates.append(
            candidate(
                AdaptOutput(title=title, code=code, module=producer.fqn, function=permuted),
                weight=STRONG,
            )
        )
    yield Suspicion(
        diagnosis="nhwc-input",
        module=found.module,
        message=f"the channel axis is last: {named(case, found.module)} wants {found.wanted} channels on axis 1, and {shape} has them on the last",
        arithmetic=f"wanted (N, {found.wanted}, {', '.join('HWD'[: found.axes]) if found.axes > 1 else 'L'}), arrived {shape}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _elsewhere(case: Case, found: Kernel) -> Iterator[Suspicion]:
    """The channels stand on another axis of the model's own input: (N, T, C, H, W) where (N, C, T, H, W) is wanted."""
    shape = found.x.shape
    at = [i for i in range(2, len(shape) - 1) if shape[i] == found.wanted]
    if len(shape) != found.batched or len(at) != 1 or not case.is_input(found.x):
        return
    order = (0, at[0], *(i for i in range(1, len(shape)) if i != at[0]))
    code = "{x}.permute(" + ", ".join(map(str, order)) + ")"
    yield Suspicion(
        diagnosis="nhwc-input",
        module=found.module,
        message=f"the channel axis is axis {at[0]}: {named(case, found.module)} wants {found.wanted} channels on axis 1 of {shape}",
        arithmetic=f"wanted (N, {found.wanted}, ...), arrived {shape}",
        candidates=(
            candidate(with_tensor(case, found.x, lambda x: x.permute(order), code), weight=STRONG),
        ),
        weight=STRONG,
    )


def _unbatched(case: Case, found: Kernel) -> Iterator[Suspicion]:
    """(N, H, W) where (N, 1, H, W) was meant: torch takes the batch for the channels."""
    shape = found.x.shape
    if len(shape) != found.batched - 1 or found.wanted != 1:
        return
    edit = with_tensor(case, found.x, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
    if not case.is_input(found.x):
        edit = before_call(case, lambda x: x.unsqueeze(1), "{x}.unsqueeze(1)")
    yield Suspicion(
        diagnosis="channel-mismatch",
        module=found.module,
        message=f"the channel axis is missing: {shape} is taken for one sample of {shape[0]} channels, {named(case, found.module)} wants 1",
        arithmetic=f"(N, 1, ...) is wanted, {shape} arrived",
        candidates=(candidate(edit, weight=STRONG),),
        weight=STRONG,
    )


def _channels(case: Case, found: Kernel) -> Iterator[Suspicion]:
    shape = found.x.shape
    axis = len(shape) - found.axes - 1
    got = shape[axis]
    candidates = [*_input_channels(case, found, got, axis)] if found.is_first else []
    if found.is_layer:
        candidates.append(
            candidate(
                configured(case, found.module, **_with_channels(case, found, got)), weight=USUAL
            )
        )
        layer = case.modules[found.module]
        if layer.out_channels == got and layer.groups == 1:  # in and out were swapped
            candidates.append(
                candidate(
                    configured(case, found.module, in_channels=got, out_channels=found.wanted),
                    weight=USUAL,
                )
            )
    elif (edit := _other_weight(case, found, got)) is not None:
        candidates.append(candidate(edit, weight=USUAL))
    unread = (
        f"; {shape} is taken for one sample without a batch axis"
        if len(shape) < found.batched
        else ""
    )
    if unread and shape[1] == found.wanted and found.axes > 1:
        wide = before_call(case, lambda x: x.unsqueeze(2), "{x}.unsqueeze(2)")
        candidates.insert(0, candidate(wide, weight=STRONG))
    moved = [
        i for i, n in enumerate(shape) if n == found.wanted and i not in (axis, len(shape) - 1)
    ]
    if moved and not is_channels_first(case, found.x):
        at = moved[0]
        turned = before_call(
            case, lambda x: x.transpose(at, axis), f"{{x}}.transpose({at}, {axis})"
        )
        candidates.append(candidate(turned, weight=POSSIBLE))
    yield Suspicion(
        diagnosis="channel-mismatch",
        module=found.module,
        message=f"{named(case, found.module)} has weights for {found.wanted} channels, and {got} arrive from {case.origin(found.x)}{unread}",
        arithmetic=_counted(case, found, got),
        candidates=tuple(candidates),
        weight=USUAL,
    )


def _other_weight(case: Case, found: Kernel, got: int) -> Edit | None:
    """F.conv2d(x, self.weight): the parameter of another shape."""
    weight = tensor(case.call, 1, "weight") if case.call is not None else None
    if weight is None or found.wanted != weight.shape[1]:
        return None
    return reshaped_parameter(case, weight.source, (weight.shape[0], got, *weight.shape[2:]))


def _with_channels(case: Case, found: Kernel, got: int) -> dict[str, int]:
    layer = case.modules[found.module]
    groups = getattr(layer, "groups", 1)
    if groups > 1 and got % groups:
        changes = {"in_channels": got, "groups": got}
        return (
            {**changes, "out_channels": got} if getattr(layer, "out_channels", 0) % got else changes
        )
    return {"in_channels": got}


def _input_channels(case: Case, found: Kernel, got: int, axis: int) -> Iterator[Candidate]:
    """Grey into colour, colour into grey, an alpha channel too many."""
    if got == 1:
        sizes = [-1] * (axis + found.axes + 1)
        sizes[axis] = found.wanted
        code = "{x}.expand(" + ", ".join(map(str, sizes)) + ")"
        yield candidate(with_tensor(case, found.x, lambda x: x.expand(sizes), code), weight=USUAL)
    elif found.wanted == 1:
        yield candidate(
            with_tensor(
                case,
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
        yield candidate(
            with_tensor(case, found.x, lambda x: x.narrow(axis, 0, found.wanted), code),
            weight=USUAL,
        )


def _counted(case: Case, found: Kernel, got: int) -> str:
    producer = case.producer(found.x)
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


def _collapsed(case: Case, bench: Bench) -> Iterator[Suspicion]:
    call = case.call
    window = window_of_call(case, call) if call is not None else None
    if call is None or window is None or window.adaptive or not call.inputs:
        return
    n = len(window.kernel)
    sizes = call.inputs[0].shape[-n:]
    if len(call.inputs[0].shape) < n + 1:
        return
    if window.is_pool and any(p > k for p, k in zip(window.padding, window.kernel, strict=True)):
        yield _padding_too_wide(case, window)
    elif min(window.output(sizes)) < 1:
        yield _too_small(case, bench, window, sizes)


def _padding_too_wide(case: Case, window: Window) -> Suspicion:
    call = case.call
    fqn = call.fqn if call is not None else None
    half = window.kernel[0] // 2
    return Suspicion(
        diagnosis="shape-mismatch",
        module=fqn if fqn is not None else case.owner,
        message=f"the padding {window.padding[0] // 2} is more than half of the pooling's kernel {window.kernel[0]}",
        arithmetic=f"{window.padding[0] // 2} > {window.kernel[0]} / 2",
        candidates=(candidate(configured(case, fqn, padding=half), weight=STRONG),)
        if fqn is not None
        else (),
        weight=STRONG,
    )


def _too_small(case: Case, bench: Bench, window: Window, sizes: tuple[int, ...]) -> Suspicion:
    call = case.call
    fqn = call.fqn if call is not None and call.fqn is not None else None
    reach = tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
    least = _least_size(case, bench, len(sizes))
    legal = f"; the least legal input is {' x '.join(map(str, least))}" if least else ""
    candidates: list[Candidate] = []
    if least:
        # What is large enough already stays as it is: a clip of 8 x 64 x 64 may be too short, and is not too small.
        kept = tuple(map(max, least, case.root_inputs[0].shape[-len(sizes) :]))
        candidates.append(candidate(resized(kept), weight=STRONG))
        candidates += [candidate(resized(least), weight=USUAL)] if kept != least else []
        candidates += [
            candidate(resized(more), weight=USUAL) for more in _sizes_for_the_rest(bench, least)
        ]
    if fqn is not None and window.is_pool:
        candidates.append(
            candidate(
                Remove(title=f"take the pooling {quoted(fqn)} out", module=fqn), weight=POSSIBLE
            )
        )
    elif fqn is not None and all(k % 2 for k in window.kernel):
        candidates.append(
            candidate(
                configured(case, fqn, padding=tuple(k // 2 for k in window.kernel)), weight=POSSIBLE
            )
        )
    what = (
        named(case, fqn)
        if fqn is not None
        else case.name_of(call)
        if call is not None
        else "the call"
    )
    return Suspicion(
        diagnosis="spatial-collapse",
        module=fqn if fqn is not None else case.owner,
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


def _least_size(case: Case, bench: Bench, n: int) -> tuple[int, ...] | None:
    """The least input for which no window of the model is larger than its map: by arithmetic where the path is known, then by trial."""
    if not case.root_inputs or len(case.root_inputs[0].shape) < n + 1:
        return None
    given = case.root_inputs[0].shape[-n:]
    low = _by_arithmetic(case, given) or max(given) + 1
    high = low
    while high <= LARGEST_INPUT and (fits := _fits(bench, high, given)) is not None:
        if fits:
            break
        low, high = high + 1, high * 2
    else:
        return None
    while low < high and bench.left > 10:
        middle = (low + high) // 2
        if _fits(bench, middle, given):
            high = middle
        else:
            low = middle + 1
    return tuple(max(high, 1) for _ in given)


def _by_arithmetic(case: Case, given: tuple[int, ...]) -> int | None:
    call = case.call
    window = window_of_call(case, call) if call is not None else None
    if call is None or window is None:
        return None
    steps = steps_to(case, call.inputs[0])
    if steps and steps[0].before != given:
        return None
    chain = [*(step.window for step in steps), window]
    return next(
        (
            n
            for n in range(1, LARGEST_INPUT + 1)
            if n > min(given) and min(through(chain, (n,) * len(given))) >= 1
        ),
        None,
    )


def _fits(bench: Bench, pixels: int, given: tuple[int, ...]) -> bool | None:
    """Whether no window is too large for its map with an input of this size; None where that could not be tried."""
    outcome = bench.attempt([resized((pixels,) * len(given))])
    if outcome is None:
        return None
    failure = outcome.trace.failure
    if failure is None or failure.call is None:
        return failure is None
    call = outcome.trace.calls[failure.call]
    tried = Case(error=bench.case.error, trace=outcome.trace, model=bench.case.model)
    window = window_of_call(tried, call)
    if window is None or window.adaptive or not call.inputs:
        return True
    return min(window.output(call.inputs[0].shape[-len(window.kernel) :])) >= 1


def _sizes_for_the_rest(bench: Bench, least: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Larger sizes for which the first Linear fits as well, by arithmetic over the path that the least size gets."""
    from cnnprobe.crash import linear

    outcome = bench.attempt([resized(least)])
    if outcome is None or outcome.works or outcome.trace.failure is None:
        return []
    case = Case(error=bench.case.error, trace=outcome.trace, model=bench.case.model)
    found = linear.product_of(case)
    if found is None:
        return []
    flattened = linear._flattened_map(case, found)
    steps = steps_to(case, flattened) if flattened is not None else []
    for pixels in range(least[0], LARGEST_INPUT + 1) if flattened is not None and steps else ():
        if (
            flattened is not None
            and flattened.shape[1]
            * size(through([s.window for s in steps], (pixels,) * len(least)))
            == found.wanted
        ):
            return [(pixels,) * len(least)]
    return []
