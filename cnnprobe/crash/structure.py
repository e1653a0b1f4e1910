"""Crashes of Python rather than of arithmetic: no forward, a missing argument or attribute."""

import difflib
import inspect
import types
from collections.abc import Iterator
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.build import resize_input
from cnnprobe.crash.edits.calls import Bind
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.inputs import ChangeArguments
from cnnprobe.crash.edits.layers import Exchange
from cnnprobe.crash.edits.writing import outdent
from cnnprobe.crash.facts.frames import find_frames, list_called, read_arguments, read_frame
from cnnprobe.crash.facts.source import lift_nested
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.recorder.inventory import class_of, is_leaf
from cnnprobe.trace import ModuleCall

_SMALLEST_IMAGE = 16  # pixels: below, a size is that of a patch or a window


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong with the code rather than with the numbers."""
    module, call = crash.module, crash.call
    if call is None:
        return
    if module is not None and has_no_forward(crash):
        yield from _no_forward(call.fqn or "", module)
        return
    if module is not None:
        yield from _signature(crash, call, module)
        yield from _called_none(crash, call, module)
    yield from _missing_attribute(crash)
    yield from _refused_size(crash)


def has_no_forward(crash: Crash) -> bool:
    """Whether the failing module's class defines no forward."""
    module = crash.module
    return (
        module is not None
        and not is_leaf(module)
        and type(module).forward is nn.Module.forward
        and "forward" not in module.__dict__
    )


# -- no forward --------------------------------------------------------------------------------------------------------------


