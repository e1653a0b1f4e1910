"""A tuple, a dict or None where a tensor was meant: what the model was given, what a module returned, what a trailing comma made."""

import inspect
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash import structure
from cnnprobe.crash.adapting import configured, with_input
from cnnprobe.crash.case import Case, named, operation, quoted, short
from cnnprobe.crash.edits import (
    AdaptOutput,
    Bind,
    ChangeArguments,
    Edit,
    HandIndices,
    Rewrite,
    SetAttribute,
)
from cnnprobe.crash.suspicion import STRONG, USUAL, Candidate, Suspicion, candidate
from cnnprobe.crash.users_code import (
    arguments_of,
    compiled_again,
    forward_of,
    innermost_locals,
    names_on_the_line,
    one_tuples,
    operands_on_the_line,
    returning,
    returns_nothing,
    without_one_tuples,
)
from cnnprobe.recorder.inventory import class_of
from cnnprobe.trace import ModuleCall

_NUMBERS = (int, float, bool, complex)


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong where something arrived that is no tensor."""
    yield from _input_of_another_type(case)
    if case.call is not None and not structure.has_no_forward(case):
        yield from _wrapped_attributes(case)
        yield from _something_else(case)


def _input_of_another_type(case: Case) -> Iterator[Suspicion]:
    given = case.args[0] if case.args else next(iter(case.kwargs.values()), None)
    if (
        isinstance(given, dict | list | tuple)
        and any(t.path == "" for t in case.inputs)
        and case.index
    ):
        return  # the model took it apart, and what failed was given a tensor
    if isinstance(given, (Tensor, *_NUMBERS)) or (
        given is None and (not case.args or case.leaf is None or case.inputs)
    ):
        return
    kind = type(given).__name__
    edits: list[tuple[Edit, int]] = []
    if isinstance(given, dict):
        edits += _from_mapping(given)
    elif isinstance(given, list | tuple) and given and all(isinstance(v, Tensor) for v in given):
        if len({v.shape for v in given}) == 1:
            edits.append((with_input(lambda v: torch.stack(list(v)), "torch.stack({x})"), STRONG))
        edits.append((with_input(lambda v: v[0], "{x}[0]"), USUAL))
        edits.append(
            (
                ChangeArguments(
                    title="call it as model(*x)",
                    code="*x",
                    function=lambda a, k: ((*a[0], *a[1:]), k),
                ),
                USUAL,
            )
        )
    elif hasattr(given, "__array_interface__") or isinstance(given, list | tuple):
        edits += _from_array(given)
    if not edits and any(isinstance(v, Tensor) for v in tree_leaves(given)):
        return  # the model may well be made for it
    if (
        not edits
        and not isinstance(given, str | bytes | None)
        and case.trace.calls
        and len(case.trace.calls) > 2
    ):
        return
    first = case.call
    yield Suspicion(
        diagnosis="not-a-tensor",
        module=first.fqn if first is not None and first.fqn is not None else case.owner,
        message=f"the model was given a {kind}, and {case.name_of(first) if first is not None else 'it'} needs a tensor",
        arithmetic=f"type {type(given).__module__}.{kind}"
        + (
            f", shape {tuple(shape)}"
            if (shape := getattr(given, "shape", None)) is not None
            else ""
        ),
        candidates=tuple(candidate(edit, weight=weight) for edit, weight in edits),
        weight=STRONG,
        evidence=("load the file first, and turn the image into a tensor",)
        if isinstance(given, str | bytes)
        else (),
    )


def _from_mapping(given: dict[Any, Any]) -> Iterator[tuple[Edit, int]]:
    if all(isinstance(key, str) for key in given):
        yield (
            ChangeArguments(
                title="call it as model(**x)",
                code="**x",
                function=lambda a, k: (a[1:], {**a[0], **k}),
            ),
            USUAL,
        )
    for key, value in given.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            yield with_input(lambda v, key=key: v[key], f"{{x}}[{key!r}]"), USUAL  # type: ignore[misc]
            return


def _from_array(given: Any) -> Iterator[tuple[Edit, int]]:
    def as_tensor(value: Any) -> Tensor:
        import numpy as np

        return torch.as_tensor(np.asarray(value).copy()).float()

    is_image = hasattr(given, "mode") and hasattr(given, "size") and not hasattr(given, "shape")
    if is_image:
        code = "torchvision.transforms.v2.functional.to_dtype(to_image({x}), scale=True)[None]"

        def from_image(value: Any) -> Tensor:
            x = as_tensor(value)
            return (x[None] if x.dim() == 2 else x.permute(2, 0, 1))[None] / 255

        yield with_input(from_image, code), STRONG
    else:
        yield with_input(as_tensor, "torch.as_tensor({x}).float()"), STRONG


def _wrapped_attributes(case: Case) -> Iterator[Suspicion]:
    """A layer that a trailing comma has wrapped: `self.fc = nn.Linear(8, 2),`."""
    owner = case.modules.get(case.owner)
    if owner is None or case.leaf is not None or (case.call is not None and case.call.fqn is None):
        return
    for name, value in owner.__dict__.items():
        if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], nn.Module):
            edit = SetAttribute(
                title=f"drop the comma at the end of 'self.{name} = ...'",
                code=f"self.{name} = {value[0]}",
                module=case.owner,
                name=name,
                value=lambda module, name=name: module.__dict__[name][0],  # type: ignore[misc]
            )
            child = f"{case.owner}.{name}" if case.owner else name
            yield Suspicion(
                diagnosis="not-a-tensor",
                module=case.owner,
                message=f"'{child}' is a tuple of one {type(value[0]).__name__}, not the layer: a trailing comma made it",
                arithmetic=f"self.{name} is {type(value).__name__} of length 1, so that its parameters are not registered either",
                candidates=(candidate(edit, weight=STRONG),),
                weight=STRONG,
            )


def _something_else(case: Case) -> Iterator[Suspicion]:
    """A module returned a tuple (or None), and the next thing wanted a tensor."""
    call = case.call
    if call is None or case.index is None:
        return
    kind, what = _what_arrived(case, call)
    if not kind:
        return
    receiver, maker = _maker(case, call, kind)
    if maker is None and receiver == 0 and case.trace.calls[0].arguments:
        return  # what the model itself was given, which was said already
    if kind == "None":
        yield _none(case, call, what, receiver=receiver, maker=maker)
    else:
        yield _tuple(case, call, what, maker=maker)


def _tuple(case: Case, call: ModuleCall, what: str, *, maker: ModuleCall | None) -> Suspicion:
    blamed = maker.fqn if maker is not None and maker.fqn is not None else case.owner
    module = case.modules.get(blamed)
    comma = _comma_in(module)
    candidates = []
    if comma is not None and module is not None:
        again = compiled_again(forward_of(module), without_one_tuples)
        if again is not None:
            title = f"drop the trailing comma in the forward of {named(case, blamed)}, line {comma}"
            candidates.append(
                candidate(Bind(title=title, code="", module=blamed, function=again), weight=STRONG)
            )
    elif maker is not None and maker.fqn is None:
        candidates.append(candidate(_first_of(case, maker), weight=STRONG))
    elif maker is not None and getattr(module, "return_indices", False):
        candidates += _with_indices(case, blamed)
    elif maker is not None:
        title = f"take the first element of what {quoted(blamed)} returns: {quoted(blamed)}(...)[0]"
        candidates.append(
            candidate(
                AdaptOutput(title=title, code="{x}[0]", module=blamed, function=lambda out: out[0]),
                weight=STRONG,
            )
        )
    maker_name = case.name_of(maker) if maker is not None else named(case, blamed)
    why = (
        f"a trailing comma at line {comma} of its forward makes it"
        if comma is not None
        else f"{maker_name} returns it"
    )
    if getattr(module, "return_indices", False):
        why += ", as return_indices=True asks for the indices as well"
    if comma is None and maker is None:
        why = f"the forward of {named(case, blamed)} makes it"
    return Suspicion(
        diagnosis="not-a-tensor",
        module=blamed,
        message=f"{what} where a tensor was meant: {why}",
        arithmetic=_given_at(case, call),
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _with_indices(case: Case, pool: str) -> Iterator[Candidate]:
    """A pooling whose indices an unpooling wants, or nobody."""
    unpool = next(
        (fqn for fqn, m in case.modules.items() if isinstance(m, nn.modules.pooling._MaxUnpoolNd)),
        None,
    )
    if unpool is not None:
        title = f"unpack what {quoted(pool)} gives, x, indices = {quoted(pool)}(...), and call {quoted(unpool)}(x, indices)"
        yield candidate(HandIndices(title=title, code="x, indices", module=pool), weight=STRONG)
    else:
        yield candidate(configured(case, pool, return_indices=False), weight=STRONG)


def _first_of(case: Case, maker: ModuleCall) -> Rewrite:
    """The values of a function that returns them with their indices: torch.max(x, 1)."""
    name = operation(maker)
    respell = (
        f"{{x}}.{name}({{rest}})[0]"
        if maker.kind.startswith("torch.Tensor.")
        else f"{maker.kind}({{x}}, {{rest}})[0]"
    )
    return Rewrite(
        title=f"take the first of what {case.name_of(maker)} returns, the values: {name}(...)[0]",
        code=f"{name}(...)[0]",
        module=case.owner,
        kind=maker.kind,
        source=maker.source,
        function=lambda func, args, kwargs: func(*args, **kwargs)[0],
        respell=respell,
    )


def _none(
    case: Case, call: ModuleCall, what: str, *, receiver: int, maker: ModuleCall | None
) -> Suspicion:
    advice = ""
    candidates = []
    if maker is not None:
        blamed = maker.fqn or ""
        why = f"{named(case, blamed)} returns None"
        if returns_nothing(forward_of(case.modules[blamed])):
            why += ": its forward has no return"
        advice = f"end the forward of {named(case, blamed)} with a return"
        again, last = returning(forward_of(case.modules[blamed]))
        if again is not None:
            edit = Bind(
                title=f"{advice}: return {last}",
                code=f"return {last}",
                module=blamed,
                function=again,
            )
            candidates.append(candidate(edit, weight=STRONG))
            advice = ""
    else:
        blamed = (
            case.module_above(case.trace.calls[receiver].parent)
            if receiver != case.index or case.leaf is not None
            else case.owner
        )
        name = _defaulted(case, blamed)
        why = (
            f"its forward was not given {name!r}, which is None by default"
            if name
            else "nothing has set it"
        )
        why = f"{named(case, blamed)} passes it on; {why}"
        advice = (
            f"give {named(case, blamed)} {name!r} as well, or skip what needs it where it is None"
            if name
            else ""
        )
    return Suspicion(
        diagnosis="not-a-tensor",
        module=blamed,
        message=f"{what} where a tensor was meant: {why}",
        arithmetic=_given_at(case, call),
        candidates=tuple(candidates),
        weight=STRONG,
        advice=(advice,) if advice else (),
    )


def _given_at(case: Case, call: ModuleCall) -> str:
    source = short(case.trace.failure.source if case.trace.failure else call.source)
    reader = (
        f"{case.name_of(call)} was given it"
        if case.leaf is not None or call.fqn is None
        else f"in the forward of {case.name_of(call)}"
    )
    return reader + (f" at {source}" if source else "")


def _defaulted(case: Case, fqn: str) -> str:
    """The parameter of a module's forward that was left at its default None, where there is one, by preference on the failing line."""
    module = case.modules.get(fqn)
    frames = (
        f for f, _ in traceback.walk_tb(case.error.__traceback__) if f.f_code.co_name == "forward"
    )
    frame = next((f for f in frames if f.f_locals.get("self") is module), None)
    if module is None or frame is None:
        return ""
    given = {
        name
        for name, p in inspect.signature(module.forward).parameters.items()
        if p.default is None
    }
    found = [name for name in given if frame.f_locals.get(name, given) is None]
    line = names_on_the_line(case.error)
    return next((name for name in found if name in line), found[0] if len(found) == 1 else "")


