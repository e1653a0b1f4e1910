"""Finds names that the text of the user's classes and functions gives a value, and that nothing
reads: an option of a constructor, an argument, a variable, a buffer.
"""

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from cnnprobe.diagnosis.evidence import Flow
from cnnprobe.diagnosis.evidence.texts import UnreadName
from cnnprobe.records.trace import Trace
from cnnprobe.training.sourcing import (
    DYNAMIC,
    ClassText,
    FunctionText,
    list_loads,
    name_of,
    read_file,
)
from cnnprobe.training.unread_variables import find_unread_variables

# What an option is called, and what the text of the class has where it does that in another way.
_FEATURES = (
    (r"skip|resid|shortcut|identity", r"\bskip|resid|shortcut|identity|\badd\b|\bcat\b|[^+]\+[^+]"),
    (r"drop", r"drop(out|path|_path|block)?\w*\("),
    (r"norm|bn", r"norm\w*\("),
    (r"bias", r"bias|Conv|Linear"),
    (r"act|relu|nonlin", r"relu|elu|silu|mish|tanh|sigmoid|act"),
    (r"att|se\b|se_", r"att|sigmoid|softmax"),
    (r"pool", r"pool|mean\("),
    (r"mask", r"mask"),
)
LONGEST = 60  # characters of a value
_LABELS = frozenset(
    {"name", "tag", "idx", "index", "id", "layer_id", "stage", "level", "verbose", "prefix",
     "device", "dtype", "seed", "debug"}
)  # fmt: skip
_APART = frozenset({"self", "torch", "nn", "F", "functional", "np", "numpy", "math", "init"})
_ENDING = (ast.Raise, ast.Pass)


def find_unread_names(
    classes: list[ClassText], functions: list[FunctionText], files: Iterable[str], trace: Trace
) -> Iterator[UnreadName]:
    """The names, those of constructors first."""
    files = list(files)
    read, passed = list_read(files), _list_passed(files)
    for each in classes:
        known = read | _list_own_reads(each)
        yield from _list_options(each, known, passed)
        yield from _list_buffers(each, known, trace)
    flow = Flow(trace)
    methods = list({id(m.node): m for each in classes for m in each.methods.values()}.values())
    interfaces = _count_arguments(m for m in methods if m.node.name == "forward")
    for method in methods:
        if method.node.name == "forward":
            yield from _list_arguments(method, flow, interfaces)
    yield from find_unread_variables((*methods, *functions), flow)


# -- what is read ----------------------------------------------------------------------------------


def list_read(files: Iterable[str]) -> frozenset[str]:
    """The names of the attributes that the text of these files reads of other objects than self:
    by a dot, where it is no method of a tensor's, or as a text that may name an attribute.
    """
    found: set[str] = set()
    for path in files:
        tree = read_file(path)
        nodes = list(ast.walk(tree)) if tree is not None else []
        called = {id(n.func): n for n in nodes if isinstance(n, ast.Call)}
        for node in nodes:
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                # what the class itself, or a library, is asked for
                own = name_of(node.value) in _APART
                if not own and (id(node) not in called or not hasattr(Tensor, node.attr)):
                    found.add(node.attr)
            elif isinstance(node, ast.Call) and name_of(node.func) in ("getattr", "hasattr"):
                found |= {a.value for a in node.args if _is_text(a)}  # type: ignore[attr-defined]
            elif isinstance(node, ast.Subscript) and _is_text(node.slice):
                found.add(node.slice.value)  # type: ignore[attr-defined]
    return frozenset(found)


def _list_passed(files: Iterable[str]) -> dict[tuple[str, str], str]:
    """The constants that calls in these files pass by keyword, by the name of what is called."""
    found: dict[tuple[str, str], str] = {}
    for path in files:
        tree = read_file(path)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    if (
                        keyword.arg
                        and isinstance(keyword.value, ast.Constant)
                        and keyword.value.value
                    ):
                        found[name_of(node.func), keyword.arg] = ast.unparse(keyword.value)
    return found


def _list_own_reads(each: ClassText) -> frozenset[str]:
    """The attributes that a class reads of itself."""
    return frozenset(
        node.attr
        for text in each.texts
        for node in ast.walk(text.node)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and name_of(node.value) == "self"
    )


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _arguments(node: ast.FunctionDef) -> list[ast.arg]:
    given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [a for a in given if a.arg not in ("self", "cls") and not a.arg.startswith("_")]


# -- options ---------------------------------------------------------------------------------------


def _list_options(
    each: ClassText, read: frozenset[str], passed: dict[tuple[str, str], str]
) -> Iterator[UnreadName]:
    for text in each.constructors:
        if any(name_of(n) in DYNAMIC for n in ast.walk(text.node)):
            continue
        defaults = _read_defaults(each.kind)
        for argument in _arguments(text.node):
            name = argument.arg
            attribute = _find_attribute(text.node, name)
            if attribute is None or (attribute and attribute in read):
                continue
            default = defaults.get(name, inspect.Parameter.empty)
            given = "" if attribute else passed.get((each.kind.__name__, name), "")
            if given and given != repr(default):
                yield UnreadName(
                    kind="option", name=name, function=text.name,
                    source=f"{text.path}:{argument.lineno}", module=each.instances[0][0],
                    value=given,
                )  # fmt: skip
                continue
            for fqn, module in each.instances:
                value = vars(module).get(attribute, default) if attribute else default
                if _is_active(name, value, default):
                    yield UnreadName(
                        kind="option",
                        name=name,
                        function=text.name,
                        source=f"{text.path}:{argument.lineno}",
                        module=fqn,
                        value=_say(value),
                        is_present=_is_present(name, value, each),
                    )
                    break


