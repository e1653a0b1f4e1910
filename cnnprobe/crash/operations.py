"""Functions that ask something of their arguments: the sizes of a split, the letters of an einsum, the axes of an interpolation."""

import string
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import adapt_call, change_tensor, configure, reshape_parameter
from cnnprobe.crash.edits.calls import Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.facts.words import (
    count_elements,
    get_argument,
    operation,
    quote,
    shorten,
    write_product,
)
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.recorder.functions import is_writing
from cnnprobe.trace import ModuleCall, TensorInfo

# How many axes an input has for each mode. Source: the documentation of torch.nn.functional.interpolate.
_MODES = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
_MODE_FOR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where one of these functions, or a layer like it, was given the wrong thing."""
    call = crash.call
    if call is None or not call.inputs:
        return
    name = operation(call)
    if name in ("split", "split_with_sizes"):
        yield from _split(crash, call)
    elif name == "einsum":
        yield from _einsum(crash, call)
    elif name == "interpolate" or isinstance(crash.leaf, nn.Upsample):
        yield from _interpolate(crash, call)
    elif isinstance(crash.leaf, nn.Unflatten):
        yield from _unflatten(crash, crash.leaf, call.inputs[0])
    elif call.fqn is None and is_writing(name, dict(call.arguments)):
        yield from _written_leaf(crash, call)


# -- split -------------------------------------------------------------------------------------------------------------------


def _split(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    x, sizes = (
        call.inputs[0],
        get_argument(call, 1, "split_size_or_sections") or get_argument(call, 1, "split_size"),
    )
    dim = get_argument(call, 2, "dim") or 0
    if (
        not isinstance(sizes, tuple)
        or not all(isinstance(n, int) for n in sizes)
        or not isinstance(dim, int)
    ):
        return
    if not -len(x.shape) <= dim < len(x.shape) or sum(sizes) == x.shape[dim]:
        return
    dim %= len(x.shape)
    yield Suspect(
        diagnosis="shape-mismatch",
        module=crash.owner,
        message=f"{call.kind} in {describe_module(crash, crash.owner)}: the sizes {sizes} add up to {sum(sizes)}, and axis {dim} of {x.shape} has {x.shape[dim]}",
        arithmetic=f"{' + '.join(map(str, sizes))} = {sum(sizes)}; {x.shape} from {crash.describe_origin(x)}",
        candidates=(
            *_produced(crash, x, dim, sum(sizes)),
            *_other_sizes(crash, call, x.shape[dim], len(sizes)),
        ),
        weight=STRONG,
    )


def _produced(crash: Crash, x: TensorInfo, dim: int, wanted: int) -> Iterator[Candidate]:
    """The layer that makes the axis, with another number of outputs."""
    for _, call in crash.walk_back(x):
        layer = crash.modules.get(call.fqn) if call.fqn is not None else None
        if isinstance(layer, nn.Linear) and dim == len(x.shape) - 1:
            yield propose(configure(crash, call.fqn or "", out_features=wanted), weight=USUAL)
        elif isinstance(layer, nn.modules.conv._ConvNd) and dim == 1:
            yield propose(configure(crash, call.fqn or "", out_channels=wanted), weight=USUAL)
        if call.fqn is not None:
            return


def _other_sizes(crash: Crash, call: ModuleCall, have: int, parts: int) -> Iterator[Candidate]:
    if have % parts:
        return
    sizes = [have // parts] * parts

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(
            args[0],
            sizes,
            *args[2:],
            **{k: v for k, v in kwargs.items() if not k.startswith("split_size")},
        )

    title = f"split into {sizes} at {shorten(call.source)}"
    edit = Rewrite(
        title=title,
        code=str(sizes),
        module=crash.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
    )
    yield propose(edit, weight=POSSIBLE)


# -- einsum ------------------------------------------------------------------------------------------------------------------


def _einsum(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    equation = get_argument(call, 0, "equation")
    if not isinstance(equation, str):
        return
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(call.inputs) or any("." in term for term in terms):
        return
    sizes: dict[str, tuple[int, TensorInfo]] = {}
    for term, info in zip(terms, call.inputs, strict=True):
        if len(term) != len(info.shape):
            yield _einsum_axes(crash, call, equation, term, info)
            return
        for axis, letter in enumerate(term):
            n, first = sizes.setdefault(letter, (info.shape[axis], info))
            if n == 1:
                sizes[letter] = (info.shape[axis], info)
            elif info.shape[axis] not in (1, n):
                yield _einsum_sizes(
                    crash,
                    call,
                    equation,
                    letter=letter,
                    pair=((n, first), (info.shape[axis], info)),
                    terms=terms,
                )
                return


def _einsum_axes(
    crash: Crash, call: ModuleCall, equation: str, term: str, info: TensorInfo
) -> Suspect:
    return Suspect(
        diagnosis="shape-mismatch",
        module=crash.owner,
        message=f"einsum '{equation}' in {describe_module(crash, crash.owner)} names {len(term)} axes '{term}', and {info.shape} has {len(info.shape)}",
        arithmetic=f"{info.shape} from {crash.describe_origin(info)}",
        candidates=tuple(_letters(crash, call, equation, term, info)),
        weight=STRONG,
    )


def _letters(
    crash: Crash, call: ModuleCall, equation: str, term: str, info: TensorInfo
) -> Iterator[Candidate]:
    """A map that is to be flattened first, or one batch axis more in every term and in the result, where the tensor has one more than the equation names."""
    yield from _flattened_operand(crash, call, equation, term, info)
    free = next(letter for letter in string.ascii_lowercase if letter not in equation)
    left, arrow, right = equation.replace(" ", "").partition("->")
    if len(info.shape) != len(term) + 1 or not arrow:
        return
    new = (
        ",".join(
            free + t if len(i.shape) == len(t) + 1 else t
            for t, i in zip(left.split(","), call.inputs, strict=True)
        )
        + "->"
        + free
        + right
    )

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(new, *args[1:], **kwargs)

    title = f"write '{new}' instead of '{equation}' at {shorten(call.source)}"
    yield propose(
        Rewrite(
            title=title,
            code=repr(new),
            module=crash.owner,
            kind=call.kind,
            source=call.source,
            function=rewritten,
        )
    )


def _flattened_operand(
    crash: Crash, call: ModuleCall, equation: str, term: str, info: TensorInfo
) -> Iterator[Candidate]:
    """Its last axes as the one axis that the equation names, where another operand has that axis in this size."""
    terms, last = equation.replace(" ", "").partition("->")[0].split(","), len(term) - 1
    others = zip(terms, call.inputs, strict=True)
    known = {
        (letter, n)
        for t, i in others
        if len(t) == len(i.shape)
        for letter, n in zip(t, i.shape, strict=True)
    }
    if (
        last < 1
        or len(info.shape) <= len(term)
        or (term[last], count_elements(info.shape[last:])) not in known
    ):
        return
    code = f"{{x}}.flatten({last})"

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(
            *(
                a.flatten(last) if isinstance(a, Tensor) and tuple(a.shape) == info.shape else a
                for a in args
            ),
            **kwargs,
        )

    title = f"flatten what comes from {crash.describe_origin(info)} first: {code.format(x='x')}"
    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    yield propose(Rewrite(title=title, code=code, function=rewritten, **where), weight=STRONG)


def _einsum_sizes(
    crash: Crash,
    call: ModuleCall,
    equation: str,
    *,
    letter: str,
    pair: tuple[tuple[int, TensorInfo], tuple[int, TensorInfo]],
    terms: list[str],
) -> Suspect:
    (m, a), (n, b) = pair
    candidates: list[Candidate] = []
    owned = next(
        ((i, t) for i, t in enumerate(call.inputs) if t in (a, b) and isinstance(t.source, str)),
        None,
    )
    module = crash.owner
    if owned is not None:
        at, info = owned
        wanted = tuple(
            (m if info is b else n) if c == letter else k
            for c, k in zip(terms[at], info.shape, strict=True)
        )
        edit = reshape_parameter(crash, info.source, wanted)
        candidates = [propose(edit)] if edit is not None else []
        module = crash.owner_of_parameter(str(info.source))
    return Suspect(
        diagnosis="shape-mismatch",
        module=module,
        message=f"einsum '{equation}' in {describe_module(crash, crash.owner)}: '{letter}' is {m} in {a.shape} and {n} in {b.shape}",
        arithmetic=f"{a.shape} from {crash.describe_origin(a)}; {b.shape} from {crash.describe_origin(b)}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


# -- interpolation -------------------------------------------------------------------------------------------------------------


def _interpolate(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    x = call.inputs[0]
    yield from _interpolated_sizes(crash, call, x)
    mode = (
        getattr(crash.leaf, "mode", None)
        if call.fqn is not None
        else get_argument(call, 4, "mode") or "nearest"
    )
    wanted = _MODES.get(str(mode))
    if wanted is None or len(x.shape) == wanted:
        return
    place = call.fqn if call.fqn is not None else crash.owner
    candidates: list[Candidate] = []
    if (
        len(x.shape) == wanted - 1
        and crash.find_root(x) is not None
        and len(crash.root_inputs[0].shape) == wanted - 1
    ):
        candidates.append(
            propose(
                change_tensor(
                    crash,
                    x,
                    lambda t: t[None],
                    "{x}[None]",
                    title="add the batch axis: x.unsqueeze(0)",
                ),
                weight=STRONG,
            )
        )
    other = _MODE_FOR.get(len(x.shape))
    if other is not None:
        candidates.append(propose(_other_mode(crash, call, other), weight=USUAL))
    if len(x.shape) == wanted - 1:
        edit = adapt_call(crash, lambda t: t.unsqueeze(1), "{x}.unsqueeze(1)")
        candidates.append(propose(edit, weight=POSSIBLE))
    yield Suspect(
        diagnosis="shape-mismatch",
        module=place,
        message=f"mode '{mode}' of {crash.describe_call(call)} is for {wanted} axes, and {x.shape} has {len(x.shape)}"
        + (f": '{other}' is for {len(x.shape)}" if other is not None else ""),
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _interpolated_sizes(crash: Crash, call: ModuleCall, x: TensorInfo) -> Iterator[Suspect]:
    """A size for more axes than there are to be resized: `size=x.shape`, which counts the batch and the channels too."""
    sizes, spatial = get_argument(call, 1, "size"), len(x.shape) - 2
    if call.fqn is not None or not isinstance(sizes, tuple) or spatial < 1 or len(sizes) == spatial:
        return

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {"size": args[1]} if len(args) > 1 else {}
        return func(args[0], *args[2:], **{**kwargs, **given, "size": sizes[-spatial:]})

    title = f"give it {spatial} sizes at {shorten(call.source)}: size=x.shape[-{spatial}:]"
    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    edit = Rewrite(title=title, code=f"size=x.shape[-{spatial}:]", function=rewritten, **where)
    yield Suspect(
        diagnosis="shape-mismatch",
        module=crash.owner,
        message=f"{crash.describe_call(call)} resizes the {spatial} axes after batch and channels, and was given {len(sizes)} sizes: {sizes}",
        arithmetic=f"{x.shape} from {crash.describe_origin(x)}",
        candidates=(propose(edit, weight=STRONG),) if len(sizes) > spatial else (),
        weight=STRONG,
    )


def _other_mode(crash: Crash, call: ModuleCall, mode: str) -> Edit:
    if call.fqn is not None:
        return configure(crash, call.fqn, mode=mode)

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named_mode = {name: value for name, value in kwargs.items() if name != "mode"}
        return func(*args[:3], **named_mode, mode=mode)

    title = f"use mode='{mode}' at {shorten(call.source)}"
    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    return Rewrite(
        title=title, code=f"mode='{mode}'", function=rewritten, keyword=("mode", mode, 3), **where
    )


# -- unflatten ---------------------------------------------------------------------------------------------------------------


def _unflatten(crash: Crash, layer: nn.Unflatten, x: TensorInfo) -> Iterator[Suspect]:
    sizes, dim = layer.unflattened_size, layer.dim
    if (
        not isinstance(dim, int)
        or not all(isinstance(n, int) for n in sizes)
        or not -len(x.shape) <= dim < len(x.shape)
    ):
        return
    plain = tuple(int(n) for n in sizes)
    wanted, got = count_elements(plain), x.shape[dim]
    if -1 in plain or wanted == got:
        return
    fqn = crash.call.fqn or "" if crash.call is not None else ""
    candidates = [*_produced(crash, x, dim % len(x.shape), wanted)]
    if len(plain) > 1 and got % count_elements(plain[1:]) == 0:
        candidates.append(
            propose(
                configure(
                    crash, fqn, unflattened_size=(got // count_elements(plain[1:]), *plain[1:])
                ),
                weight=POSSIBLE,
            )
        )
    yield Suspect(
        diagnosis="shape-mismatch",
        module=fqn,
        message=f"{describe_module(crash, fqn)} wants {write_product(plain)} elements on axis {dim}, and {x.shape} from {crash.describe_origin(x)} has {got}",
        arithmetic=f"{write_product(plain)} against {got}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


# -- writing to a leaf -----------------------------------------------------------------------------------------------------------


def _written_leaf(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    """A parameter, or an input that requires a gradient, that is written to in place while a graph is recorded."""
    target = call.inputs[0]
    if (
        not target.requires_grad
        or not (isinstance(target.source, str) or crash.is_input(target))
        or not torch.is_grad_enabled()
    ):
        return
    what = (
        f"the parameter '{target.source}'"
        if isinstance(target.source, str)
        else "the input, which requires a gradient,"
    )

    def without_graph(
        func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        with torch.no_grad():
            return func(*args, **kwargs)

    def on_a_copy(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(
            args[0].clone() if isinstance(args[0], Tensor) else args[0], *args[1:], **kwargs
        )

    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    quiet = Rewrite(
        title=f"put 'with torch.no_grad():' around {shorten(call.source)}",
        code="with torch.no_grad():",
        function=without_graph,
        **where,
    )
    copy = Rewrite(
        title=f"compute a new tensor at {shorten(call.source)} instead of writing in place",
        code="x.clone()",
        function=on_a_copy,
        **where,
    )
    yield Suspect(
        diagnosis="inplace-autograd",
        module=crash.owner_of_parameter(target.source)
        if isinstance(target.source, str)
        else crash.owner,
        message=f"{crash.describe_call(call)} writes in place to {what} while autograd is recording: a leaf of the graph cannot change",
        arithmetic=f"{quote(str(target.source)) if isinstance(target.source, str) else 'x'} {target.shape} requires_grad=True",
        candidates=(propose(quiet, weight=STRONG), propose(copy, weight=USUAL)),
        weight=STRONG,
    )