def _what_arrived(case: Case, call: ModuleCall) -> tuple[str, str]:
    """What the failing call got that is no tensor ("tuple", "None"; "": nothing of the kind), and the same in words."""
    if case.leaf is not None and not isinstance(case.leaf, nn.RNNBase | nn.MultiheadAttention):
        if not call.inputs and call.arguments:
            given = next(iter(call.arguments.values()))
            return (
                "None" if given is None else "other"
            ), f"{given} arrived at {case.name_of(call)}"
        given_to_it = arguments_of(case.error, case.leaf)
        one = given_to_it is None or (
            len(given_to_it[0]) == 1 and isinstance(given_to_it[0][0], tuple | list)
        )
        if (
            one
            and call.inputs
            and call.inputs[0].path.startswith("[")
            and not call.arguments
            and len(call.inputs) <= 3
        ):
            return (
                "tuple" if _takes_one(case.leaf) else ""
            ), f"a tuple of {_length(call)} arrived at {case.name_of(call)}"
        return "", ""
    if not isinstance(case.error, AttributeError | TypeError):
        return "", ""
    subject = getattr(case.error, "obj", None)
    if isinstance(subject, tuple | list) and any(isinstance(v, Tensor) for v in subject):
        return "tuple", f"a {type(subject).__name__} of {len(subject)}"
    values = innermost_locals(case.error)
    for name in names_on_the_line(case.error):
        value = values.get(name, values)
        if value is None or (
            isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
        ):
            return (
                ("None", f"{name!r} is None")
                if value is None
                else ("tuple", f"{name!r} is a tuple of {len(value)}")
            )
    operands = operands_on_the_line(case.error)
    made = [
        c
        for c in case.trace.calls
        if c.parent == case.index and (c.fqn or "").rpartition(".")[2] in operands
    ]
    if made and made[-1].returned in ("tuple", "list"):
        return "tuple", f"a {made[-1].returned} stands"
    return "", ""