def _find_attribute(node: ast.FunctionDef, name: str) -> str | None:
    """The attribute that is all that an argument is kept in; "" where nothing reads the argument,
    None where something does.
    """
    loads = list_loads(node, name)
    if not loads:
        return ""
    if len(loads) > 1:
        return None
    for statement in ast.walk(node):
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            for target, value in _pair(statement.targets[0], statement.value):
                if value is loads[0]:
                    own = isinstance(target, ast.Attribute) and name_of(target.value) == "self"
                    return name_of(target) if own else None
    return None


def _pair(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]]:
    """What is assigned to what: a, b = c, d are two."""
    both = isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple)
    if both and len(target.elts) == len(value.elts):  # type: ignore[attr-defined]
        return list(zip(target.elts, value.elts, strict=True))  # type: ignore[attr-defined]
    return [(target, value)]


def _read_defaults(kind: type) -> dict[str, Any]:
    try:
        parameters = inspect.signature(kind).parameters.values()
    except (TypeError, ValueError):
        return {}
    return {p.name: p.default for p in parameters}


def _is_active(name: str, value: Any, default: Any) -> bool:
    """Whether an option that has no effect was meant to have one: a switch that is on, a rate, or
    what is not the default.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return value != 0 and ("drop" in name or value != default)
    if (
        default is inspect.Parameter.empty
        or name in _LABELS
        or isinstance(value, nn.Module | Tensor)
    ):
        return False
    plain = isinstance(value, int | str | type | tuple) or callable(value)
    return plain and type(value) is type(default) and repr(value) != repr(default)


def _is_present(name: str, value: Any, each: ClassText) -> bool:
    """Whether the class does what the option's name speaks of without it; True where that is not
    known.
    """
    if not isinstance(value, bool | float):
        return False
    said = "\n".join(_unparse(m.node, without=name) for m in each.methods.values())
    for pattern, done in _FEATURES:
        if re.search(pattern, name.lower()):
            return re.search(done, said, re.IGNORECASE) is not None
    return True


def _unparse(node: ast.FunctionDef, without: str) -> str:
    """The statements of a function that do not name the option."""
    lines = "\n".join(ast.unparse(s) for s in node.body).splitlines()
    return "\n".join(line for line in lines if not re.search(rf"\b{re.escape(without)}\b", line))


def _say(value: Any) -> str:
    said = getattr(value, "__name__", None) or repr(value)
    return said if len(said) <= LONGEST else f"{said[:LONGEST]}..."


# -- buffers ---------------------------------------------------------------------------------------


def _list_buffers(each: ClassText, read: frozenset[str], trace: Trace) -> Iterator[UnreadName]:
    used = {t.source for call in trace.calls for t in call.inputs if isinstance(t.source, str)}
    called = {call.fqn for call in trace.calls}
    for text in each.constructors:
        for node in ast.walk(text.node):
            if not (isinstance(node, ast.Call) and name_of(node.func) == "register_buffer"):
                continue
            name = node.args[0].value if node.args and _is_text(node.args[0]) else ""  # type: ignore[attr-defined]
            fqn, module = each.instances[0]
            held = dict(module.named_buffers(recurse=False)).get(name)
            full = f"{fqn}.{name}" if fqn else name
            if held is None or name in read or full in used or fqn not in called:
                continue
            if held.is_floating_point():
                yield UnreadName(
                    kind="buffer", name=name, function=text.name,
                    source=f"{text.path}:{node.lineno}", module=fqn,
                    value=f"a tensor of shape {tuple(held.shape)}",
                )  # fmt: skip


# -- arguments -------------------------------------------------------------------------------------


def _count_arguments(methods: Iterable[FunctionText]) -> dict[str, int]:
    """How many forwards have an argument of a name: two of them are an interface."""
    found: dict[str, int] = {}
    for method in methods:
        for argument in _arguments(method.node):
            found[argument.arg] = found.get(argument.arg, 0) + bool(
                list_loads(method.node, argument.arg)
            )
    return found


def _list_arguments(
    method: FunctionText, flow: Flow, readers: dict[str, int]
) -> Iterator[UnreadName]:
    """The arguments of a forward that it is given a tensor for and does not read."""
    node = method.node
    if all(isinstance(s, (*_ENDING, ast.Expr)) for s in node.body):
        return
    if any(name_of(n) in DYNAMIC for n in ast.walk(node)):
        return
    for place, argument in enumerate(_arguments(node)):
        name = argument.arg
        if list_loads(node, name):
            continue
        siblings = [f for f in flow.calls if f.fqn in method.modules]
        row = next((i for i, c in enumerate(flow.calls) if c.fqn in method.modules), None)
        given = [t for call in siblings[:1] for t in call.inputs if t.path in (f"[{place}]", name)]
        if row is not None and given and given[0].shape and not _is_handed_on(method, name):
            yield UnreadName(
                kind="argument", name=name, function=method.name,
                source=f"{method.path}:{node.lineno}", module=flow.calls[row].fqn,
                value=f"a tensor of shape {given[0].shape}", row=row,
                is_present=readers.get(name, 0) > 0 and len(node.body) == 1,
            )  # fmt: skip


def _is_handed_on(method: FunctionText, name: str) -> bool:
    """Whether the argument is assigned first, so that its name stands for something else."""
    stores = [n for n in ast.walk(method.node) if isinstance(n, ast.Name) and n.id == name]
    return bool(stores)
