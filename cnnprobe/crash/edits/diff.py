"""Edits as a unified diff of the user's file: only where the line to change is known and changing it does what was tried."""

import ast
import difflib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.attributes import SetAttribute
from cnnprobe.crash.edits.calls import Adapt, AdaptOutput, Bind, KeepFirst, Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change, File, UnknownPlaceError, open_file
from cnnprobe.crash.edits.layers import Exchange, Insert, Reconfigure
from cnnprobe.crash.facts.source import parse
from cnnprobe.recorder.inventory import class_of

_OPERATORS = {"add": ast.Add, "sub": ast.Sub, "mul": ast.Mult, "div": ast.Div}


def write_diff(crash: Crash, edits: Iterable[Edit]) -> str:
    """The unified diff that makes the edits; "" where one of them has no known line."""
    edits = tuple(edits)
    return write_changes(
        lambda: [change for edit in edits for change in _changes(crash, edit, edits)]
    )


def write_changes(written: Callable[[], Iterable[Change]]) -> str:
    """The unified diff of some changes; "" where they have no known line."""
    try:
        changes = _distinct(written())
    except (UnknownPlaceError, SyntaxError, OSError, TypeError, UnicodeDecodeError, IndexError):
        return ""
    paths = {change.path for change in changes}
    return "".join(_unified(path, [c for c in changes if c.path == path]) for path in sorted(paths))


def _unified(path: str, changes: list[Change]) -> str:
    old = Path(path).read_text(encoding="utf-8")
    new = old
    for change in sorted(changes, key=lambda c: -c.start):
        new = new[: change.start] + change.text + new[change.end :]
    shown = (
        os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path.lstrip("/")
    )  # for `patch -p1 -d /`
    lines = difflib.unified_diff(
        old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{shown}", f"b/{shown}"
    )
    return "".join(
        line if line.endswith("\n") else line + "\n\\ No newline at end of file\n" for line in lines
    )


def _distinct(changes: Iterable[Change]) -> list[Change]:
    """Each change once; two that overlap cannot both be made."""
    found = list(dict.fromkeys(changes))
    for i, a in enumerate(found):
        if any(a.path == b.path and a.start < b.end and b.start < a.end for b in found[:i]):
            raise UnknownPlaceError
    return found


def _changes(crash: Crash, edit: Edit, edits: tuple[Edit, ...]) -> list[Change]:
    if edit.written is not None:
        return edit.written()
    if isinstance(edit, Reconfigure):
        return _reconfigured(crash, edit, edits)
    if isinstance(edit, AdaptOutput):
        return [_adapted_output(crash, edit)]
    if isinstance(edit, Insert):
        return [_inserted(crash, edit)]
    if isinstance(edit, Adapt):
        return [_adapted(crash, edit)]
    if isinstance(edit, KeepFirst):
        return [_kept_first(crash, edit)]
    if isinstance(edit, Rewrite):
        return [_rewritten(crash, edit)]
    if isinstance(edit, SetAttribute):
        return [_attribute(crash, edit)]
    if isinstance(edit, Bind):
        return _bound(crash, edit)
    if isinstance(edit, Exchange) and edit.code.startswith("nn.") and "*" not in edit.code:
        file, call = _constructor(crash, edit.module or "")
        return [file.replace(call, _prefix(file, call) + edit.code.removeprefix("nn."))]
    raise UnknownPlaceError


# -- where a layer is made ---------------------------------------------------------------------------------------------------


def _users_class(
    crash: Crash, fqn: str, alike: frozenset[str] = frozenset()
) -> tuple[str, list[str]]:
    """The innermost module of the user's own class above a module, and the path from there to it; `alike` are changed in the same way."""
    path: list[str] = []
    while fqn:
        fqn, _, name = fqn.rpartition(".")
        path.insert(0, name)
        if not class_of(crash.modules[fqn]).__module__.startswith("torch."):
            break
    module = crash.modules[fqn]
    if not path or class_of(module).__module__.startswith("torch."):
        raise UnknownPlaceError
    others = [
        name for name, m in crash.modules.items() if type(m) is type(module) and m is not module
    ]
    if not all(".".join(filter(None, [name, *path])) in alike for name in others):
        raise UnknownPlaceError  # a change of the class would change its other instances too
    return fqn, path


