"""Tensors that do not fit each other: at a concatenation, at an addition, at a matrix product, at a view."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe.crash import places
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import change_tensor, resize_input, spell_path
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.batches import correct_batches
from cnnprobe.crash.facts.branches import find_fork, refit_parts
from cnnprobe.crash.facts.channels import refit_channels
from cnnprobe.crash.facts.words import count_elements, operation, quote, shorten
from cnnprobe.crash.model_copy import ModelCopy
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.trace import ModuleCall, TensorInfo

_CATS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})
_SUMS = frozenset(
    {
        "add",
        "sub",
        "__add__",
        "__sub__",
        "__radd__",
        "__rsub__",
        "__iadd__",
        "__isub__",
        "add_",
        "sub_",
        "rsub",
        "subtract",
    }
)
_BROADCASTING = frozenset({
    *_SUMS, "mul", "div", "__mul__", "__truediv__", "__imul__", "__rmul__", "mul_", "div_", "true_divide", "multiply", "maximum", "minimum", "pow",
    "where", "lerp", "masked_fill", "masked_fill_", "addcmul", "__itruediv__", "__rtruediv__", "eq", "gt", "lt", "ge", "le", "atan2",
})  # fmt: skip
_PRODUCTS = frozenset({"matmul", "__matmul__", "__rmatmul__", "bmm", "mm", "baddbmm"})
_MULTIPLE = 32  # U-Nets halve a map up to five times


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where tensors are joined."""
    call = crash.call
    if call is None or call.fqn is not None:
        return
    name = operation(call)
    if name in _CATS:
        yield from _concatenation(crash, call)
    elif name in _BROADCASTING:
        yield from _broadcast(crash, call, name)
    elif name in _PRODUCTS:
        yield from _product(crash, call)


# -- concatenation -----------------------------------------------------------------------------------------------------------


def _concatenation(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    shapes = [t.shape for t in call.inputs]
    if len(shapes) < 2:
        return
    given = call.arguments.get("dim", call.arguments.get("[1]", call.arguments.get("axis", 0)))
    axes = len(shapes[0])
    dim = int(given) % axes if isinstance(given, int) and axes else 0
    differing = (
        []
        if len(set(map(len, shapes))) > 1
        else [i for i in range(axes) if i != dim and len({s[i] for s in shapes}) > 1]
    )
    if len(set(map(len, shapes))) == 1 and not differing:
        return
    message = f"{call.kind} along axis {dim} in {describe_module(crash, crash.owner)}: " + (
        f"the sizes differ on axis {' and '.join(map(str, differing))}"
        if differing
        else "the numbers of axes differ"
    )
    arithmetic = "; ".join(f"{t.shape} from {crash.describe_origin(t)}" for t in call.inputs[:6])
    mould = Suspect(
        diagnosis="cat-mismatch",
        module=crash.owner,
        message=message,
        arithmetic=arithmetic,
        weight=STRONG,
    )
    if not differing:
        yield replace(mould, candidates=tuple(_same_rank(crash, call)))
        return
    if min(differing) >= 2:
        yield from _refit_parts(crash, call.inputs, mould)
    candidates = [*other_input_sizes(crash, call.inputs), *_other_batch(crash, call, differing)]
    candidates += [
        *_other_dim(crash, call, shapes, dim),
        *_resized_parts(crash, call, shapes, differing),
    ]
    yield replace(mould, candidates=tuple(candidates))


def _other_batch(crash: Crash, call: ModuleCall, differing: list[int]) -> Iterator[Candidate]:
    """A part that was made for a batch of another size."""
    wrong = [t for t in call.inputs if t.shape[0] != crash.batch]
    if 0 not in differing or crash.batch is None or not wrong:
        return
    edits = correct_batches(crash, wrong, wrong[0].shape[0], crash.batch)
    if edits:
        yield propose(*edits, weight=STRONG)


def _on_part(
    crash: Crash,
    call: ModuleCall,
    part: TensorInfo,
    change: Callable[[Tensor], Tensor],
    *,
    title: str,
    code: str,
) -> Rewrite:
    """The concatenation with one of its tensors changed first; `title` is what is to be done with it."""
    at = call.inputs.index(part)

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = None if args else "tensors"
        parts = [
            change(t) if i == at else t
            for i, t in enumerate(args[0] if name is None else kwargs[name])
        ]
        return func(parts, *args[1:], **kwargs) if name is None else func(**{**kwargs, name: parts})

    return Rewrite(
        title=title,
        code=code,
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
        respell=code,
        element=at,
    )


def _same_rank(crash: Crash, call: ModuleCall) -> Iterator[Candidate]:
    least = min(len(t.shape) for t in call.inputs)
    edits = []
    for odd in (t for t in call.inputs if len(t.shape) > least):
        code = f"torch.flatten({{x}}, {least - 1})"
        title = f"flatten what comes from {crash.describe_origin(odd)} first: {code.format(x='x')}"
        edits.append(
            _on_part(crash, call, odd, lambda t: t.flatten(least - 1), title=title, code=code)
        )
    yield propose(*edits)


def _other_dim(
    crash: Crash, call: ModuleCall, shapes: list[tuple[int, ...]], dim: int
) -> Iterator[Candidate]:
    uneven = [i for i in range(len(shapes[0])) if len({s[i] for s in shapes}) > 1]
    if len(uneven) != 1 or uneven[0] == dim:
        return
    axis = uneven[0]

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args[:1], **{**kwargs, "dim": axis})

    edit = Rewrite(
        title=f"concatenate along dim={axis}",
        code=f"dim={axis}",
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
        keyword=("dim", axis, 1),
    )
    yield propose(edit, weight=STRONG)