def _length(call: ModuleCall) -> int:
    """How many elements the tuple has that was the sole argument of a call, whose leaves its inputs are."""
    return len({t.path.partition("]")[0] for t in call.inputs})


def _takes_one(layer: nn.Module) -> bool:
    return isinstance(
        layer,
        nn.Linear
        | nn.modules.conv._ConvNd
        | nn.modules.batchnorm._NormBase
        | nn.ReLU
        | nn.Flatten
        | nn.Dropout,
    ) or (len(inspect.signature(type(layer).forward).parameters) == 2)


def _maker(case: Case, call: ModuleCall, kind: str) -> tuple[int, ModuleCall | None]:
    """The outermost call that was handed the very thing, and the call beside it, or inside of the code that raised, that returned it."""
    returned = ("NoneType",) if kind == "None" else ("tuple", "list")
    calls, index = case.trace.calls, case.index or 0
    if case.leaf is None and call.fqn is not None:
        inner = [
            c
            for c in calls
            if c.parent == index and c.fqn is not None and c.completed and c.returned in returned
        ]
        if inner:
            return index, inner[-1]
    source = call.inputs[0].source if kind == "tuple" and call.inputs else None
    if (
        isinstance(source, int)
        and calls[source].fqn is None
        and calls[source].returned not in (*returned, "Tensor", "")
    ):
        return index, calls[source]
    while (above := calls[index].parent) is not None and _handed_on(
        calls[above], calls[index], kind
    ):
        index = above
    beside = [
        c
        for c in calls[:index]
        if c.parent == calls[index].parent
        and c.fqn is not None
        and c.completed
        and c.returned in returned
    ]
    count = len(calls[index].inputs)
    beside = [c for c in beside if kind == "None" or len(c.outputs) == count] or (
        beside if case.leaf is None else []
    )
    return index, beside[-1] if beside else None


def _handed_on(outer: ModuleCall, inner: ModuleCall, kind: str) -> bool:
    """Whether a call was itself given what a call inside of it was given."""
    if kind == "None":
        return any(value is None for value in outer.arguments.values())
    given = [(t.source, t.shape) for t in outer.inputs]
    return len(inner.inputs) > 0 and all((t.source, t.shape) in given for t in inner.inputs)


def _comma_in(module: nn.Module | None) -> int | None:
    if module is None or class_of(module).__module__.startswith("torch."):
        return None
    found = next(one_tuples(forward_of(module)), None)
    return None if found is None else found.lineno