def _no_forward(fqn: str, module: nn.Module) -> Iterator[Suspect]:
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        kind = type(module).__name__
        children = list(module._modules)

        def sequential(old: nn.Module) -> nn.Module:
            return nn.Sequential(*(old._modules[name] for name in children))  # type: ignore[arg-type]

        title = f"make {quote(fqn)} an nn.Sequential, or call its modules one by one"
        yield Suspect(
            diagnosis="missing-forward",
            module=fqn,
            message=f"{quote(fqn)} is an nn.{kind}: a list of modules, which cannot be called itself",
            candidates=(
                propose(
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
        candidates.append(propose(edit, weight=STRONG))
    kind_name = class_of(module).__name__
    has = f"; it has {near[0]!r}" if near else f"; its methods are {', '.join(methods) or 'none'}"
    inside = _inside_init(module)
    if inside is not None and not near:
        line = inside.__code__.co_firstlineno
        has = f": it is defined at line {line}, inside of __init__"
        written = outdent(getattr(class_of(module), "__init__").__code__, "forward")  # noqa: B009 - `type` has another
        edit = Bind(
            title=f"indent the forward at line {line} as __init__ is",
            module=fqn,
            function=inside,
            written=written,
        )
        candidates.append(propose(edit, weight=STRONG))
    yield Suspect(
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
        found = lift_nested(getattr(class_of(module), "__init__"), "forward")  # noqa: B009 - `type` has another
    except ValueError:  # defaults that only the running __init__ knows
        return None
    return found if isinstance(found, types.FunctionType) else None


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.") or kind is object


# -- a size that the model's own code refuses -------------------------------------------------------------------------------


def _refused_size(crash: Crash) -> Iterator[Suspect]:
    """An assertion or a ValueError of the model's own code about its input, where an attribute of it names another size."""
    owner = crash.modules.get(crash.owner)
    if (
        owner is None
        or not isinstance(crash.error, AssertionError | ValueError)
        or not crash.root_inputs
        or crash.leaf is not None
    ):
        return
    shape = crash.root_inputs[0].shape
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
            yield Suspect(
                diagnosis="shape-mismatch",
                module=crash.owner,
                message=f"{describe_module(crash, crash.owner)} itself refuses {shape}; its {name} is {value}",
                arithmetic=f"{name} {sizes[0]} x {sizes[1]}, arrived {shape[2]} x {shape[3]}",
                candidates=(propose(resize_input(sizes, exact=True), weight=STRONG),),
            )


# -- arguments and attributes ------------------------------------------------------------------------------------------------


def _signature(crash: Crash, call: ModuleCall, module: nn.Module) -> Iterator[Suspect]:
    if not isinstance(crash.error, TypeError) or any(
        c.parent == crash.index for c in crash.trace.calls
    ):
        return
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):
        return
    args, names = _given(crash, call)
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
    yield Suspect(
        diagnosis="call-signature",
        module=fqn,
        message=f"the forward of {describe_module(crash, fqn)} {' and '.join(said) or 'cannot take these arguments'}",
        arithmetic=f"forward({', '.join(parameters)}); given {args} by position"
        + (f" and {', '.join(names)}" if names else ""),
        candidates=tuple(
            propose(edit) for edit in _other_arguments(crash, fqn, unknown, missing, surplus)
        ),
        weight=STRONG,
        advice=(f"call {quote(fqn)} with {', '.join(missing)} as well",)
        if missing and not unknown
        else (),
    )


def _given(crash: Crash, call: ModuleCall) -> tuple[int, list[str]]:
    """How many arguments a module got by position, and the names of the others."""
    found = (
        (crash.args, crash.kwargs)
        if call.parent is None
        else read_arguments(crash.error, crash.module)
    )
    if found is not None:
        return len(found[0]), sorted(found[1])
    paths = [t.path for t in call.inputs] + list(call.arguments)
    positions = {path.partition("]")[0] for path in paths if path.startswith("[")}
    names = {path.partition("[")[0] for path in paths if path and not path.startswith("[")}
    return len(positions) + ("" in paths), sorted(names)


def _other_arguments(
    crash: Crash, fqn: str, unknown: list[str], missing: list[str], surplus: int
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
        count = len(crash.args) - surplus
        yield ChangeArguments(
            title=f"give it {count} argument{'s' * (count != 1)}",
            code="",
            function=lambda a, k: (a[:count], k),
        )


def _called_none(crash: Crash, call: ModuleCall, module: nn.Module) -> Iterator[Suspect]:
    """A layer that is None, as an option of the constructor left it, and is called all the same."""
    if not isinstance(crash.error, TypeError) or any(
        frame.name != "forward" for frame in find_frames(crash.error)[-1:]
    ):
        return
    called = (
        list_called(crash.error) if not isinstance(module, nn.Sequential) else list(module._modules)
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
        title=f"make {quote(fqn)} an nn.Identity() where there is nothing to do",
        code="nn.Identity()",
        module=call.fqn or "",
        name=name,
        value=lambda _module: nn.Identity(),
    )
    yield Suspect(
        diagnosis="missing-attribute",
        module=call.fqn or "",
        message=f"{describe_module(crash, call.fqn or '')} calls its layer {name!r}, which is None",
        arithmetic=f"self.{name} is None",
        candidates=(propose(skip, weight=STRONG),),
        weight=STRONG,
        advice=(f"build {quote(fqn)} in __init__, or call it only where it is not None",),
    )


def _missing_attribute(crash: Crash) -> Iterator[Suspect]:
    error = crash.error
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
            module=crash.owner,
            name=name,
            value=lambda m: getattr(m, near[0]),
        )
        candidates.append(propose(edit, weight=STRONG))
    yield Suspect(
        diagnosis="missing-attribute",
        module=crash.owner,
        message=f"{describe_module(crash, crash.owner)} has no attribute {name!r}"
        + (f"; it has {near[0]!r}" if near else ""),
        arithmetic=f"registered are {', '.join(known[:12])}"
        if known
        else "nothing is registered in it",
        candidates=tuple(candidates),
        weight=STRONG,
    )


def _asked_of_module(error: AttributeError) -> tuple[str | None, nn.Module | None]:
    """nn.Module raises without saying of whom what was asked; its frame has both."""
    found = read_frame(error, "torch/nn/modules/module.py", "__getattr__")
    if found is None:
        return None, None
    owner = found.get("self")
    return found.get("name"), owner if isinstance(owner, nn.Module) else None
