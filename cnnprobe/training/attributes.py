"""Finds what the user's code sets on torch's objects and nothing ever reads, where torch reads an
attribute of nearly the same name.
"""

import difflib
import dis
import functools
import inspect
import types
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from cnnprobe.diagnosis.evidence import IdleAttribute
from cnnprobe.recorder.inventory import named_modules
from cnnprobe.training.idle_backward import find_idle_backward
from cnnprobe.training.surroundings import Surroundings

NEAR = 0.8  # of difflib's ratio: two letters in ten; "requiregrad" is 0.96 of "requiresgrad"
SHORTEST = 4  # letters; of shorter names one letter is another word
_OWN = frozenset(nn.Module().__dict__)
# Spellings without case and underscores: torch's own, and what other frameworks call it.
_TRAINABLE = ("requiresgrad", "needsgrad", "needgrad", "trainable")
_FROZEN = ("frozen", "freeze")
_TRAINING = ("training", "trainmode", "trainingmode", "istraining")
_EVALUATING = ("evalmode", "evaluationmode", "evaluating", "iseval")
_OPTIONS = {"learningrate": "lr", "lrate": "lr", "wd": "weight_decay", "decay": "weight_decay"}
_SETTINGS = {
    **dict.fromkeys(("prob", "rate", "dropprob", "droprate", "dropoutrate", "dropout"), "p"),
    "slope": "negative_slope",
    "epsilon": "eps",
}
_HIDING = ("train", "eval")  # methods that a value hides
_CALLED = frozenset({"train", "eval", "zero_grad", "step", "backward", "requires_grad_"})


def find_idle_attributes(model: nn.Module, around: Surroundings) -> tuple[IdleAttribute, ...]:
    """What was set and has no effect: those of a name and a value together, and the statements
    that name a method and do not call it.
    """
    found = [
        *_of_parameters(model),
        *_of_modules(model),
        *(idle for name, o in around.optimizers.values() for idle in _of_optimizer(name, o)),
    ]
    read = _list_read(model, around) if found else frozenset()
    kept = [idle for idle in found if not _is_read(idle, read)]
    return (*_join(kept), *_list_uncalled(around.functions), *find_idle_backward(model, around))


def plain_name(name: str) -> str:
    """A name without case and underscores, in which two spellings are alike.

    >>> plain_name("requires_Grad")
    'requiresgrad'
    """
    return name.replace("_", "").lower()


def is_near(name: str, meant: Iterable[str]) -> bool:
    """Whether a name reads as one of `meant`, given without case and underscores.

    >>> is_near("require_grad", ["requiresgrad"]), is_near("weight_norm", ["weightdecay"])
    (True, False)
    """
    plain = plain_name(name)
    return any(
        plain == other
        or (
            min(len(plain), len(other)) >= SHORTEST
            and difflib.SequenceMatcher(None, plain, other).ratio() >= NEAR
        )
        for other in meant
    )


def _join(found: Iterable[IdleAttribute]) -> Iterator[IdleAttribute]:
    groups: dict[tuple[str, ...], list[IdleAttribute]] = {}
    for idle in found:
        groups.setdefault((idle.holder, idle.attribute, idle.value), []).append(idle)
    for (holder, attribute, value), members in groups.items():
        first = members[0]
        yield IdleAttribute(
            holder=holder,
            owners=tuple(name for idle in members for name in idle.owners),
            attribute=attribute,
            meant=first.meant,
            value=value,
            wanted=first.wanted,
            actual=first.actual,
        )


# -- where they are set ----------------------------------------------------------------------------


def _of_parameters(model: nn.Module) -> Iterator[IdleAttribute]:
    for name, parameter in model.named_parameters():
        for attribute, value in vars(parameter).items():
            wanted = _read_switch(attribute, value, _TRAINABLE, _FROZEN)
            if wanted is not None and wanted != parameter.requires_grad:
                yield _switch(("parameter", name), attribute, "requires_grad", value, wanted=wanted)


def _of_modules(model: nn.Module) -> Iterator[IdleAttribute]:
    for fqn, module, first in named_modules(model):
        for attribute, value in list(vars(module).items()) if first else ():
            if attribute in _OWN:
                continue
            if attribute in _HIDING and isinstance(value, bool):
                wanted = value == (attribute == "train")
                yield _switch(("module", fqn), attribute, "training", value, wanted=wanted)
            elif attribute == "requires_grad" or not _is_stored(type(module), attribute):
                yield from _of_module(fqn, module, attribute, value)


def _of_module(fqn: str, module: nn.Module, attribute: str, value: Any) -> Iterator[IdleAttribute]:
    wanted = _read_switch(attribute, value, _TRAINABLE, ())
    if wanted is not None:
        own = list(module.parameters())
        if own and all(p.requires_grad != wanted for p in own):
            yield _switch(("module", fqn), attribute, "requires_grad", value, wanted=wanted)
        return
    wanted = _read_switch(attribute, value, _TRAINING, _EVALUATING)
    if wanted is not None:
        if wanted != module.training:
            yield _switch(("module", fqn), attribute, "training", value, wanted=wanted)
        return
    if type(module).__module__.startswith("torch.nn.") and _is_number(value):
        options = inspect.signature(type(module)).parameters
        meant = _find_meant(attribute, options, _SETTINGS)
        actual = vars(module).get(meant or "")
        if meant and _is_number(actual) and actual != value:
            yield _option(("module", fqn), attribute, meant, value, actual=actual)


def _of_optimizer(name: str, optimizer: Optimizer) -> Iterator[IdleAttribute]:
    groups, known = optimizer.param_groups, optimizer.defaults
    for attribute, value in vars(optimizer).items():
        if not _is_number(value) or _is_stored(type(optimizer), attribute):
            continue
        meant = attribute if attribute in known else _find_meant(attribute, known, _OPTIONS)
        actual = [group[meant] for group in groups if meant in group]
        if meant and actual and value not in actual:
            yield _option(("optimizer", name), attribute, meant, value, actual=actual[0])
    for group in groups:
        for key, value in group.items():
            own = key in known or key in _list_schedulers_keys()
            meant = None if own else _find_meant(key, known, _OPTIONS)
            if meant and _is_number(value) and group.get(meant) != value:
                yield _option(("group", name), key, meant, value, actual=group.get(meant))


def _set(
    place: tuple[str, str], attribute: str, meant: str, value: Any, *, wanted: Any, actual: Any
) -> IdleAttribute:
    """What was set and is not read; `place` is the kind of the object and its name."""
    return IdleAttribute(
        holder=place[0],
        owners=(place[1],),
        attribute=attribute,
        meant=meant,
        value=repr(value),
        wanted=repr(wanted),
        actual=repr(actual),
    )


def _switch(
    place: tuple[str, str], attribute: str, meant: str, value: Any, *, wanted: bool
) -> IdleAttribute:
    return _set(place, attribute, meant, value, wanted=wanted, actual=not wanted)


def _option(
    place: tuple[str, str], attribute: str, meant: str, value: Any, *, actual: Any
) -> IdleAttribute:
    return _set(place, attribute, meant, value, wanted=value, actual=actual)


def _read_switch(
    attribute: str, value: Any, meant: tuple[str, ...], opposite: tuple[str, ...]
) -> bool | None:
    """What a switch of about this name would be set to; None where it is none."""
    if not isinstance(value, bool) or attribute.startswith("_"):
        return None
    if is_near(attribute, meant[:1]) or plain_name(attribute) in meant:
        return value
    return not value if plain_name(attribute) in opposite else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _find_meant(name: str, known: Mapping[str, Any], others: Mapping[str, str]) -> str | None:
    """The option that a name of no option reads as."""
    if name in known or name.startswith("_"):
        return None
    meant = others.get(plain_name(name), "")
    if meant in known:
        return meant
    return next((option for option in known if is_near(name, [plain_name(option)])), None)


# -- what reads and sets them ----------------------------------------------------------------------


def _is_stored(kind: type, attribute: str) -> bool:
    """Whether a method of the class sets it, or its slots and class attributes declare it: then it
    is the class's own.
    """
    if any(attribute in vars(base) for base in kind.__mro__):
        return True
    return any(attribute in _list_stored(base) for base in kind.__mro__)


