"""Crashes of Python rather than of arithmetic: no forward, a missing argument or attribute."""

import difflib
import inspect
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnprobe.crash.adapting import resized
from cnnprobe.crash.case import Case, named, quoted
from cnnprobe.crash.edits import Bind, ChangeArguments, Edit, Exchange, SetAttribute
from cnnprobe.crash.functions import outdented
from cnnprobe.crash.suspicion import STRONG, Suspicion, candidate
from cnnprobe.crash.users_code import (
    arguments_of,
    called_on_the_line,
    frame_locals,
    nested,
    users_frames,
)
from cnnprobe.recorder.inventory import class_of, is_leaf
from cnnprobe.trace import ModuleCall

_SMALLEST_IMAGE = 16  # pixels: below, a size is that of a patch or a window


def suspect(case: Case) -> Iterator[Suspicion]:
    """What may be wrong with the code rather than with the numbers."""
    module, call = case.module, case.call
    if call is None:
        return
    if module is not None and has_no_forward(case):
        yield from _no_forward(call.fqn or "", module)
        return
    if module is not None:
        yield from _signature(case, call, module)
        yield from _called_none(case, call, module)
    yield from _missing_attribute(case)
    yield from _refused_size(case)


def has_no_forward(case: Case) -> bool:
    """Whether the failing module's class defines no forward."""
    module = case.module
    return (
        module is not None
        and not is_leaf(module)
        and type(module).forward is nn.Module.forward
        and "forward" not in module.__dict__
    )


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
            candidates=(
                candidate(
                    Exchange(title=title, code="nn.Sequential(*...)", module=fqn, layer=sequential),
                    weight=STRONG,
                ),
            ),
            weight=STRONG,
        )
        return
    methods = [
        name
        for kind in class_of(module).__mro__
        if not _is_torchs(kind)
        for name, v in vars(kind).items()
        if inspect.isfunction(v)
    ]
    near = difflib.get_close_matches(
        "forward", [name for name in methods if not name.startswith("__")], n=1, cutoff=0.6
    )
    candidates = []
    if near:
        function = getattr(class_of(module), near[0])
        edit = Bind(
            title=f"rename the method {near[0]} to forward",
            code="def forward",
            module=fqn,
            function=function,
        )
        candidates.append(candidate(edit, weight=STRONG))
    kind_name = class_of(module).__name__
    has = f"; it has {near[0]!r}" if near else f"; its methods are {', '.join(methods) or 'none'}"
    inside = _inside_init(module)
    if inside is not None and not near:
        line = inside.__code__.co_firstlineno
        has = f": it is defined at line {line}, inside of __init__"
        written = outdented(getattr(class_of(module), "__init__").__code__, "forward")  # noqa: B009 - `type` has another
        edit = Bind(
            title=f"indent the forward at line {line} as __init__ is",
            module=fqn,
            function=inside,
            written=written,
        )
        candidates.append(candidate(edit, weight=STRONG))
    yield Suspicion(
        diagnosis="missing-forward",
        module=fqn,
        message=f"the class {kind_name} has no method named forward{has}",
        arithmetic="" if near else "a forward that is indented into __init__ is no method",
        candidates=tuple(candidates),
        weight=STRONG,
        advice=()
        if near
        else (
            f"define forward(self, x) in {kind_name}, at the level of __init__: one indentation less, if it stands inside",
        ),
    )


def _inside_init(module: nn.Module) -> types.FunctionType | None:
    """The forward that stands inside of __init__, by its indentation."""
    try:
        found = nested(getattr(class_of(module), "__init__"), "forward")  # noqa: B009 - `type` has another
    except ValueError:  # defaults that only the running __init__ knows
        return None
    return found if isinstance(found, types.FunctionType) else None


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.") or kind is object


# -- a size that the model's own code refuses -------------------------------------------------------------------------------


def _refused_size(case: Case) -> Iterator[Suspicion]:
    """An assertion or a ValueError of the model's own code about its input, where an attribute of it names another size."""
    owner = case.modules.get(case.owner)
    if (
        owner is None
        or not isinstance(case.error, AssertionError | ValueError)
        or not case.root_inputs
        or case.leaf is not None
    ):
        return
    shape = case.root_inputs[0].shape
    own = {
        name: value
        for name, value in owner.__dict__.items()
        if isinstance(value, int | tuple | list) and "size" in name and value
    }
    for name, value in own.items():
        sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * 2
        if (
            len(shape) == 4
            and len(sizes) == 2
            and all(type(n) is int and n >= _SMALLEST_IMAGE for n in sizes)
            and sizes != shape[2:]
        ):
            yield Suspicion(
                diagnosis="shape-mismatch",
                module=case.owner,
                message=f"{named(case, case.owner)} itself refuses {shape}; its {name} is {value}",
                arithmetic=f"{name} {sizes[0]} x {sizes[1]}, arrived {shape[2]} x {shape[3]}",
                candidates=(candidate(resized(sizes, exact=True), weight=STRONG),),
            )