def _method(kind: type, name: str) -> tuple[File, ast.FunctionDef]:
    function = getattr(kind, name)
    tree = parse(function)
    path = inspect.getsourcefile(function)
    if tree is None or path is None:
        raise UnknownPlaceError
    file = open_file(path)
    for node in ast.walk(file.tree):
        if isinstance(node, ast.FunctionDef) and node.name == name and node.lineno == tree.lineno:
            return file, node
    raise UnknownPlaceError


def _assigned(function: ast.FunctionDef, name: str) -> ast.expr:
    """The value of the only assignment `self.name = ...`."""
    found = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Attribute)
        and target.attr == name
        and isinstance(target.value, ast.Name)
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def _constructor(
    crash: Crash, fqn: str, alike: frozenset[str] = frozenset()
) -> tuple[File, ast.Call]:
    """The call in the user's file that makes a layer."""
    owner, path = _users_class(crash, fqn, alike)
    file, function = _method(class_of(crash.modules[owner]), "__init__")
    value = _assigned(function, path[0])
    at = f"{owner}.{path[0]}" if owner else path[0]
    for name in path[1:]:
        value = _members(value)[list(crash.modules[at]._modules).index(name)]
        at += f".{name}"
    if not isinstance(value, ast.Call):
        raise UnknownPlaceError
    return file, value


def _members(value: ast.expr) -> list[ast.expr]:
    """The layers that are written out in a Sequential or ModuleList."""
    if isinstance(value, ast.Call) and not value.keywords:
        members = value.args
        if len(members) == 1 and isinstance(members[0], ast.List):
            members = members[0].elts
        if members and not any(isinstance(m, ast.Starred | ast.Dict) for m in members):
            return members
    raise UnknownPlaceError


def _reconfigured(crash: Crash, edit: Reconfigure, edits: tuple[Edit, ...]) -> list[Change]:
    fqn = edit.module or ""
    alike = frozenset(
        e.module or "" for e in edits if isinstance(e, Reconfigure) and e.changes == edit.changes
    )
    file, call = _constructor(crash, fqn, alike)
    kind = next(
        base
        for base in class_of(crash.modules[fqn]).__mro__
        if base.__module__.startswith("torch.nn.")
    )
    names = list(inspect.signature(kind).parameters)
    if names[:1] == ["args"]:  # recurrent layers
        names = [
            "input_size",
            "hidden_size",
            "num_layers",
            "bias",
            "batch_first",
            "dropout",
            "bidirectional",
        ]
    if any(isinstance(a, ast.Starred) for a in call.args) or any(
        k.arg is None for k in call.keywords
    ):
        raise UnknownPlaceError
    return [_argument(file, call, names, name, value) for name, value in edit.changes.items()]


def _argument(file: File, call: ast.Call, names: list[str], name: str, value: object) -> Change:
    given = next((k.value for k in call.keywords if k.arg == name), None)
    if given is None and name in names and names.index(name) < len(call.args):
        given = call.args[names.index(name)]
    if given is not None:
        return file.replace(given, repr(value))
    end = file.span(call)[1] - 1
    before = file.text[:end].rstrip()
    separator = "" if before.endswith("(") else " " if before.endswith(",") else ", "
    return Change(file.path, len(before), len(before), f"{separator}{name}={value!r}")


def _prefix(file: File, call: ast.Call) -> str:
    """What stands before the class name in the user's spelling: "nn.", "torch.nn."."""
    name = file.source(call.func)
    if "." not in name:
        raise UnknownPlaceError  # imported one by one: the other name may not be
    return name.rpartition(".")[0] + "."


