"""Functions that ask something of their arguments: the sizes of a split, the letters of an einsum, the axes of an interpolation."""

import string
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.crash.adapting import before_call, configured, reshaped_parameter, with_tensor
from cnnprobe.crash.case import Case, named, operation, product, quoted, short, size, values
from cnnprobe.crash.edits import Edit, Rewrite
from cnnprobe.crash.suspicion import POSSIBLE, STRONG, USUAL, Candidate, Suspicion, candidate
from cnnprobe.recorder.functions import is_writing
from cnnprobe.trace import ModuleCall, TensorInfo

# How many axes an input has for each mode. Source: the documentation of torch.nn.functional.interpolate.
_MODES = {"linear": 3, "bilinear": 4, "bicubic": 4, "trilinear": 5}
_MODE_FOR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong where one of these functions, or a layer like it, was given the wrong thing."""
    call = case.call
    if call is None or not call.inputs:
        return
    name = operation(call)
    if name in ("split", "split_with_sizes"):
        yield from _split(case, call)
    elif name == "einsum":
        yield from _einsum(case, call)
    elif name == "interpolate" or isinstance(case.leaf, nn.Upsample):
        yield from _interpolate(case, call)
    elif isinstance(case.leaf, nn.Unflatten):
        yield from _unflatten(case, case.leaf, call.inputs[0])
    elif call.fqn is None and is_writing(name, dict(call.arguments)):
        yield from _written_leaf(case, call)


# -- split -------------------------------------------------------------------------------------------------------------------


def _split(case: Case, call: ModuleCall) -> Iterator[Suspicion]:
    x, sizes = (
        call.inputs[0],
        values(call, 1, "split_size_or_sections") or values(call, 1, "split_size"),
    )
    dim = values(call, 2, "dim") or 0
    if (
        not isinstance(sizes, tuple)
        or not all(isinstance(n, int) for n in sizes)
        or not isinstance(dim, int)
    ):
        return
    if not -len(x.shape) <= dim < len(x.shape) or sum(sizes) == x.shape[dim]:
        return
    dim %= len(x.shape)
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=case.owner,
        message=f"{call.kind} in {named(case, case.owner)}: the sizes {sizes} add up to {sum(sizes)}, and axis {dim} of {x.shape} has {x.shape[dim]}",
        arithmetic=f"{' + '.join(map(str, sizes))} = {sum(sizes)}; {x.shape} from {case.origin(x)}",
        candidates=(
            *_produced(case, x, dim, sum(sizes)),
            *_other_sizes(case, call, x.shape[dim], len(sizes)),
        ),
        weight=STRONG,
    )


def _produced(case: Case, x: TensorInfo, dim: int, wanted: int) -> Iterator[Candidate]:
    """The layer that makes the axis, with another number of outputs."""
    for _, call in case.lineage(x):
        layer = case.modules.get(call.fqn) if call.fqn is not None else None
        if isinstance(layer, nn.Linear) and dim == len(x.shape) - 1:
            yield candidate(configured(case, call.fqn or "", out_features=wanted), weight=USUAL)
        elif isinstance(layer, nn.modules.conv._ConvNd) and dim == 1:
            yield candidate(configured(case, call.fqn or "", out_channels=wanted), weight=USUAL)
        if call.fqn is not None:
            return


def _other_sizes(case: Case, call: ModuleCall, have: int, parts: int) -> Iterator[Candidate]:
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

    title = f"split into {sizes} at {short(call.source)}"
    edit = Rewrite(
        title=title,
        code=str(sizes),
        module=case.owner,
        kind=call.kind,
        source=call.source,
        function=rewritten,
    )
    yield candidate(edit, weight=POSSIBLE)


# -- einsum ------------------------------------------------------------------------------------------------------------------


def _einsum(case: Case, call: ModuleCall) -> Iterator[Suspicion]:
    equation = values(call, 0, "equation")
    if not isinstance(equation, str):
        return
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    if len(terms) != len(call.inputs) or any("." in term for term in terms):
        return
    sizes: dict[str, tuple[int, TensorInfo]] = {}
    for term, info in zip(terms, call.inputs, strict=True):
        if len(term) != len(info.shape):
            yield _einsum_axes(case, call, equation, term, info)
            return
        for axis, letter in enumerate(term):
            n, first = sizes.setdefault(letter, (info.shape[axis], info))
            if n == 1:
                sizes[letter] = (info.shape[axis], info)
            elif info.shape[axis] not in (1, n):
                yield _einsum_sizes(
                    case,
                    call,
                    equation,
                    letter=letter,
                    pair=((n, first), (info.shape[axis], info)),
                    terms=terms,
                )
                return


def _einsum_axes(
    case: Case, call: ModuleCall, equation: str, term: str, info: TensorInfo
) -> Suspicion:
    return Suspicion(
        diagnosis="shape-mismatch",
        module=case.owner,
        message=f"einsum '{equation}' in {named(case, case.owner)} names {len(term)} axes '{term}', and {info.shape} has {len(info.shape)}",
        arithmetic=f"{info.shape} from {case.origin(info)}",
        candidates=tuple(_letters(case, call, equation, term, info)),
        weight=STRONG,
    )


def _letters(
    case: Case, call: ModuleCall, equation: str, term: str, info: TensorInfo
) -> Iterator[Candidate]:
    """A map that is to be flattened first, or one batch axis more in every term and in the result, where the tensor has one more than the equation names."""
    yield from _flattened_operand(case, call, equation, term, info)
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

    title = f"write '{new}' instead of '{equation}' at {short(call.source)}"
    yield candidate(
        Rewrite(
            title=title,
            code=repr(new),
            module=case.owner,
            kind=call.kind,
            source=call.source,
            function=rewritten,
        )
    )


def _flattened_operand(
    case: Case, call: ModuleCall, equation: str, term: str, info: TensorInfo
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
        or (term[last], size(info.shape[last:])) not in known
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

    title = f"flatten what comes from {case.origin(info)} first: {code.format(x='x')}"
    where: dict[str, Any] = {"module": case.owner, "kind": call.kind, "source": call.source}
    yield candidate(Rewrite(title=title, code=code, function=rewritten, **where), weight=STRONG)


def _einsum_sizes(
    case: Case,
    call: ModuleCall,
    equation: str,
    *,
    letter: str,
    pair: tuple[tuple[int, TensorInfo], tuple[int, TensorInfo]],
    terms: list[str],
) -> Suspicion:
    (m, a), (n, b) = pair
    candidates: list[Candidate] = []
    owned = next(
        ((i, t) for i, t in enumerate(call.inputs) if t in (a, b) and isinstance(t.source, str)),
        None,
    )
    module = case.owner
    if owned is not None:
        at, info = owned
        wanted = tuple(
            (m if info is b else n) if c == letter else k
            for c, k in zip(terms[at], info.shape, strict=True)
        )
        edit = reshaped_parameter(case, info.source, wanted)
        candidates = [candidate(edit)] if edit is not None else []
        module = case.owner_of_parameter(str(info.source))
    return Suspicion(
        diagnosis="shape-mismatch",
        module=module,
        message=f"einsum '{equation}' in {named(case, case.owner)}: '{letter}' is {m} in {a.shape} and {n} in {b.shape}",
        arithmetic=f"{a.shape} from {case.origin(a)}; {b.shape} from {case.origin(b)}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


# -- interpolation -------------------------------------------------------------------------------------------------------------


def _interpolate(case: Case, call: ModuleCall) -> Iterator[Suspicion]:
    x = call.inputs[0]
    yield from _interpolated_sizes(case, call, x)
    mode = (
        getattr(case.leaf, "mode", None)
        if call.fqn is not None
        else values(call, 4, "mode") or "nearest"
    )
    wanted = _MODES.get(str(mode))
    if wanted is None or len(x.shape) == wanted:
        return
    place = call.fqn if call.fqn is not None else case.owner
    candidates: list[Candidate] = []
    if (
        len(x.shape) == wanted - 1
        and case.root_of(x) is not None
        and len(case.root_inputs[0].shape) == wanted - 1
    ):
        candidates.append(
            candidate(
                with_tensor(
                    case,
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
        candidates.append(candidate(_other_mode(case, call, other), weight=USUAL))
    if len(x.shape) == wanted - 1:
        edit = before_call(case, lambda t: t.unsqueeze(1), "{x}.unsqueeze(1)")
        candidates.append(candidate(edit, weight=POSSIBLE))
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=place,
        message=f"mode '{mode}' of {case.name_of(call)} is for {wanted} axes, and {x.shape} has {len(x.shape)}"
        + (f": '{other}' is for {len(x.shape)}" if other is not None else ""),
        arithmetic=f"{x.shape} from {case.origin(x)}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _interpolated_sizes(case: Case, call: ModuleCall, x: TensorInfo) -> Iterator[Suspicion]:
    """A size for more axes than there are to be resized: `size=x.shape`, which counts the batch and the channels too."""
    sizes, spatial = values(call, 1, "size"), len(x.shape) - 2
    if call.fqn is not None or not isinstance(sizes, tuple) or spatial < 1 or len(sizes) == spatial:
        return

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given = {"size": args[1]} if len(args) > 1 else {}
        return func(args[0], *args[2:], **{**kwargs, **given, "size": sizes[-spatial:]})

    title = f"give it {spatial} sizes at {short(call.source)}: size=x.shape[-{spatial}:]"
    where: dict[str, Any] = {"module": case.owner, "kind": call.kind, "source": call.source}
    edit = Rewrite(title=title, code=f"size=x.shape[-{spatial}:]", function=rewritten, **where)
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=case.owner,
        message=f"{case.name_of(call)} resizes the {spatial} axes after batch and channels, and was given {len(sizes)} sizes: {sizes}",
        arithmetic=f"{x.shape} from {case.origin(x)}",
        candidates=(candidate(edit, weight=STRONG),) if len(sizes) > spatial else (),
        weight=STRONG,
    )


def _other_mode(case: Case, call: ModuleCall, mode: str) -> Edit:
    if call.fqn is not None:
        return configured(case, call.fqn, mode=mode)

    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named_mode = {name: value for name, value in kwargs.items() if name != "mode"}
        return func(*args[:3], **named_mode, mode=mode)

    title = f"use mode='{mode}' at {short(call.source)}"
    where: dict[str, Any] = {"module": case.owner, "kind": call.kind, "source": call.source}
    return Rewrite(
        title=title, code=f"mode='{mode}'", function=rewritten, keyword=("mode", mode, 3), **where
    )


# -- unflatten ---------------------------------------------------------------------------------------------------------------


def _unflatten(case: Case, layer: nn.Unflatten, x: TensorInfo) -> Iterator[Suspicion]:
    sizes, dim = layer.unflattened_size, layer.dim
    if (
        not isinstance(dim, int)
        or not all(isinstance(n, int) for n in sizes)
        or not -len(x.shape) <= dim < len(x.shape)
    ):
        return
    plain = tuple(int(n) for n in sizes)
    wanted, got = size(plain), x.shape[dim]
    if -1 in plain or wanted == got:
        return
    fqn = case.call.fqn or "" if case.call is not None else ""
    candidates = [*_produced(case, x, dim % len(x.shape), wanted)]
    if len(plain) > 1 and got % size(plain[1:]) == 0:
        candidates.append(
            candidate(
                configured(case, fqn, unflattened_size=(got // size(plain[1:]), *plain[1:])),
                weight=POSSIBLE,
            )
        )
    yield Suspicion(
        diagnosis="shape-mismatch",
        module=fqn,
        message=f"{named(case, fqn)} wants {product(plain)} elements on axis {dim}, and {x.shape} from {case.origin(x)} has {got}",
        arithmetic=f"{product(plain)} against {got}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


# -- writing to a leaf -----------------------------------------------------------------------------------------------------------


def _written_leaf(case: Case, call: ModuleCall) -> Iterator[Suspicion]:
    """A parameter, or an input that requires a gradient, that is written to in place while a graph is recorded."""
    target = call.inputs[0]
    if (
        not target.requires_grad
        or not (isinstance(target.source, str) or case.is_input(target))
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

    where: dict[str, Any] = {"module": case.owner, "kind": call.kind, "source": call.source}
    quiet = Rewrite(
        title=f"put 'with torch.no_grad():' around {short(call.source)}",
        code="with torch.no_grad():",
        function=without_graph,
        **where,
    )
    copy = Rewrite(
        title=f"compute a new tensor at {short(call.source)} instead of writing in place",
        code="x.clone()",
        function=on_a_copy,
        **where,
    )
    yield Suspicion(
        diagnosis="inplace-autograd",
        module=case.owner_of_parameter(target.source)
        if isinstance(target.source, str)
        else case.owner,
        message=f"{case.name_of(call)} writes in place to {what} while autograd is recording: a leaf of the graph cannot change",
        arithmetic=f"{quoted(str(target.source)) if isinstance(target.source, str) else 'x'} {target.shape} requires_grad=True",
        candidates=(candidate(quiet, weight=STRONG), candidate(copy, weight=USUAL)),
        weight=STRONG,
    )