def _resized_parts(
    crash: Crash, call: ModuleCall, shapes: list[tuple[int, ...]], differing: list[int]
) -> Iterator[Candidate]:
    """Every other part in the size of the one that was made first: in a U-Net the skip, which has lost the least."""
    if len(shapes[0]) < 3 or min(differing) < 2:
        return
    pixels = crash.root_inputs[0].shape[2:] if crash.root_inputs else ()
    if len(pixels) == len(shapes[0]) - 2 and any(n % _MULTIPLE for n in pixels):
        for multiple in (8, 16, 32):
            fitting = tuple(math.ceil(n / multiple) * multiple for n in pixels)
            if fitting != pixels:
                yield propose(resize_input(fitting), weight=POSSIBLE)
                break
    first = min(call.inputs, key=lambda t: t.source if isinstance(t.source, int) else -1)
    target = first.shape[2:]
    odd = [t for t in call.inputs if t.shape[2:] != target]
    yield propose(*(_interpolated(crash, call, t, target) for t in odd))
    if all(m >= n for t in odd for m, n in zip(t.shape[2:], target, strict=True)):
        yield propose(*(_cropped(crash, call, t, target) for t in odd))
    elif len(odd) == 1:
        least = tuple(
            min(s[i] for s in (t.shape[2:] for t in call.inputs)) for i in range(len(target))
        )
        larger = [t for t in call.inputs if t.shape[2:] != least]
        yield propose(*(_cropped(crash, call, t, least) for t in larger), weight=POSSIBLE)


def _interpolated(
    crash: Crash, call: ModuleCall, part: TensorInfo, sizes: tuple[int, ...]
) -> Rewrite:
    code = f"F.interpolate({{x}}, size={sizes})"
    title = f"bring what comes from {crash.describe_origin(part)} to {sizes}: {code.format(x='x')}"
    return _on_part(
        crash,
        call,
        part,
        lambda t: F.interpolate(t.float(), size=sizes).to(t.dtype),
        title=title,
        code=code,
    )


def _cropped(crash: Crash, call: ModuleCall, part: TensorInfo, sizes: tuple[int, ...]) -> Rewrite:
    code = "{x}[..., " + ", ".join(f":{n}" for n in sizes) + "]"
    title = f"crop what comes from {crash.describe_origin(part)} to {sizes}: {code.format(x='x')}"
    return _on_part(crash, call, part, lambda t: _first(t, sizes), title=title, code=code)