def _inserted(crash: Crash, edit: Insert) -> Change:
    fqn = edit.module or ""
    parent, _, name = fqn.rpartition(".")
    file, call = _constructor(crash, parent)
    member = _members(call)[list(crash.modules[parent]._modules).index(name)]
    prefix = _prefix(file, call)
    code = edit.code.replace("nn.", prefix)
    start = file.span(member)[0]
    line = file.text[:start].rpartition("\n")[2]
    between = ",\n" + line if not line.strip() else ", "
    return Change(file.path, start, start, code + between)


# -- where a call is made ----------------------------------------------------------------------------------------------------


def _line(source: str) -> tuple[File, int]:
    path, _, number = source.rpartition(":")
    if not number.isdigit():
        raise UnknownPlaceError
    return open_file(path), int(number)


def _calls_on(file: File, line: int) -> Iterator[ast.Call]:
    for node in ast.walk(file.tree):
        if isinstance(node, ast.Call) and node.lineno <= line <= (node.end_lineno or node.lineno):
            yield node


def _only(found: list[ast.Call]) -> ast.Call:
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def _call_of(crash: Crash, fqn: str) -> tuple[str, File, ast.Call]:
    """The only call of a module in the forward that holds it: that module's fqn, the file, the call."""
    owner, path = _users_class(crash, fqn)
    source = next((c.source for c in crash.trace.calls if c.fqn == fqn), "")
    file, line = _line(source)
    if len(path) != 1:
        raise UnknownPlaceError
    return (
        owner,
        file,
        _only(
            [
                c
                for c in _calls_on(file, line)
                if isinstance(c.func, ast.Attribute) and c.func.attr == path[0] and c.args
            ]
        ),
    )


def _adapted_output(crash: Crash, edit: AdaptOutput) -> Change:
    _, file, call = _call_of(crash, edit.module or "")
    if not edit.code.startswith("{x}"):
        raise UnknownPlaceError
    end = file.span(call)[1]
    return Change(file.path, end, end, edit.code.removeprefix("{x}"))


def _adapted(crash: Crash, edit: Adapt) -> Change:
    owner, file, call = _call_of(crash, edit.module or "")
    _check_names(crash, owner, edit.code)
    return file.replace(call.args[0], edit.code.format(x=_operand(file, call.args[0], edit.code)))


def _kept_first(crash: Crash, edit: KeepFirst) -> Change:
    _, file, call = _call_of(crash, edit.module or "")
    if call.keywords or len(call.args) < 2:
        raise UnknownPlaceError
    return Change(file.path, file.span(call.args[0])[1], file.span(call.args[-1])[1], "")


def _check_names(crash: Crash, owner: str, code: str) -> None:
    """Code that says torch. or F. is no patch for a file that has not imported them."""
    names = vars(sys.modules.get(class_of(crash.modules[owner]).__module__, object()))
    for word in ("torch", "F", "nn"):
        if f"{word}." in code.replace("{x}", "") and code.startswith(word) and word not in names:
            raise UnknownPlaceError


def _operand(file: File, node: ast.expr, code: str) -> str:
    text = file.source(node)
    simple = isinstance(node, ast.Name | ast.Call | ast.Attribute | ast.Subscript)
    return text if simple or not code.startswith("{x}") else f"({text})"


def _rewritten(crash: Crash, edit: Rewrite) -> Change:
    file, line = _line(edit.source)
    name = edit.kind.rpartition(".")[2]
    found = [c for c in _calls_on(file, line) if _called(c) == name]
    if edit.keyword is not None:
        return _keyword(file, _only(found), edit.keyword)
    if not edit.respell:
        raise UnknownPlaceError
    _check_names(crash, edit.module or "", edit.respell)
    if edit.element is not None:
        return _element(file, _only(found), edit.element, edit.respell)
    if not found and name.rstrip("_") in _OPERATORS:
        return _augmented(file, line, edit)
    call = _only(found)
    is_function = _is_function(file, call)
    receiver = call.args[0] if is_function else call.func.value  # type: ignore[attr-defined]
    others = call.args[1:] if is_function else call.args
    rest = ", ".join(
        [file.source(a) for a in others]
        + [f"{k.arg}={file.source(k.value)}" for k in call.keywords]
    )
    return file.replace(
        call, edit.respell.format(x=_operand(file, receiver, edit.respell), rest=rest)
    )


