"""Crashes of Python rather than of arithmetic: no forward, a tuple where a tensor was meant, a missing argument or attribute."""

import difflib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.adapting import with_input
from cnnprobe.crash.case import Case, named, quoted, short
from cnnprobe.crash.edits import AdaptOutput, Bind, ChangeArguments, Edit, Exchange, SetAttribute
from cnnprobe.crash.suspicion import STRONG, USUAL, Suspicion, candidate
from cnnprobe.crash.users_code import (
    compiled_again,
    forward_of,
    frame_locals,
    innermost_locals,
    names_on_the_line,
    one_tuples,
    without_one_tuples,
)
from cnnprobe.recorder.inventory import class_of, is_leaf
from cnnprobe.trace import ModuleCall

_NUMBERS = (int, float, bool, complex)


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong with the code rather than with the numbers."""
    yield from _input_of_another_type(case)
    module, call = case.module, case.call
    if call is None:
        return
    if module is not None and not is_leaf(module) and type(module).forward is nn.Module.forward and "forward" not in module.__dict__:
        yield from _no_forward(call.fqn or "", module)
        return
    yield from _wrapped_attributes(case)
    yield from _tuple_instead(case)
    if module is not None and not is_leaf(module):
        yield from _signature(case, call, module)
    yield from _missing_attribute(case)


# -- no forward --------------------------------------------------------------------------------------------------------------


def _no_forward(fqn: str, module: nn.Module) -> Iterator[Suspicion]:
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        kind = type(module).__name__
        children = list(module._modules)

        def sequential(old: nn.Module) -> nn.Module:
            return nn.Sequential(*(old._modules[name] for name in children))  # type: ignore[arg-type]

        title = f"make {quoted(fqn)} an nn.Sequential, or call its modules one by one"
        yield Suspicion(
            diagnosis="missing-forward",
            module=fqn,
            message=f"{quoted(fqn)} is an nn.{kind}: a list of modules, which cannot be called itself",
            candidates=(candidate(Exchange(title=title, code="nn.Sequential(*...)", module=fqn, layer=sequential), weight=STRONG),),
            weight=STRONG,
        )
        return
    methods = [name for kind in class_of(module).__mro__ if not _is_torchs(kind) for name, v in vars(kind).items() if inspect.isfunction(v)]
    near = difflib.get_close_matches("forward", [name for name in methods if not name.startswith("__")], n=1, cutoff=0.6)
    candidates = []
    if near:
        function = getattr(class_of(module), near[0])
        edit = Bind(title=f"rename the method {near[0]} to forward", code="def forward", module=fqn, function=function)
        candidates.append(candidate(edit, weight=STRONG))
    kind_name = class_of(module).__name__
    has = f"; it has {near[0]!r}" if near else f"; its methods are {', '.join(methods) or 'none'}"
    yield Suspicion(
        diagnosis="missing-forward",
        module=fqn,
        message=f"the class {kind_name} has no method named forward{has}",
        arithmetic="" if near else "a forward that is indented into __init__ is no method",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.") or kind is object


# -- something that is no tensor ---------------------------------------------------------------------------------------------


def _input_of_another_type(case: Case) -> Iterator[Suspicion]:
    given = case.args[0] if case.args else next(iter(case.kwargs.values()), None)
    if isinstance(given, (Tensor, *_NUMBERS)) or (given is None and (not case.args or case.leaf is None or case.inputs)):
        return
    kind = type(given).__name__
    edits: list[tuple[Edit, int]] = []
    if isinstance(given, dict):
        edits += _from_mapping(given)
    elif isinstance(given, list | tuple) and given and all(isinstance(v, Tensor) for v in given):
        if len({v.shape for v in given}) == 1:
            edits.append((with_input(lambda v: torch.stack(list(v)), "torch.stack({x})"), STRONG))
        edits.append((with_input(lambda v: v[0], "{x}[0]"), USUAL))
        edits.append((ChangeArguments(title="call it as model(*x)", code="*x", function=lambda a, k: ((*a[0], *a[1:]), k)), USUAL))
    elif hasattr(given, "__array_interface__") or isinstance(given, list | tuple):
        edits += _from_array(given)
    if not edits and any(isinstance(v, Tensor) for v in tree_leaves(given)):
        return  # the model may well be made for it
    if not edits and not isinstance(given, str | bytes | None) and case.trace.calls and len(case.trace.calls) > 2:
        return
    first = case.call
    yield Suspicion(
        diagnosis="not-a-tensor",
        module=first.fqn if first is not None and first.fqn is not None else case.owner,
        message=f"the model was given a {kind}, and {case.name_of(first) if first is not None else 'it'} needs a tensor",
        arithmetic=f"type {type(given).__module__}.{kind}"
        + (f", shape {tuple(shape)}" if (shape := getattr(given, "shape", None)) is not None else ""),
        candidates=tuple(candidate(edit, weight=weight) for edit, weight in edits),
        weight=STRONG,
        evidence=("load the file first, and turn the image into a tensor",) if isinstance(given, str | bytes) else (),
    )


def _from_mapping(given: dict[Any, Any]) -> Iterator[tuple[Edit, int]]:
    if all(isinstance(key, str) for key in given):
        yield ChangeArguments(title="call it as model(**x)", code="**x", function=lambda a, k: (a[1:], {**a[0], **k})), USUAL
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


def _tuple_instead(case: Case) -> Iterator[Suspicion]:
    """A module returned a tuple (or None), and the next thing wanted a tensor."""
    call = case.call
    if call is None:
        return
    wrapped, what = _what_arrived(case, call)
    maker = _maker(case) if wrapped else None
    if not wrapped or (maker is None and not case.inputs and any(a is None or isinstance(a, str) for a in case.args)):
        return  # what the model itself was given, which was said already
    blamed = maker.fqn if maker is not None and maker.fqn is not None else case.owner
    module = case.modules.get(blamed)
    comma = _comma_in(module)
    candidates = []
    if comma is not None and module is not None:
        again = compiled_again(forward_of(module), without_one_tuples)
        if again is not None:
            edit: Edit = Bind(
                title=f"drop the trailing comma in the forward of {named(case, blamed)}, line {comma}",
                code="",
                module=blamed,
                function=again,
            )
            candidates.append(candidate(edit, weight=STRONG))
    elif maker is not None and maker.returned in ("tuple", "list"):
        title = f"take the first element of what {quoted(blamed)} returns: {quoted(blamed)}(...)[0]"
        candidates.append(candidate(AdaptOutput(title=title, code="[0]", module=blamed, function=lambda out: out[0]), weight=STRONG))
    why = f"a trailing comma at line {comma} of its forward makes it" if comma is not None else f"{named(case, blamed)} returns it"
    if maker is not None and maker.returned == "NoneType":
        why = f"{named(case, blamed)} returns None: its forward has no return"
    yield Suspicion(
        diagnosis="not-a-tensor",
        module=blamed,
        message=f"{what} where a tensor was meant: {why}",
        arithmetic=f"{case.name_of(call)} was given it at {short(case.trace.failure.source if case.trace.failure else call.source)}",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _what_arrived(case: Case, call: ModuleCall) -> tuple[bool, str]:
    """Whether the failing call got something that is no tensor, and what."""
    if case.leaf is not None and not isinstance(case.leaf, nn.RNNBase | nn.MultiheadAttention):
        if not call.inputs and call.arguments:
            kind = next(iter(call.arguments.values()))
            return True, f"{kind if kind is not None else 'None'} arrived at {case.name_of(call)}"
        if call.inputs and call.inputs[0].path.startswith("[") and not call.arguments and len(call.inputs) <= 3:
            return _takes_one(case.leaf), f"a tuple of {len(call.inputs)} arrived at {case.name_of(call)}"
        return False, ""
    if not isinstance(case.error, AttributeError | TypeError):
        return False, ""
    subject = getattr(case.error, "obj", None)
    if isinstance(subject, tuple | list) and any(isinstance(v, Tensor) for v in subject):
        return True, f"a {type(subject).__name__} of {len(subject)}"
    values = innermost_locals(case.error)
    for name in names_on_the_line(case.error):
        value = values.get(name, values)
        if value is None or (isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)):
            kind = "None" if value is None else f"a tuple of {len(value)}"
            return True, f"'{name}' is {kind}"
    return False, ""


def _takes_one(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Linear | nn.modules.conv._ConvNd | nn.modules.batchnorm._NormBase | nn.ReLU | nn.Flatten | nn.Dropout) or (
        len(inspect.signature(type(layer).forward).parameters) == 2
    )


def _maker(case: Case) -> ModuleCall | None:
    """The latest completed call of a module that returned no tensor."""
    for call in reversed(case.trace.calls[: case.index]):
        if call.fqn is not None and call.completed and call.returned in ("tuple", "list", "NoneType"):
            return call
        if call.fqn is not None and call.completed and call.returned == "Tensor" and call.depth <= (case.call.depth if case.call else 0):
            return None
    latest = [c for c in case.trace.calls if c.fqn is not None and c.completed and c.returned in ("tuple", "list", "NoneType")]
    return latest[-1] if latest else None


def _comma_in(module: nn.Module | None) -> int | None:
    if module is None or _is_torchs(class_of(module)):
        return None
    found = next(one_tuples(forward_of(module)), None)
    return None if found is None else found.lineno


# -- arguments and attributes ------------------------------------------------------------------------------------------------


def _signature(case: Case, call: ModuleCall, module: nn.Module) -> Iterator[Suspicion]:
    if not isinstance(case.error, TypeError) or any(c.parent == case.index for c in case.trace.calls):
        return
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return
    args, names = _given(case, call)
    try:
        signature.bind(*range(args), **dict.fromkeys(names))
    except TypeError:
        pass
    else:
        return
    parameters = signature.parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    unknown = [name for name in names if name not in parameters]
    missing = [name for name in needed[args:] if name not in names]
    surplus = args - sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values())
    said = []
    if unknown:
        said.append(f"has no parameter {', '.join(map(repr, unknown))}")
    if missing:
        said.append(f"was not given {', '.join(map(repr, missing))}")
    if surplus > 0:
        said.append(f"was given {surplus} argument{'s' * (surplus > 1)} too many")
    fqn = call.fqn or ""
    yield Suspicion(
        diagnosis="call-signature",
        module=fqn,
        message=f"the forward of {named(case, fqn)} {' and '.join(said) or 'cannot take these arguments'}",
        arithmetic=f"forward{signature}; given {args} by position" + (f" and {', '.join(names)}" if names else ""),
        candidates=tuple(candidate(edit) for edit in _other_arguments(case, fqn, unknown, missing, surplus)),
        weight=STRONG,
    )


def _given(case: Case, call: ModuleCall) -> tuple[int, list[str]]:
    """How many arguments a module got by position, and the names of the others."""
    if call.parent is None:
        return len(case.args), list(case.kwargs)
    paths = [t.path for t in call.inputs] + list(call.arguments)
    positions = {path.partition("]")[0] for path in paths if path.startswith("[")}
    names = {path.partition("[")[0] for path in paths if path and not path.startswith("[")}
    return len(positions) + ("" in paths), sorted(names)


def _other_arguments(case: Case, fqn: str, unknown: list[str], missing: list[str], surplus: int) -> Iterator[Edit]:
    if fqn:
        return
    if len(unknown) == 1 and len(missing) == 1:
        old, new = unknown[0], missing[0]

        def renamed(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, {new if name == old else name: value for name, value in kwargs.items()}

        yield ChangeArguments(title=f"call it with {new}= instead of {old}=", code=f"{new}=", function=renamed)
    elif unknown and not missing:
        yield ChangeArguments(
            title=f"leave out {', '.join(unknown)}", code="", function=lambda a, k: (a, {n: v for n, v in k.items() if n not in unknown})
        )
    elif surplus > 0:
        count = len(case.args) - surplus
        yield ChangeArguments(title=f"give it {count} argument{'s' * (count != 1)}", code="", function=lambda a, k: (a[:count], k))


def _missing_attribute(case: Case) -> Iterator[Suspicion]:
    error = case.error
    subject, name = getattr(error, "obj", None), getattr(error, "name", None)
    if not isinstance(error, AttributeError) or not isinstance(name, str):
        name, subject = _asked_of_module(error) if isinstance(error, AttributeError) else (None, None)
    if not isinstance(subject, nn.Module) or not isinstance(name, str):
        return
    known = [n for registry in ("_modules", "_parameters", "_buffers") for n in subject.__dict__[registry]]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    candidates = []
    if near:
        edit = SetAttribute(
            title=f"write self.{near[0]} instead of self.{name}",
            code=near[0],
            module=case.owner,
            name=name,
            value=lambda m: getattr(m, near[0]),
        )
        candidates.append(candidate(edit, weight=STRONG))
    yield Suspicion(
        diagnosis="missing-attribute",
        module=case.owner,
        message=f"{named(case, case.owner)} has no attribute {name!r}" + (f"; it has {near[0]!r}" if near else ""),
        arithmetic=f"registered are {', '.join(known[:12])}" if known else "nothing is registered in it",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _asked_of_module(error: AttributeError) -> tuple[str | None, nn.Module | None]:
    """nn.Module raises without saying of whom what was asked; its frame has both."""
    found = frame_locals(error, "torch/nn/modules/module.py", "__getattr__")
    if found is None:
        return None, None
    owner = found.get("self")
    return found.get("name"), owner if isinstance(owner, nn.Module) else None