def _first(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The first elements of the last axes."""
    for axis, n in enumerate(sizes):
        x = x.narrow(axis - len(sizes), 0, n)
    return x


def other_input_sizes(crash: Crash, parts: Sequence[TensorInfo]) -> Iterator[Candidate]:
    """Parts that come from different inputs of the model through the same layers: the inputs differ in size, and one is to be as the other."""
    roots = [
        root for t in parts if (root := crash.find_root(t)) is not None and len(root.shape) > 1
    ]
    first = roots[0] if roots else None
    for root in roots[1:]:
        if (
            first is None
            or root.path == first.path
            or len(root.shape) != len(first.shape)
            or root.shape == first.shape
        ):
            continue
        for one, like in ((root, first), (first, root)):
            shape = like.shape
            title = f"give {spell_path(crash, one.path)!r} the size of {spell_path(crash, like.path)!r}: {shape} instead of {one.shape}"
            edit = change_tensor(
                crash,
                one,
                lambda x, shape=shape: x.new_zeros(shape),  # type: ignore[misc]
                "{x}",
                title=title,
            )
            yield propose(edit, weight=STRONG if one is root else USUAL)
        return


# -- addition and other broadcasting ---------------------------------------------------------------------------------------------


def _broadcast(crash: Crash, call: ModuleCall, name: str) -> Iterator[Suspect]:
    pair = [t for t in call.inputs if t.shape][:2]
    if len(pair) < 2 or _fits(pair[0].shape, pair[1].shape):
        return
    a, b = pair
    owned = next((t for t in pair if isinstance(t.source, str)), None)
    if owned is not None:
        yield from places.parameter_mismatch(crash, call, owned, a if owned is b else b)
        return
    residual = len(a.shape) == len(b.shape) >= 2 and name in _SUMS
    shortcut, branch = sorted(pair, key=lambda t: _layers_inside(crash, t))
    message = f"{call.kind.rpartition('.')[2]} in {describe_module(crash, crash.owner)}: {shortcut.shape} and {branch.shape} do not fit each other"
    arithmetic = f"{shortcut.shape} from {crash.describe_origin(shortcut)}; {branch.shape} from {crash.describe_origin(branch)}"
    candidates: list[Candidate] = list(other_input_sizes(crash, (a, b)))
    if residual:
        mould = Suspect(
            diagnosis="residual-mismatch", module="", message=message, arithmetic=arithmetic
        )
        yield from _refit_parts(crash, (shortcut, branch), mould)
        yield from _refit_channels(crash, shortcut, branch, mould)
        candidates += _projections(crash, call, shortcut, branch)
        candidates += _resized_operand(crash, call, shortcut, branch)
    elif len(a.shape) != len(b.shape):
        candidates += _more_axes(crash, call, a, b)
    yield Suspect(
        diagnosis="residual-mismatch" if residual else "shape-mismatch",
        module=crash.owner,
        message=message,
        arithmetic=arithmetic,
        candidates=tuple(candidates),
        weight=STRONG if residual else USUAL,
    )


def _layers_inside(crash: Crash, info: TensorInfo) -> tuple[int, int]:
    """How many layers with weights a tensor has passed since the module was entered that joins it: the shortcut has passed fewer."""
    call = crash.call
    start = call.parent if call is not None and call.parent is not None else -1
    rows = [(i, c) for i, c in crash.walk_back(info) if i > start]
    weighted = [
        i
        for i, c in rows
        if c.fqn is not None and (m := crash.modules.get(c.fqn)) is not None and m._parameters
    ]
    return len(weighted), info.source if isinstance(info.source, int) else -1


def _fits(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1], strict=False))


@dataclass(frozen=True, kw_only=True)
class Project(Edit):
    """Pass the shortcut through a convolution (or Linear) of its own, which becomes a layer of the module."""

    kind: str
    source: str
    layer: Callable[[], nn.Module]
    shortcut: tuple[int, ...]
    branch: tuple[int, ...]

    def apply(self, shadow: ModelCopy) -> None:
        """See Edit."""
        owner = shadow.module(self.module or "")
        layers: dict[str, nn.Module] = {}

        def rewritten(
            func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> Any:
            if [tuple(a.shape) for a in args[:2] if isinstance(a, Tensor)] not in (
                [self.shortcut, self.branch],
                [self.branch, self.shortcut],
            ):
                return func(*args, **kwargs)
            return func(
                *(
                    layers["new"](a)
                    if isinstance(a, Tensor) and tuple(a.shape) == self.shortcut
                    else a
                    for a in args
                ),
                **kwargs,
            )

        name = next(
            name for name in _names("projection") if name not in owner._modules
        )  # a block may need two
        layers["new"] = owner._modules[name] = self.layer()
        entry = (self.kind, self.source, rewritten)
        shadow.rewrites.append(entry)
        shadow.undo.append(lambda: shadow.rewrites.remove(entry))
        shadow.undo.append(lambda: owner._modules.__delitem__(name))


def _names(stem: str) -> Iterator[str]:
    yield stem
    yield from (f"{stem}{i}" for i in itertools.count(2))


def _projections(
    crash: Crash, call: ModuleCall, shortcut: TensorInfo, branch: TensorInfo
) -> Iterator[Candidate]:
    a, b = shortcut.shape, branch.shape
    if a[0] != b[0]:
        return
    if len(a) == 2:
        code, layer = f"nn.Linear({a[1]}, {b[1]})", lambda: nn.Linear(a[1], b[1])
    elif len(a) in (3, 4, 5) and all(m >= n > 0 for m, n in zip(a[2:], b[2:], strict=True)):
        kind: Any = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}[len(a)]
        strides = tuple(math.ceil(m / n) for m, n in zip(a[2:], b[2:], strict=True))
        stride = strides[0] if len(set(strides)) == 1 else strides
        code = f"nn.{kind.__name__}({a[1]}, {b[1]}, kernel_size=1" + (
            f", stride={stride})" if stride != 1 else ")"
        )
        layer = lambda: kind(a[1], b[1], 1, stride=stride)  # noqa: E731
    else:
        return
    yield propose(
        Project(
            title=f"pass the shortcut through a downsample layer of its own in {quote(crash.owner)}: {code}",
            code=code,
            module=crash.owner,
            kind=call.kind,
            source=call.source,
            layer=layer,
            shortcut=a,
            branch=b,
        ),
        weight=USUAL,
    )


def _resized_operand(
    crash: Crash, call: ModuleCall, a: TensorInfo, b: TensorInfo
) -> Iterator[Candidate]:
    """Maps of two resolutions that are added, as in the gate of an attention U-Net: one of them in the size of the other, the larger first."""
    if len(a.shape) < 3 or a.shape[:2] != b.shape[:2] or len(call.inputs) != 2:
        return
    if not min(
        _layers_inside(crash, t)[0] for t in (a, b)
    ):  # a shortcut: the branch is to keep the size
        return
    for part, like in sorted(
        ((a, b), (b, a)),
        key=lambda pair: (not _is_enlarged(crash, pair[0]), count_elements(pair[0].shape)),
    ):
        yield propose(_interpolated_operand(crash, call, part, like.shape[2:]), weight=USUAL)


def _is_enlarged(crash: Crash, info: TensorInfo) -> bool:
    """Whether a map comes from an interpolation, whose size is free."""
    call = crash.find_producer(info)
    return call is not None and (
        operation(call) == "interpolate"
        or isinstance(crash.modules.get(call.fqn or ""), nn.Upsample)
    )


def _interpolated_operand(
    crash: Crash, call: ModuleCall, part: TensorInfo, sizes: tuple[int, ...]
) -> Rewrite:
    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = (
            F.interpolate(x, size=sizes)
            if isinstance(x, Tensor) and tuple(x.shape) == part.shape
            else x
            for x in args
        )
        return func(*given, **kwargs)

    code = f"F.interpolate({{x}}, size={sizes})"
    title = f"bring what comes from {crash.describe_origin(part)} to {sizes}: {code.format(x='x')}"
    return Rewrite(
        title=title,
        code=code,
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
    )


def _more_axes(crash: Crash, call: ModuleCall, a: TensorInfo, b: TensorInfo) -> Iterator[Candidate]:
    """(N, C) against (N, C, H, W): the missing axes belong at the end."""
    large, small = (a, b) if len(a.shape) > len(b.shape) else (b, a)
    missing = len(large.shape) - len(small.shape)
    if large.shape[: len(small.shape)] != small.shape and not _fits(
        large.shape[: len(small.shape)], small.shape
    ):
        return
    code = "{x}[..., " + ", ".join(["None"] * missing) + "]"

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        widened = (
            x[(..., *[None] * missing)]
            if isinstance(x, Tensor) and x.dim() == len(small.shape)
            else x
            for x in args
        )
        return func(*widened, **kwargs)

    title = f"give what comes from {crash.describe_origin(small)} its missing axes: {code.format(x='x')}"
    yield propose(
        Rewrite(
            title=title,
            code=code,
            module=crash.owner,
            kind=call.kind,
            source=call.source,
            function=rewritten,
        )
    )


# -- products ----------------------------------------------------------------------------------------------------------------


def _product(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    if len(call.inputs) < 2:
        return
    a, b = call.inputs[0].shape, call.inputs[1].shape
    if len(a) < 2 or len(b) < 2 or a[-1] == b[-2] or isinstance(call.inputs[1].source, str):
        return
    candidates: list[Candidate] = []
    for position, fits, name in ((1, b[-1] == a[-1], "second"), (0, a[-2] == b[-2], "first")):
        if fits:
            candidates.append(propose(_transposed(crash, call, position, name)))
    yield Suspect(
        diagnosis="shape-mismatch",
        module=crash.owner,
        message=f"{call.kind} in {describe_module(crash, crash.owner)}: the last axis of {a} and the last but one of {b} differ",
        arithmetic=f"{a[-1]} against {b[-2]}; from {crash.describe_origin(call.inputs[0])} and {crash.describe_origin(call.inputs[1])}",
        candidates=tuple(candidates),
        weight=USUAL,
    )


def _transposed(crash: Crash, call: ModuleCall, position: int, name: str) -> Rewrite:
    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[0].shape[-1] == args[1].shape[-2]:  # another product on the same line
            return func(*args, **kwargs)
        return func(
            *(x.transpose(-2, -1) if i == position else x for i, x in enumerate(args)), **kwargs
        )

    return Rewrite(
        title=f"transpose the {name} factor at {shorten(call.source)}: x.transpose(-2, -1)",
        code="{x}.transpose(-2, -1)",
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
    )


# -- branches --------------------------------------------------------------------------------------


def _refit_parts(crash: Crash, parts: Sequence[TensorInfo], mould: Suspect) -> Iterator[Suspect]:
    """One suspicion for each layer that alone makes the sizes of the parts differ."""
    for one in refit_parts(crash, parts):
        yield replace(
            mould,
            module=one.fqn,
            message=f"{mould.message}; with {one.text} in {describe_module(crash, one.fqn)} they would",
            candidates=(propose(one.to_edit(crash), weight=one.weight),),
            weight=one.weight,
        )


def _refit_channels(
    crash: Crash, shortcut: TensorInfo, branch: TensorInfo, mould: Suspect
) -> Iterator[Suspect]:
    """The last layer of a branch that could give as many channels as the other has, with the normalisation after it."""
    if shortcut.shape[1:2] == branch.shape[1:2] or shortcut.shape[2:] != branch.shape[2:]:
        return
    fork = find_fork(crash, (shortcut, branch))
    later = _written_for(crash, (shortcut.shape[1], branch.shape[1]))
    for info, wanted, usual in (
        (shortcut, branch.shape[1], STRONG),
        (branch, shortcut.shape[1], POSSIBLE),
    ):
        weight = usual if later is None else STRONG if later == wanted else POSSIBLE
        edits = refit_channels(crash, info, wanted, fork=fork)
        if edits:
            yield replace(
                mould,
                module=edits[0].module,
                message=f"{mould.message}; with {edits[0].code} in {describe_module(crash, edits[0].module or '')} they would",
                candidates=(propose(*edits, weight=weight),),
                weight=weight,
            )


def _written_for(crash: Crash, counts: tuple[int, int]) -> int | None:
    """Which of two numbers of channels the first layer after a block was written for; None where it was for neither, or the block is the model."""
    names = list(crash.modules)
    inside = (
        [i for i, name in enumerate(names) if name.startswith(f"{crash.owner}.")]
        if crash.owner
        else []
    )
    for name in names[inside[-1] + 1 :] if inside else ():
        for setting in ("in_channels", "in_features", "num_features"):
            count = getattr(crash.modules[name], setting, None)
            if isinstance(count, int):
                return count if count in counts else None
    return None
