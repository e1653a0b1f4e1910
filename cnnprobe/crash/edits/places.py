"""Where in the user's files a layer is made and a module is called.

Everything here raises UnknownPlaceError where the place is not known for certain.
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.made import find_made
from cnnprobe.crash.facts.trees import list_functions, list_nodes, starts_at
from cnnprobe.recorder.inventory import class_of


def _find_users_class(
    crash: Crash, fqn: str, alike: frozenset[str] | None = frozenset()
) -> tuple[str, list[str]]:
    """The innermost module of the user's own class above a module, and the path from there to it.

    `alike` are changed in the same way; None: the class is not to be changed.
    """
    path: list[str] = []
    while fqn:
        fqn, _, name = fqn.rpartition(".")
        path.insert(0, name)
        if not class_of(crash.modules[fqn]).__module__.startswith("torch."):
            break
    module = crash.modules[fqn]
    if not path or class_of(module).__module__.startswith("torch."):
        raise UnknownPlaceError
    others = [n for n, m in crash.modules.items() if type(m) is type(module) and m is not module]
    if alike is not None and not all(
        ".".join(filter(None, [name, *path])) in alike for name in others
    ):
        raise UnknownPlaceError  # a change of the class would change its other instances too
    return fqn, path


def find_method(kind: type, name: str) -> tuple[File, ast.FunctionDef]:
    """The file of a class's method, and its syntax tree."""
    function = inspect.unwrap(getattr(kind, name))
    path = inspect.getsourcefile(function)
    if path is None:
        raise UnknownPlaceError
    file = open_file(path)
    for node in list_functions(file.tree):
        is_plain = isinstance(node, ast.FunctionDef)
        if is_plain and node.name == name and starts_at(node, function.__code__):
            return file, node  # type: ignore[return-value]
    raise UnknownPlaceError


def find_assigned(function: ast.FunctionDef, name: str) -> ast.expr:
    """The value of the only assignment `self.name = ...`."""
    found = [
        n.value
        for n in list_nodes(function)
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Attribute) and t.attr == name and isinstance(t.value, ast.Name)
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def find_constructor(
    crash: Crash, fqn: str, alike: frozenset[str] | None = frozenset()
) -> tuple[str, File, ast.Call]:
    """The call in the user's file that makes a layer, and whose class it stands in."""
    value: ast.expr
    if crash.model is not None and is_all_stock(crash, fqn):
        owner, at, path = "", "", [name for name in fqn.split(".") if name]
        file, value = find_made(crash.model)
    else:
        owner, path = _find_users_class(crash, fqn, alike)
        file, function = find_method(class_of(crash.modules[owner]), "__init__")
        value = find_assigned(function, path[0])
        at = f"{owner}.{path.pop(0)}" if owner else path.pop(0)
    for name in path:
        if not isinstance(crash.modules[at], nn.Sequential | nn.ModuleList):
            raise UnknownPlaceError
        value = list_members(value)[list(crash.modules[at]._modules).index(name)]
        at = f"{at}.{name}" if at else name
    if not isinstance(value, ast.Call):
        raise UnknownPlaceError
    return owner, file, value


def is_all_stock(crash: Crash, fqn: str) -> bool:
    """Whether a module and all above it, up to the model, are of torch's own classes."""
    parts = fqn.split(".") if fqn else []
    above = [".".join(parts[:i]) for i in range(len(parts) + 1)]
    return all(class_of(crash.modules[name]).__module__.startswith("torch.") for name in above)


def list_members(value: ast.expr) -> list[ast.expr]:
    """The layers that are written out in a Sequential or ModuleList."""
    if isinstance(value, ast.Call) and not value.keywords:
        members = value.args
        if len(members) == 1 and isinstance(members[0], ast.List):
            members = members[0].elts
        if members and not any(isinstance(m, ast.Starred | ast.Dict) for m in members):
            return members
    raise UnknownPlaceError


def get_given(call: ast.Call, names: list[str], name: str) -> ast.expr | None:
    """An argument of a call, by its name or its place among the names."""
    given = next((k.value for k in call.keywords if k.arg == name), None)
    if given is None and name in names and names.index(name) < len(call.args):
        given = call.args[names.index(name)]
    return given