@functools.lru_cache(maxsize=4096)
def _list_stored(kind: type) -> frozenset[str]:
    """The attributes that the class's own methods set; to read their code takes milliseconds."""
    return frozenset(
        instruction.argval
        for code in _list_codes(_functions_of(kind))
        for instruction in dis.get_instructions(code)
        if instruction.opname == "STORE_ATTR"
    )


@functools.cache
def _list_schedulers_keys() -> frozenset[str]:
    """The texts in the code of torch's schedulers: keys that they put into groups, as max_lr."""
    kinds = [
        kind
        for module in (torch.optim.lr_scheduler, torch.optim.swa_utils)
        for kind in vars(module).values()
        if isinstance(kind, type) and kind.__module__ == module.__name__
    ]
    codes = _list_codes(function for kind in kinds for function in _functions_of(kind))
    return frozenset(text for code in codes for text in _list_texts(code.co_consts))


def _list_texts(constants: Iterable[Any]) -> Iterator[str]:
    for value in constants:
        if isinstance(value, tuple):
            yield from _list_texts(value)
        elif isinstance(value, str):
            yield value


def _functions_of(kind: type) -> Iterator[types.FunctionType]:
    for value in vars(kind).values():
        function = getattr(value, "fget", None) or getattr(value, "__func__", value)
        function = inspect.unwrap(function) if callable(function) else function
        if isinstance(function, types.FunctionType):
            yield function


def _list_codes(functions: Iterable[types.FunctionType]) -> Iterator[types.CodeType]:
    stack = [function.__code__ for function in functions]
    while stack:
        code = stack.pop()
        yield code
        stack.extend(c for c in code.co_consts if isinstance(c, types.CodeType))


def _is_read(idle: IdleAttribute, read: frozenset[tuple[str, str]]) -> bool:
    """Whether the user's code reads an attribute or key of that name; torch's own names are read
    of other objects.
    """
    if idle.attribute in (*_HIDING, "requires_grad"):
        return False
    if idle.holder == "group":
        return ("text", idle.attribute) in read
    if idle.holder == "optimizer":  # its options are keys, which are texts too
        return ("attribute", idle.attribute) in read
    return any((how, idle.attribute) in read for how in ("attribute", "text"))


def _list_read(model: nn.Module, around: Surroundings) -> frozenset[tuple[str, str]]:
    """The names of attributes, and the texts, that may be keys or names of attributes, which the
    step and the classes of the user's read.
    """
    known: list[Any] = [module for _, module, _ in named_modules(model)]
    for group in (around.models, around.optimizers, around.schedulers):
        known += [subject for _, subject in group.values()]
    kinds = {base for subject in known for base in type(subject).__mro__}
    own = [kind for kind in kinds if not kind.__module__.startswith(("torch", "builtins"))]
    functions = [*around.functions, *(f for kind in own for f in _functions_of(kind))]
    return frozenset(name for code in _list_codes(functions) for name in _names_read(code))


def _names_read(code: types.CodeType) -> Iterator[tuple[str, str]]:
    instructions = list(dis.get_instructions(code))
    following = [each.opname for each in instructions[1:]]
    for each, after in zip(instructions, [*following, ""], strict=True):
        if not isinstance(each.argval, str):
            continue
        if each.opname.startswith(("LOAD_ATTR", "LOAD_METHOD")):
            yield "attribute", each.argval
        elif each.opname == "LOAD_CONST" and after != "STORE_SUBSCR":
            yield "text", each.argval


def _list_uncalled(functions: Iterable[types.FunctionType]) -> Iterator[IdleAttribute]:
    """Statements such as `model.eval`, whose value is dropped."""
    for code in _list_codes(functions):
        before, line = "", code.co_firstlineno
        for instruction in dis.get_instructions(code):
            positions = instruction.positions
            line = (positions.lineno if positions is not None else None) or line
            if instruction.opname == "POP_TOP" and before in _CALLED:
                yield IdleAttribute(
                    holder="statement",
                    owners=(),
                    attribute=before,
                    meant=f"{before}()",
                    source=f"{code.co_filename}:{line}",
                )
            before = str(instruction.argval) if instruction.opname == "LOAD_ATTR" else ""
