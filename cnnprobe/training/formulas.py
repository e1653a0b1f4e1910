"""Holds functions and modules of the user's that are named like a known formula against properties
that every correct one has: they are called once more, on inputs whose answer is known.
"""

import contextlib
import dis
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from cnnprobe.diagnosis.evidence import BrokenProperty
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.training.events import LoopWatch
from cnnprobe.training.formula_calls import Call, Formula, copy_value
from cnnprobe.training.free_output import Reached
from cnnprobe.training.properties import FORMULAS
from cnnprobe.training.surroundings import Surroundings, is_own

FORWARD = "forward"


def find_broken(
    model: nn.Module, around: Surroundings, step: Callable[[], Any], put_back: Callable[[], None]
) -> tuple[BrokenProperty, ...]:
    """The properties that functions of a known name do not have."""
    if not any(find_formulas(name) for name in _list_names(model, around)):
        return ()
    calls = _capture_calls(step)
    put_back()
    found: dict[str, BrokenProperty] = {}
    for call in calls:  # one that is called by another of the same formula is its cause
        broken = [_check(formula, call) for formula in find_formulas(call.name)]
        found |= {each.formula: each for each in broken if each is not None}
    return tuple(found.values())


@functools.cache
def find_formulas(name: str) -> tuple[Formula, ...]:
    """The known formulas that a function's or a class's name says."""
    return tuple(f for f in FORMULAS if f.is_named(name))


def _list_names(model: nn.Module, around: Surroundings) -> set[str]:
    """The names of the functions and classes that a step may call."""
    codes = [function.__code__ for function in around.functions]
    names = {code.co_name for code in codes}
    models = {id(model): model} | {key: each for key, (_, each) in around.models.items()}
    for each in models.values():
        for kind in {type(module) for _, module, _ in named_modules(each)}:
            if not kind.__module__.startswith("torch."):
                names.add(kind.__name__)
                own = (f.__code__ for f in vars(kind).values() if inspect.isfunction(f))
                codes += filter(is_own, own)  # what a library calls is none of the user's
    for code in codes:
        names |= {str(i.argval) for i in dis.get_instructions(code) if i.opname in _NAMING}
    return names


_NAMING = {"LOAD_GLOBAL", "LOAD_ATTR", "LOAD_METHOD", "LOAD_NAME", "LOAD_DEREF"}


def _capture_calls(step: Callable[[], Any]) -> list[Call]:
    """The first call of each function with a known name, up to the first backward of a step."""
    found: dict[tuple[str, types.CodeType], Call] = {}

    def watch(kind: str, scope: Mapping[str, Any], frame: types.FrameType) -> None:
        if kind == "backward":
            raise Reached
        name = _name_frame(frame.f_code, scope)
        if kind == "known" and find_formulas(name) and (name, frame.f_code) not in found:
            found[name, frame.f_code] = _keep(name, frame)

    try:
        with LoopWatch(watch, known=_is_known):
            step()
    except Reached:
        pass
    except Exception:  # the step's own, told elsewhere
        return []
    return list(found.values())


def _is_known(code: types.CodeType) -> bool:
    if not is_own(code):
        return False
    return code.co_name in (FORWARD, "__call__") or bool(find_formulas(code.co_name))


def _name_frame(code: types.CodeType, scope: Mapping[str, Any]) -> str:
    own = _list_own(code)
    is_called = code.co_name in (FORWARD, "__call__") and own and own[0] in scope
    return type(scope[own[0]]).__name__ if is_called else code.co_name


def _list_own(code: types.CodeType) -> tuple[str, ...]:
    """The first argument of a method, as its name or its qualified name says."""
    first = code.co_varnames[: min(1, code.co_argcount)]
    is_method = code.co_name in (FORWARD, "__call__") or first in (("self",), ("cls",))
    return first if is_method else ()


def _keep(name: str, frame: types.FrameType) -> Call:
    code, given = frame.f_code, frame.f_locals
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    cells = tuple(types.CellType(given.get(free)) for free in code.co_freevars)
    function = types.FunctionType(code, frame.f_globals, code.co_name, None, cells)
    own = _list_own(code)
    return Call(
        name=name,
        function=function,
        owner={n: given[n] for n in own if n in given},
        arguments={n: copy_value(given[n]) for n in names if n in given and n not in own},
        source=f"{code.co_filename}:{code.co_firstlineno}",
    )


def _check(formula: Formula, call: Call) -> BrokenProperty | None:
    with contextlib.suppress(Exception), _aside():  # what takes other inputs is not judged
        found = formula.check(call)
        if found is not None:
            return BrokenProperty(
                name=call.name, formula=formula.name, expected=found[0], found=found[1],
                fix=[*found, formula.fix][2], source=call.source, reference=formula.source,
            )  # fmt: skip
    return None


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """The generators as they are afterwards; an equal start."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        yield