def write_argument(
    file: File, call: ast.Call, names: list[str], name: str, value: object
) -> TextChange:
    """Another value for an argument of a call, or the argument put last."""
    if (given := get_given(call, names, name)) is not None:
        return file.replace(given, repr(value))
    end = file.span(call)[1] - 1
    before = file.text[:end].rstrip()
    separator = "" if before.endswith("(") else " " if before.endswith(",") else ", "
    return TextChange(file.path, len(before), len(before), f"{separator}{name}={value!r}")


def check_plain(call: ast.Call) -> None:
    """A call with *args or **kwargs cannot be changed."""
    unpacks = any(isinstance(a, ast.Starred) for a in call.args)
    if unpacks or any(k.arg is None for k in call.keywords):
        raise UnknownPlaceError


def read_prefix(file: File, call: ast.Call) -> str:
    """What stands before the class name in the user's spelling: "nn.", "torch.nn."."""
    name = file.source(call.func)
    if "." not in name:
        raise UnknownPlaceError  # imported one by one: the other name may not be
    return name.rpartition(".")[0] + "."


def open_line(source: str) -> tuple[File, int]:
    """The file that a source names, and the line."""
    path, _, number = source.rpartition(":")
    if not number.isdigit():
        raise UnknownPlaceError
    return open_file(path), int(number)


def list_calls_on(file: File, line: int) -> Iterator[ast.Call]:
    """The calls of a file that stand on a line."""
    for node in list_nodes(file.tree):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or node.lineno):
            yield node


def take_only(found: list[ast.Call]) -> ast.Call:
    """The one call that was found."""
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def find_called(source: str, name: str) -> tuple[File, ast.Call]:
    """The only call of that name on the line that a source names, with its file."""
    file, line = open_line(source)
    return file, take_only([c for c in list_calls_on(file, line) if read_called(c) == name])


def find_call(crash: Crash, fqn: str) -> tuple[str, File, ast.Call]:
    """The only call of a module: the fqn of that whose forward has it, the file, the call."""
    owner, path = _find_users_class(crash, fqn)
    file, line = open_line(next((c.source for c in crash.trace.calls if c.fqn == fqn), ""))
    if len(path) != 1:
        raise UnknownPlaceError
    return (
        owner,
        file,
        take_only(
            [
                c
                for c in list_calls_on(file, line)
                if isinstance(c.func, ast.Attribute) and c.func.attr == path[0] and c.args
            ]
        ),
    )


def check_names(crash: Crash, owner: str, code: str) -> None:
    """Code that says torch. or F. is no patch for a file that has not imported them."""
    names = vars(sys.modules.get(class_of(crash.modules[owner]).__module__, object()))
    for word in ("torch", "F", "nn"):
        if f"{word}." in code.replace("{x}", "") and code.startswith(word) and word not in names:
            raise UnknownPlaceError


def spell_code(crash: Crash, owner: str, code: str) -> str:
    """Code for the file of a module: a function of torch's as the method of that name, where the
    file has not imported torch.
    """
    try:
        check_names(crash, owner, code)
    except UnknownPlaceError:
        found = re.fullmatch(r"torch\.(\w+)\(\{x\}(?:, (.*))?\)", code)
        if found is None or not hasattr(Tensor, found[1]):
            raise
        return f"{{x}}.{found[1]}({found[2] or ''})"
    return code


def write_operand(file: File, node: ast.expr, code: str) -> str:
    """An expression as it goes into code: in parentheses where it must."""
    text = file.source(node)
    simple = isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    return text if simple or not code.startswith("{x}") else f"({text})"


def is_function(file: File, call: ast.Call) -> bool:
    """torch.softmax(x) rather than x.softmax()."""
    return not isinstance(call.func, ast.Attribute) or file.source(call.func.value) in (
        "torch",
        "F",
        "nn.functional",
        "torch.nn.functional",
    )


def read_called(call: ast.Call) -> str:
    """The last part of the name that a call calls."""
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )
