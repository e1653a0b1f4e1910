"""Earlier outputs that a layer could be given: the skips of an encoder, and what nothing took."""

import ast
from collections.abc import Iterator

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import spell_path
from cnnprobe.crash.facts.joins import list_ancestors
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.words import quote
from cnnprobe.operations import read_name
from cnnprobe.records.trace import ModuleCall, TensorInfo


def list_skips(crash: Crash, info: TensorInfo) -> list[TensorInfo]:
    """On the way to a map that was made smaller and larger again, the last of each larger size."""
    skips: dict[tuple[int, ...], TensorInfo] = {}
    size: tuple[int, ...] = ()
    for index in sorted(list_ancestors(crash, info)):
        made = next(iter(crash.trace.calls[index].outputs), None)
        if made is None or len(made.shape) != len(info.shape) or len(info.shape) < 3:
            continue
        if size and any(m > n for m, n in zip(made.shape[2:], size, strict=True)):
            del skips[size]  # the bottom
            return list(skips.values())
        size = made.shape[2:]
        skips[size] = made
    return []


def find_outer_call(crash: Crash, info: TensorInfo) -> ModuleCall | None:
    """The outermost call below the model that gave a tensor."""
    calls = (c for c in crash.trace.calls[1:] if c.outputs and c.outputs[0].source == info.source)
    return next(calls, None) if isinstance(info.source, int) else None


def list_untaken(crash: Crash) -> Iterator[TensorInfo]:
    """Outputs and inputs that no call took, in variables that the code does not read either."""
    taken = {t.source for call in crash.trace.calls[1:] for t in call.inputs}
    for index, call in enumerate(crash.trace.calls):
        for info in call.outputs:
            if info.source == index and index not in taken and _is_left(crash, info):
                yield info
    given = [t for call in crash.trace.calls[1:] for t in call.inputs if t.source is None]
    roots = [crash.find_root(t) for t in given]
    for info in crash.root_inputs:
        name = spell_path(crash, info.path)
        line = next((c.source for c in crash.trace.calls[1:] if c.parent == 0), "")
        function = _find_function(line)
        if info not in roots and function is not None and not _list_names(function, name)[1]:
            yield info


def find_variable(crash: Crash, info: TensorInfo, place: str = "") -> str:
    """The only name of a tensor, as read at another line of the same function; or ""."""
    if (call := find_outer_call(crash, info)) is None:
        return ""
    function = _find_function(call.source)
    if function is None or (place and _find_function(place) is not function):
        return ""
    line = int(call.source.rpartition(":")[2])
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and node.lineno <= line <= (node.end_lineno or node.lineno):
            target = node.targets[0]
            if not isinstance(target, ast.Name) or not isinstance(node.value, ast.Call):
                return ""
            return target.id if len(_list_names(function, target.id)[0]) == 1 else ""
    return ""


def name_tensor(crash: Crash, info: TensorInfo) -> str:
    """The output of 'enc2', that of 'enc2' after relu, or the input 'y'."""
    if (call := find_outer_call(crash, info)) is None:
        return f"the input '{spell_path(crash, info.path)}'"
    if call.fqn:
        return f"the output of {quote(call.fqn)}"
    layer = next((c.fqn for _, c in crash.walk_back(info) if c.fqn), "")
    name = read_name(call.kind)
    return f"the output of {quote(layer)} after {name}" if layer else f"the output of {name}"


def _is_left(crash: Crash, info: TensorInfo) -> bool:
    """Whether a tensor stands in a variable that is never read."""
    name, call = find_variable(crash, info), find_outer_call(crash, info)
    function = _find_function(call.source) if call is not None else None
    return bool(name) and function is not None and not _list_names(function, name)[1]


def _find_function(source: str) -> ast.FunctionDef | None:
    """The innermost function that a line stands in."""
    path, _, number = source.rpartition(":")
    tree = parse_file(path) if number.isdigit() else None
    found = [
        node
        for node in (ast.walk(tree) if tree is not None else ())
        if isinstance(node, ast.FunctionDef)
        and node.lineno <= int(number) <= (node.end_lineno or node.lineno)
    ]
    return max(found, key=lambda node: node.lineno, default=None)


def _list_names(function: ast.FunctionDef, name: str) -> tuple[list[ast.Name], list[ast.Name]]:
    """Where a function assigns a name, and where it reads it."""
    nodes = [n for n in ast.walk(function) if isinstance(n, ast.Name) and n.id == name]
    read = [n for n in nodes if isinstance(n.ctx, ast.Load)]
    return [n for n in nodes if n not in read], read