def _is_function(file: File, call: ast.Call) -> bool:
    """torch.softmax(x) rather than x.softmax()."""
    return not isinstance(call.func, ast.Attribute) or file.source(call.func.value) in (
        "torch",
        "F",
        "nn.functional",
        "torch.nn.functional",
    )


def _keyword(file: File, call: ast.Call, keyword: tuple[str, object, int]) -> Change:
    """Another value for an argument, wherever it stands."""
    name, value, position = keyword
    position -= not _is_function(file, call)
    if any(isinstance(a, ast.Starred) for a in call.args) or any(
        k.arg is None for k in call.keywords
    ):
        raise UnknownPlaceError
    return _argument(file, call, [*[""] * position, name], name, value)


def _element(file: File, call: ast.Call, element: int, code: str) -> Change:
    """One element of the sequence that a function is given."""
    parts = call.args[0] if call.args else None
    if not isinstance(parts, ast.List | ast.Tuple) or any(
        isinstance(e, ast.Starred) for e in parts.elts
    ):
        raise UnknownPlaceError
    return file.replace(
        parts.elts[element], code.format(x=_operand(file, parts.elts[element], code))
    )


def _called(call: ast.Call) -> str:
    return (
        call.func.attr
        if isinstance(call.func, ast.Attribute)
        else call.func.id
        if isinstance(call.func, ast.Name)
        else ""
    )


def _augmented(file: File, line: int, edit: Rewrite) -> Change:
    """`x += y`, which is a statement of its own."""
    for node in ast.walk(file.tree):
        if (
            isinstance(node, ast.AugAssign)
            and node.lineno == line
            and edit.respell == "{x} = {x} + {rest}"
        ):
            symbol = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}.get(type(node.op))
            if symbol is not None:
                target = file.source(node.target)
                return file.replace(node, f"{target} = {target} {symbol} {file.source(node.value)}")
    raise UnknownPlaceError


# -- methods and attributes --------------------------------------------------------------------------------------------------


def _attribute(crash: Crash, edit: SetAttribute) -> Change:
    owner = crash.modules[edit.module or ""]
    if edit.name in owner.__dict__:
        file, function = _method(class_of(owner), "__init__")
        value = _assigned(function, edit.name)
        if not isinstance(value, ast.Tuple):
            raise UnknownPlaceError
        return file.replace(value, file.source(value.elts[0]))
    if not edit.code.isidentifier():
        raise UnknownPlaceError
    failure = crash.trace.failure
    file, line = _line(failure.source if failure is not None else "")
    found = [
        n
        for n in ast.walk(file.tree)
        if isinstance(n, ast.Attribute) and n.attr == edit.name and n.lineno == line
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return file.replace(found[0], f"{file.source(found[0].value)}.{edit.code}")


def _bound(crash: Crash, edit: Bind) -> list[Change]:
    kind = class_of(crash.modules[edit.module or ""])
    if edit.code == "def forward":
        file, function = _method(kind, edit.function.__name__)
        start, end = file.span(function)
        at = file.text.index(f"def {function.name}", start, end)
        return [Change(file.path, at, at + len(f"def {function.name}"), edit.code)]
    file, function = _method(kind, "forward")
    if edit.code.startswith("return "):
        return [_returned(file, function.body[-1], edit.code)]
    found = [
        node.value
        for node in ast.walk(function)
        if isinstance(node, ast.Assign | ast.Return)
        and isinstance(node.value, ast.Tuple)
        and len(node.value.elts) == 1
    ]
    return [file.replace(value, file.source(value.elts[0])) for value in found]


def _returned(file: File, last: ast.stmt, code: str) -> Change:
    """The last statement as a return, or a return after it."""
    start, end = file.span(last)
    if isinstance(last, ast.Expr):
        return Change(file.path, start, start, "return ")
    indent = file.text[:start].rpartition("\n")[2]
    return Change(
        file.path, end, end, f"\n{indent if not indent.strip() else ' ' * last.col_offset}{code}"
    )
