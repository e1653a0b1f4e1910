"""The user's training step and optimizer as text of their files, and how remedies change it.

Everything here raises UnknownPlaceError where the place is not known for certain.
"""

import ast
import contextlib
import functools
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch.optim import Optimizer

from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.places import check_plain, get_given, read_called
from cnnprobe.crash.edits.writing import find_definition
from cnnprobe.recorder.inventory import class_of
from cnnprobe.training import Request
from cnnprobe.training.request import find_arguments
from cnnprobe.training.surroundings import Surroundings

Block = list[ast.stmt]


@dataclass(frozen=True, slots=True, kw_only=True)
class UserProgram:
    """The user's step with what it works on, and the file that asked for the diagnosis."""

    request: Request
    around: Surroundings

    @property
    def optimizers(self) -> list[tuple[str, Optimizer]]:
        """Every optimizer with its name."""
        return list(self.around.optimizers.values())


# -- the step --------------------------------------------------------------------------------------


def find_function(step: Any) -> types.FunctionType:
    """The Python function behind a step: of a partial, a method, an object that is called."""
    while not isinstance(step, types.FunctionType):
        inner = (
            step.func
            if isinstance(step, functools.partial)
            else getattr(step, "__func__", None) or getattr(type(step), "__call__", None)  # noqa: B004
        )
        if inner is None or isinstance(inner, types.WrapperDescriptorType):
            raise UnknownPlaceError
        step = inner
    function: types.FunctionType = inspect.unwrap(step)
    return function


def read_step(program: UserProgram) -> tuple[File, ast.FunctionDef]:
    """The file and the syntax tree of the user's step."""
    if program.request.train_step is None:
        raise UnknownPlaceError
    return find_definition(find_function(program.request.train_step).__code__)


def name_in_step(program: UserProgram, value: Any) -> str:
    """How the step names a value: a parameter, a variable around it, an attribute of self."""
    step, request = program.request.train_step, program.request
    if step is None or value is None:
        raise UnknownPlaceError
    _, given = find_arguments(request)
    function = find_function(step)
    owner = getattr(step, "__self__", None if isinstance(step, types.FunctionType) else step)
    first = next(iter(inspect.signature(function).parameters), "self")
    attributes = getattr(owner, "__dict__", {})
    spaces: list[tuple[str, Any]] = [("", given), ("", _read_closure(function))]
    spaces += [(f"{first}.", attributes), ("", function.__globals__)]
    for prefix, space in spaces:
        for name, held in space.items():
            if held is value and str(name).isidentifier():
                return f"{prefix}{name}"
    raise UnknownPlaceError


def _read_closure(function: types.FunctionType) -> dict[str, Any]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=False)
    found = {}
    for name, cell in cells:
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not filled yet
            continue
    return found


def list_blocks(node: ast.AST) -> Iterator[Block]:
    """The blocks of statements of a function, its own first; those of inner functions left out."""
    for field in ("body", "orelse", "finalbody"):
        block = getattr(node, field, None)
        if isinstance(block, list) and block and isinstance(block[0], ast.stmt):
            yield block
            for inner in block:
                if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                    yield from list_blocks(inner)


def find_statement(
    function: ast.FunctionDef, is_wanted: Callable[[ast.Call], bool]
) -> tuple[Block, ast.stmt]:
    """The only simple statement with such a call, and the block that it stands in."""
    found = list_statements(function, is_wanted)
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def list_statements(
    function: ast.FunctionDef, is_wanted: Callable[[ast.Call], bool]
) -> list[tuple[Block, ast.stmt]]:
    """The simple statements with such a call, in their order, and the blocks that they stand in."""
    found = [
        (block, statement)
        for block in list_blocks(function)
        for statement in block
        if not hasattr(statement, "body") and any(map(is_wanted, _list_calls(statement)))
    ]
    return sorted(found, key=lambda each: each[1].lineno)


def _list_calls(node: ast.AST) -> list[ast.Call]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Call)]


def calls_method(name: str, of: str = "") -> Callable[[ast.Call], bool]:
    """Whether a call is that of a method, of an object with a name where one is given."""

    def is_wanted(call: ast.Call) -> bool:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != name:
            return False
        given = [ast.unparse(argument) for argument in call.args]  # scaler.step(optimizer)
        return not of or of in (ast.unparse(call.func.value), *given[:1])

    return is_wanted


# -- changes of text -------------------------------------------------------------------------------


def _read_indent(file: File, statement: ast.stmt) -> str:
    """What stands before a statement on its line: white space alone."""
    start = file.span(statement)[0]
    indent = file.text[file.text.rfind("\n", 0, start) + 1 : start]
    if indent.strip():
        raise UnknownPlaceError  # several statements on one line
    return indent


def insert_before(file: File, statement: ast.stmt, *texts: str) -> TextChange:
    """Statements before another."""
    start, indent = file.span(statement)[0], _read_indent(file, statement)
    return TextChange(file.path, start, start, "".join(f"{text}\n{indent}" for text in texts))


def insert_after(file: File, statement: ast.stmt, *texts: str) -> TextChange:
    """Statements after another."""
    indent = _read_indent(file, statement)
    end = _find_end(file, statement)
    return TextChange(file.path, end, end, "".join(f"\n{indent}{text}" for text in texts))