# -- arguments and attributes ------------------------------------------------------------------------------------------------


def _signature(case: Case, call: ModuleCall, module: nn.Module) -> Iterator[Suspicion]:
    if not isinstance(case.error, TypeError) or any(
        c.parent == case.index for c in case.trace.calls
    ):
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
    needed = [
        n
        for n, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    unknown = [name for name in names if name not in parameters]
    missing = [name for name in needed[args:] if name not in names]
    surplus = args - sum(
        p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters.values()
    )
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
        arithmetic=f"forward({', '.join(parameters)}); given {args} by position"
        + (f" and {', '.join(names)}" if names else ""),
        candidates=tuple(
            candidate(edit) for edit in _other_arguments(case, fqn, unknown, missing, surplus)
        ),
        weight=STRONG,
        advice=(f"call {quoted(fqn)} with {', '.join(missing)} as well",)
        if missing and not unknown
        else (),
    )


def _given(case: Case, call: ModuleCall) -> tuple[int, list[str]]:
    """How many arguments a module got by position, and the names of the others."""
    found = (
        (case.args, case.kwargs) if call.parent is None else arguments_of(case.error, case.module)
    )
    if found is not None:
        return len(found[0]), sorted(found[1])
    paths = [t.path for t in call.inputs] + list(call.arguments)
    positions = {path.partition("]")[0] for path in paths if path.startswith("[")}
    names = {path.partition("[")[0] for path in paths if path and not path.startswith("[")}
    return len(positions) + ("" in paths), sorted(names)


def _other_arguments(
    case: Case, fqn: str, unknown: list[str], missing: list[str], surplus: int
) -> Iterator[Edit]:
    if fqn:
        return
    if len(unknown) == 1 and len(missing) == 1:
        old, new = unknown[0], missing[0]

        def renamed(
            args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            return args, {new if name == old else name: value for name, value in kwargs.items()}

        yield ChangeArguments(
            title=f"call it with {new}= instead of {old}=", code=f"{new}=", function=renamed
        )
    elif unknown and not missing:
        yield ChangeArguments(
            title=f"leave out {', '.join(unknown)}",
            code="",
            function=lambda a, k: (a, {n: v for n, v in k.items() if n not in unknown}),
        )
    elif surplus > 0:
        count = len(case.args) - surplus
        yield ChangeArguments(
            title=f"give it {count} argument{'s' * (count != 1)}",
            code="",
            function=lambda a, k: (a[:count], k),
        )


def _called_none(case: Case, call: ModuleCall, module: nn.Module) -> Iterator[Suspicion]:
    """A layer that is None, as an option of the constructor left it, and is called all the same."""
    if not isinstance(case.error, TypeError) or any(
        frame.name != "forward" for frame in users_frames(case.error)[-1:]
    ):
        return
    called = (
        called_on_the_line(case.error)
        if not isinstance(module, nn.Sequential)
        else list(module._modules)
    )
    name = next(
        (
            n
            for n in called
            if module._modules.get(n, module) is None or module.__dict__.get(n, module) is None
        ),
        None,
    )
    if name is None:
        return
    fqn = f"{call.fqn}.{name}" if call.fqn else name
    skip = SetAttribute(
        title=f"make {quoted(fqn)} an nn.Identity() where there is nothing to do",
        code="nn.Identity()",
        module=call.fqn or "",
        name=name,
        value=lambda _module: nn.Identity(),
    )
    yield Suspicion(
        diagnosis="missing-attribute",
        module=call.fqn or "",
        message=f"{named(case, call.fqn or '')} calls its layer {name!r}, which is None",
        arithmetic=f"self.{name} is None",
        candidates=(candidate(skip, weight=STRONG),),
        weight=STRONG,
        advice=(f"build {quoted(fqn)} in __init__, or call it only where it is not None",),
    )


def _missing_attribute(case: Case) -> Iterator[Suspicion]:
    error = case.error
    subject, name = getattr(error, "obj", None), getattr(error, "name", None)
    if not isinstance(error, AttributeError) or not isinstance(name, str):
        name, subject = (
            _asked_of_module(error) if isinstance(error, AttributeError) else (None, None)
        )
    if not isinstance(subject, nn.Module) or not isinstance(name, str):
        return
    known = [
        n
        for registry in ("_modules", "_parameters", "_buffers")
        for n in subject.__dict__[registry]
    ]
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
        message=f"{named(case, case.owner)} has no attribute {name!r}"
        + (f"; it has {near[0]!r}" if near else ""),
        arithmetic=f"registered are {', '.join(known[:12])}"
        if known
        else "nothing is registered in it",
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
