"""A tuple, a dict or None where a tensor was meant: what the model was given, what a module returned, what a trailing comma made."""

import inspect
import traceback
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash import structure
from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.build import change_input, configure
from cnnprobe.crash.edits.calls import AdaptOutput, Bind, HandIndices, Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.facts.frames import list_names, list_operands, read_arguments, read_locals
from cnnprobe.crash.facts.source import (
    add_return,
    drop_one_tuples,
    find_one_tuples,
    get_forward,
    recompile,
    returns_nothing,
)
from cnnprobe.crash.facts.words import operation, quote, shorten
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose
from cnnprobe.recorder.inventory import class_of
from cnnprobe.trace import ModuleCall

_NUMBERS = (int, float, bool, complex)


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong where something arrived that is no tensor."""
    yield from _input_of_another_type(crash)
    if crash.call is not None and not structure.has_no_forward(crash):
        yield from _wrapped_attributes(crash)
        yield from _something_else(crash)


def _input_of_another_type(crash: Crash) -> Iterator[Suspect]:
    given = crash.args[0] if crash.args else next(iter(crash.kwargs.values()), None)
    if (
        isinstance(given, dict | list | tuple)
        and any(t.path == "" for t in crash.inputs)
        and crash.index
    ):
        return  # the model took it apart, and what failed was given a tensor
    if isinstance(given, (Tensor, *_NUMBERS)) or (
        given is None and (not crash.args or crash.leaf is None or crash.inputs)
    ):
        return
    kind = type(given).__name__
    edits: list[tuple[Edit, int]] = []
    if isinstance(given, dict):
        edits += _from_mapping(given)
    elif isinstance(given, list | tuple) and given and all(isinstance(v, Tensor) for v in given):
        if len({v.shape for v in given}) == 1:
            edits.append((change_input(lambda v: torch.stack(list(v)), "torch.stack({x})"), STRONG))
        edits.append((change_input(lambda v: v[0], "{x}[0]"), USUAL))
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
        and crash.trace.calls
        and len(crash.trace.calls) > 2
    ):
        return
    first = crash.call
    yield Suspect(
        diagnosis="not-a-tensor",
        module=first.fqn if first is not None and first.fqn is not None else crash.owner,
        message=f"the model was given a {kind}, and {crash.describe_call(first) if first is not None else 'it'} needs a tensor",
        arithmetic=f"type {type(given).__module__}.{kind}"
        + (
            f", shape {tuple(shape)}"
            if (shape := getattr(given, "shape", None)) is not None
            else ""
        ),
        candidates=tuple(propose(edit, weight=weight) for edit, weight in edits),
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
            yield change_input(lambda v, key=key: v[key], f"{{x}}[{key!r}]"), USUAL  # type: ignore[misc]
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

        yield change_input(from_image, code), STRONG
    else:
        yield change_input(as_tensor, "torch.as_tensor({x}).float()"), STRONG


def _wrapped_attributes(crash: Crash) -> Iterator[Suspect]:
    """A layer that a trailing comma has wrapped: `self.fc = nn.Linear(8, 2),`."""
    owner = crash.modules.get(crash.owner)
    if (
        owner is None
        or crash.leaf is not None
        or (crash.call is not None and crash.call.fqn is None)
    ):
        return
    for name, value in owner.__dict__.items():
        if isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], nn.Module):
            edit = SetAttribute(
                title=f"drop the comma at the end of 'self.{name} = ...'",
                code=f"self.{name} = {value[0]}",
                module=crash.owner,
                name=name,
                value=lambda module, name=name: module.__dict__[name][0],  # type: ignore[misc]
            )
            child = f"{crash.owner}.{name}" if crash.owner else name
            yield Suspect(
                diagnosis="not-a-tensor",
                module=crash.owner,
                message=f"'{child}' is a tuple of one {type(value[0]).__name__}, not the layer: a trailing comma made it",
                arithmetic=f"self.{name} is {type(value).__name__} of length 1, so that its parameters are not registered either",
                candidates=(propose(edit, weight=STRONG),),
                weight=STRONG,
            )


def _something_else(crash: Crash) -> Iterator[Suspect]:
    """A module returned a tuple (or None), and the next thing wanted a tensor."""
    call = crash.call
    if call is None or crash.index is None:
        return
    kind, what = _what_arrived(crash, call)
    if not kind:
        return
    receiver, maker = _maker(crash, call, kind)
    if maker is None and receiver == 0 and crash.trace.calls[0].arguments:
        return  # what the model itself was given, which was said already
    if kind == "None":
        yield _none(crash, call, what, receiver=receiver, maker=maker)
    else:
        yield _tuple(crash, call, what, maker=maker)


def _tuple(crash: Crash, call: ModuleCall, what: str, *, maker: ModuleCall | None) -> Suspect:
    blamed = maker.fqn if maker is not None and maker.fqn is not None else crash.owner
    module = crash.modules.get(blamed)
    comma = _comma_in(module)
    candidates = []
    if comma is not None and module is not None:
        again = recompile(get_forward(module), drop_one_tuples)
        if again is not None:
            title = f"drop the trailing comma in the forward of {describe_module(crash, blamed)}, line {comma}"
            candidates.append(
                propose(Bind(title=title, code="", module=blamed, function=again), weight=STRONG)
            )
    elif maker is not None and maker.fqn is None:
        candidates.append(propose(_first_of(crash, maker), weight=STRONG))
    elif maker is not None and getattr(module, "return_indices", False):
        candidates += _with_indices(crash, blamed)
    elif maker is not None:
        title = f"take the first element of what {quote(blamed)} returns: {quote(blamed)}(...)[0]"
        candidates.append(
            propose(
                AdaptOutput(title=title, code="{x}[0]", module=blamed, function=lambda out: out[0]),
                weight=STRONG,
            )
        )
    maker_name = crash.describe_call(maker) if maker is not None else describe_module(crash, blamed)
    why = (
        f"a trailing comma at line {comma} of its forward makes it"
        if comma is not None
        else f"{maker_name} returns it"
    )
    if getattr(module, "return_indices", False):
        why += ", as return_indices=True asks for the indices as well"
    if comma is None and maker is None:
        why = f"the forward of {describe_module(crash, blamed)} makes it"
    return Suspect(
        diagnosis="not-a-tensor",
        module=blamed,
        message=f"{what} where a tensor was meant: {why}",
        arithmetic=_given_at(crash, call),
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _with_indices(crash: Crash, pool: str) -> Iterator[Candidate]:
    """A pooling whose indices an unpooling wants, or nobody."""
    unpool = next(
        (fqn for fqn, m in crash.modules.items() if isinstance(m, nn.modules.pooling._MaxUnpoolNd)),
        None,
    )
    if unpool is not None:
        title = f"unpack what {quote(pool)} gives, x, indices = {quote(pool)}(...), and call {quote(unpool)}(x, indices)"
        yield propose(HandIndices(title=title, code="x, indices", module=pool), weight=STRONG)
    else:
        yield propose(configure(crash, pool, return_indices=False), weight=STRONG)


def _first_of(crash: Crash, maker: ModuleCall) -> Rewrite:
    """The values of a function that returns them with their indices: torch.max(x, 1)."""
    name = operation(maker)
    respell = (
        f"{{x}}.{name}({{rest}})[0]"
        if maker.kind.startswith("torch.Tensor.")
        else f"{maker.kind}({{x}}, {{rest}})[0]"
    )
    return Rewrite(
        title=f"take the first of what {crash.describe_call(maker)} returns, the values: {name}(...)[0]",
        code=f"{name}(...)[0]",
        module=crash.owner,
        kind=maker.kind,
        source=maker.source,
        function=lambda func, args, kwargs: func(*args, **kwargs)[0],
        respell=respell,
    )


def _none(
    crash: Crash, call: ModuleCall, what: str, *, receiver: int, maker: ModuleCall | None
) -> Suspect:
    advice = ""
    candidates = []
    if maker is not None:
        blamed = maker.fqn or ""
        why = f"{describe_module(crash, blamed)} returns None"
        if returns_nothing(get_forward(crash.modules[blamed])):
            why += ": its forward has no return"
        advice = f"end the forward of {describe_module(crash, blamed)} with a return"
        again, last = add_return(get_forward(crash.modules[blamed]))
        if again is not None:
            edit = Bind(
                title=f"{advice}: return {last}",
                code=f"return {last}",
                module=blamed,
                function=again,
            )
            candidates.append(propose(edit, weight=STRONG))
            advice = ""
    else:
        blamed = (
            crash.find_module_above(crash.trace.calls[receiver].parent)
            if receiver != crash.index or crash.leaf is not None
            else crash.owner
        )
        name = _defaulted(crash, blamed)
        why = (
            f"its forward was not given {name!r}, which is None by default"
            if name
            else "nothing has set it"
        )
        why = f"{describe_module(crash, blamed)} passes it on; {why}"
        advice = (
            f"give {describe_module(crash, blamed)} {name!r} as well, or skip what needs it where it is None"
            if name
            else ""
        )
    return Suspect(
        diagnosis="not-a-tensor",
        module=blamed,
        message=f"{what} where a tensor was meant: {why}",
        arithmetic=_given_at(crash, call),
        candidates=tuple(candidates),
        weight=STRONG,
        advice=(advice,) if advice else (),
    )


def _given_at(crash: Crash, call: ModuleCall) -> str:
    source = shorten(crash.trace.failure.source if crash.trace.failure else call.source)
    reader = (
        f"{crash.describe_call(call)} was given it"
        if crash.leaf is not None or call.fqn is None
        else f"in the forward of {crash.describe_call(call)}"
    )
    return reader + (f" at {source}" if source else "")


def _defaulted(crash: Crash, fqn: str) -> str:
    """The parameter of a module's forward that was left at its default None, where there is one, by preference on the failing line."""
    module = crash.modules.get(fqn)
    frames = (
        f for f, _ in traceback.walk_tb(crash.error.__traceback__) if f.f_code.co_name == "forward"
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
    line = list_names(crash.error)
    return next((name for name in found if name in line), found[0] if len(found) == 1 else "")


def _what_arrived(crash: Crash, call: ModuleCall) -> tuple[str, str]:
    """What the failing call got that is no tensor ("tuple", "None"; "": nothing of the kind), and the same in words."""
    if crash.leaf is not None and not isinstance(crash.leaf, nn.RNNBase | nn.MultiheadAttention):
        if not call.inputs and call.arguments:
            given = next(iter(call.arguments.values()))
            return (
                "None" if given is None else "other"
            ), f"{given} arrived at {crash.describe_call(call)}"
        given_to_it = read_arguments(crash.error, crash.leaf)
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
                "tuple" if _takes_one(crash.leaf) else ""
            ), f"a tuple of {_length(call)} arrived at {crash.describe_call(call)}"
        return "", ""
    if not isinstance(crash.error, AttributeError | TypeError):
        return "", ""
    subject = getattr(crash.error, "obj", None)
    if isinstance(subject, tuple | list) and any(isinstance(v, Tensor) for v in subject):
        return "tuple", f"a {type(subject).__name__} of {len(subject)}"
    values = read_locals(crash.error)
    for name in list_names(crash.error):
        value = values.get(name, values)
        if value is None or (
            isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)
        ):
            return (
                ("None", f"{name!r} is None")
                if value is None
                else ("tuple", f"{name!r} is a tuple of {len(value)}")
            )
    operands = list_operands(crash.error)
    made = [
        c
        for c in crash.trace.calls
        if c.parent == crash.index and (c.fqn or "").rpartition(".")[2] in operands
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


def _maker(crash: Crash, call: ModuleCall, kind: str) -> tuple[int, ModuleCall | None]:
    """The outermost call that was handed the very thing, and the call beside it, or inside of the code that raised, that returned it."""
    returned = ("NoneType",) if kind == "None" else ("tuple", "list")
    calls, index = crash.trace.calls, crash.index or 0
    if crash.leaf is None and call.fqn is not None:
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
        beside if crash.leaf is None else []
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
    found = next(find_one_tuples(get_forward(module)), None)
    return None if found is None else found.lineno
