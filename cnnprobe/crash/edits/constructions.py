"""A setting of a layer that its block takes as an argument: changed where the block is made."""

import ast
from collections.abc import Mapping
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import (
    check_plain,
    find_constructor,
    find_method,
    get_given,
)
from cnnprobe.recorder.inventory import class_of


def change_construction(
    crash: Crash, fqn: str, names: list[str], changes: Mapping[str, Any], others: list[Any]
) -> TextChange:
    """`Block(16)` rather than `nn.Conv2d(channels, ...)` in the class that others share.

    Raises:
        UnknownPlaceError: the setting is no argument of the block's, or others need its value.
    """
    (name, value), *more = changes.items()
    owner, file, call = find_constructor(crash, fqn, alike=None)
    check_plain(call)
    given = get_given(call, names, name)
    if more or not owner or not isinstance(given, ast.Name) or set(others) != {value}:
        raise UnknownPlaceError
    _, function = find_method(class_of(crash.modules[owner]), "__init__")
    parameters = [argument.arg for argument in function.args.args][1:]
    if given.id not in parameters or _is_used(crash, owner, function, given.id):
        raise UnknownPlaceError
    _, file, block = find_constructor(crash, owner)
    check_plain(block)
    argument = get_given(block, parameters, given.id)
    old = getattr(crash.modules[fqn], name)
    if argument is None or type(value) is not int or type(old) is not int or not old:
        raise UnknownPlaceError
    is_multiple = isinstance(argument, ast.Name) and value > old and value % old == 0
    text = f"{file.source(argument)} * {value // old}" if is_multiple else repr(value)
    return file.replace(argument, text)


def _is_used(crash: Crash, owner: str, function: ast.FunctionDef, name: str) -> bool:
    """Whether a parameter is set anew, or a layer that has run was made with it."""
    nodes = list(ast.walk(function))
    if any(
        isinstance(n, ast.Name) and n.id == name and isinstance(n.ctx, ast.Store) for n in nodes
    ):
        return True
    done = [c.fqn for c in crash.trace.calls if c.fqn is not None and c.completed]
    for node in (n for n in nodes if isinstance(n, ast.Assign)):
        read = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        made = [t.attr for t in node.targets if isinstance(t, ast.Attribute)]
        paths = [f"{owner}.{attribute}" for attribute in made]
        if name in read and any(f"{fqn}.".startswith(f"{p}.") for fqn in done for p in paths):
            return True
    return False