def insert_first(file: File, function: ast.FunctionDef, *texts: str) -> TextChange:
    """Statements before all others of a function but its docstring."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    if len(function.body) == has_docstring:
        raise UnknownPlaceError
    return insert_before(file, function.body[has_docstring], *texts)


def remove(file: File, block: Block, statement: ast.stmt) -> TextChange:
    """Without a statement that has lines of its own, and is not the only one of its block."""
    indent = _read_indent(file, statement)
    if len(block) < 2:
        raise UnknownPlaceError
    start, end = file.span(statement)[0] - len(indent), _find_end(file, statement)
    return TextChange(file.path, start, min(end + 1, len(file.text)), "")


def _find_end(file: File, statement: ast.stmt) -> int:
    """The end of the last line of a statement; a comment may follow it there, nothing else."""
    end = file.span(statement)[1]
    line_end = file.text.find("\n", end)
    line_end = len(file.text) if line_end < 0 else line_end
    rest = file.text[end:line_end].strip()
    if rest and not rest.startswith("#"):
        raise UnknownPlaceError
    return line_end


# -- the optimizer ---------------------------------------------------------------------------------


def find_constructor(program: UserProgram, of: str = "") -> tuple[File, ast.Call, Optimizer]:
    """The only call that makes an optimizer and is assigned to its name; without a name, the only
    optimizer.
    """
    chosen = [each for each in program.optimizers if of in ("", each[0])]
    if len(chosen) != 1:
        raise UnknownPlaceError
    name, optimizer = chosen[0]
    nodes: list[tuple[File, Any]] = [
        (file, node) for file in list_files(program) for node in ast.walk(file.tree)
    ]
    found: list[tuple[File, Any]] = [
        (file, node.value)
        for file, node in nodes
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and _makes(node.value, optimizer)
        and _is_assigned(node, name)
    ]
    if not found and len(program.optimizers) == 1:  # one that has no name: build(optim.SGD(...))
        found = [(file, node) for file, node in nodes if _makes(node, optimizer)]
    if len(found) != 1:
        raise UnknownPlaceError
    return *found[0], optimizer


def _makes(node: ast.AST | None, optimizer: Optimizer) -> bool:
    return isinstance(node, ast.Call) and read_called(node) == type(optimizer).__name__


def list_files(program: UserProgram) -> list[File]:
    """The user's files: of the step, of the loss, of the model's classes, and the one that asked
    for the diagnosis.
    """
    request = program.request
    paths = [request.caller]
    for function in filter(None, (request.loss_fn, request.train_step)):
        with contextlib.suppress(UnknownPlaceError):
            paths.insert(0, find_function(function).__code__.co_filename)
    for kind in dict.fromkeys(map(class_of, request.model.modules())):
        with contextlib.suppress(TypeError, OSError):
            paths.append(inspect.getsourcefile(kind) or "")
    files = []
    for path in dict.fromkeys(paths):
        with contextlib.suppress(UnknownPlaceError, SyntaxError, UnicodeDecodeError):
            files.append(open_file(path))
    return files


def enclose(file: File, call: ast.Call) -> tuple[Block, ast.stmt]:
    """The simple statement that a call stands in, and its block."""
    scopes = [file.tree, *(n for n in ast.walk(file.tree) if isinstance(n, ast.FunctionDef))]
    for scope in scopes:
        for block in list_blocks(scope):
            for statement in block:
                if not hasattr(statement, "body") and call in ast.walk(statement):
                    return block, statement
    raise UnknownPlaceError


def _is_assigned(node: ast.Assign | ast.AnnAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    last = name.rpartition(".")[2]
    return any(
        (isinstance(t, ast.Name) and t.id == last)
        or (isinstance(t, ast.Attribute) and t.attr == last)
        for t in targets
    )


def _list_parameters(optimizer: Optimizer) -> list[str]:
    return list(inspect.signature(type(optimizer).__init__).parameters)[1:]


def set_option(
    program: UserProgram, option: str, value: float, *, of: str = ""
) -> list[TextChange]:
    """Another number for an option of an optimizer, "betas[0]" in a pair, where it is written as a
    number; without a name, of the only optimizer.
    """
    file, call, optimizer = find_constructor(program, of)
    check_plain(call)
    option, _, place = option.removesuffix("]").partition("[")
    given = get_given(call, _list_parameters(optimizer), option)
    if place:
        if not isinstance(given, ast.Tuple | ast.List):
            raise UnknownPlaceError
        given = given.elts[int(place)]
    if given is None:
        end = file.span(call)[1] - 1
        before = file.text[:end].rstrip()
        comma = "" if before.endswith("(") else " " if before.endswith(",") else ", "
        return [TextChange(file.path, len(before), len(before), f"{comma}{option}={value!r}")]
    number = _find_number(file, given)
    known = optimizer.defaults.get(option)
    if not place and isinstance(known, float) and number.value != known:
        raise UnknownPlaceError  # another optimizer of the same class
    return [file.replace(number, repr(value))]


def _find_number(file: File, given: ast.expr) -> ast.Constant:
    """The constant itself, or the one that the only assignment of a name has."""
    if isinstance(given, ast.Name):
        assigned = [
            node.value
            for node in ast.walk(file.tree)
            if isinstance(node, ast.Assign) and _is_assigned(node, given.id)
        ]
        if len(assigned) == 1:
            given = assigned[0]
    if not isinstance(given, ast.Constant):
        raise UnknownPlaceError
    return given


def set_parameters(program: UserProgram, code: str) -> list[TextChange]:
    """Other parameters for the only optimizer; "{model}" in the code is the model's name there."""
    file, call, optimizer = find_constructor(program)
    given = get_given(call, _list_parameters(optimizer), "params")
    model = program.request.names.get("model", "model")
    if given is None or model not in map(ast.unparse, ast.walk(given)):
        raise UnknownPlaceError
    return [file.replace(given, code.format(model=model))]
