"""How remedies of single calls are written into the user's lines: an argument, an operand, a slice,
the sign of a loss.
"""

import ast

from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import (
    find_called,
    get_given,
    is_function,
    list_calls_on,
    open_line,
    read_called,
    write_operand,
)
from cnnprobe.crash.edits.writing import find_definition
from cnnprobe.records.trace import ModuleCall
from cnnprobe.remedies.program import (
    UserProgram,
    calls_method,
    find_function,
    find_statement,
    insert_after,
    insert_first,
    name_in_step,
    read_step,
)


def _last(kind: str) -> str:
    return kind.rpartition(".")[2]


def append_last(file: File, call: ast.Call, text: str) -> TextChange:
    """One more argument at the end of a call."""
    before = file.text[: file.span(call)[1] - 1].rstrip()
    comma = "" if before.endswith("(") else " " if before.endswith(",") else ", "
    return TextChange(file.path, len(before), len(before), f"{comma}{text}")


def set_argument(
    source: str, kind: str, name: str, code: str, *, behind: tuple[str, ...] = ()
) -> list[TextChange]:
    """Another value, as code, for an option of the only such call on a line: the first one, or that
    behind others.
    """
    file, call = find_called(source, _last(kind))
    names = [*(("input",) if is_function(file, call) else ()), *behind, name]
    given = get_given(call, names, name)
    return [
        append_last(file, call, f"{name}={code}") if given is None else file.replace(given, code)
    ]


def make_each(source: str) -> list[TextChange]:
    """`[Layer(...) for _ in range(n)]` in place of the only `[Layer(...)] * n` of a statement."""
    file, line = open_line(source)
    statements = [s for s in ast.walk(file.tree) if isinstance(s, ast.Assign) and s.lineno == line]
    products = [
        (node, one, count)
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)
        for one, count in ((node.left, node.right), (node.right, node.left))
        if isinstance(one, ast.List) and len(one.elts) == 1 and isinstance(one.elts[0], ast.Call)
    ]
    if len(products) != 1:
        raise UnknownPlaceError
    node, one, count = products[0]
    made = file.source(one.elts[0])
    return [file.replace(node, f"[{made} for _ in range({file.source(count)})]")]


def follow_mode(source: str) -> list[TextChange]:
    """`.train(self.training)` behind the only layer that a line makes and calls at once."""
    file, line = open_line(source)
    made = [
        call.func
        for call in list_calls_on(file, line)
        if isinstance(call.func, ast.Call) and "Dropout" in read_called(call.func)
    ]
    if len(made) != 1:
        raise UnknownPlaceError
    end = file.span(made[0])[1]
    return [TextChange(file.path, end, end, ".train(self.training)")]


def append_argument(source: str, kind: str, text: str) -> list[TextChange]:
    """One more argument for the only such call on a line."""
    file, call = find_called(source, _last(kind))
    return [append_last(file, call, text)]


def exchange_first(program: UserProgram, row: ModuleCall) -> list[TextChange]:
    """The first two arguments of a loss the other way round, on the line that calls it."""
    file, line = open_line(row.source)
    names = {_last(row.kind), program.request.names.get("loss_fn", ""), "criterion", "loss_fn"}
    found = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
        and len(node.args) > 1
        and (read_called(node) in names or isinstance(node.func, ast.Call))
    ]
    if len(found) != 1 or any(isinstance(each, ast.Starred) for each in found[0].args):
        raise UnknownPlaceError
    first, second = found[0].args[:2]
    return [file.replace(first, file.source(second)), file.replace(second, file.source(first))]


def guard(source: str, kind: str, code: str) -> list[TextChange]:
    """What goes into the only such call on a line, within code: "{x}.clamp(min=1e-8)"."""
    file, call = find_called(source, _last(kind))
    if is_function(file, call):
        if not call.args:
            raise UnknownPlaceError
        operand: ast.expr = call.args[0]
    elif isinstance(call.func, ast.Attribute):
        operand = call.func.value
    else:
        raise UnknownPlaceError
    return [file.replace(operand, code.format(x=write_operand(file, operand, code)))]


def guard_divisor(source: str, code: str) -> list[TextChange]:
    """The divisor of the only division on a line, within code."""
    file, line = open_line(source)
    found = [
        node.right
        for node in ast.walk(file.tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Div)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return [file.replace(found[0], code.format(x=write_operand(file, found[0], code)))]


def assign(source: str, kind: str) -> list[TextChange]:
    """The result of a call that is a statement, to the name that goes into it."""
    file, call = find_called(source, _last(kind))
    is_statement = any(
        isinstance(node, ast.Expr) and node.value is call for node in ast.walk(file.tree)
    )
    given = call.args[0] if call.args else None
    if isinstance(call.func, ast.Attribute) and not is_function(file, call):
        given = call.func.value
    if not is_statement or not isinstance(given, ast.Name | ast.Attribute):
        raise UnknownPlaceError
    start = file.span(call)[0]
    return [TextChange(file.path, start, start, f"{file.source(given)} = ")]


def pass_by(source: str, kind: str, loss_source: str, loss_kind: str) -> list[TextChange]:
    """What goes into a call, as the first argument of a loss that gets the call's result by name:
    `p = torch.sigmoid(x)`, then `loss(p, y)`.
    """
    file, call = find_called(source, _last(kind))
    given = call.args[0] if call.args else None
    if isinstance(call.func, ast.Attribute) and not is_function(file, call):
        given = call.func.value
    names = {
        node.targets[0].id
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Assign)
        and node.value is call
        and isinstance(node.targets[0], ast.Name)
    }
    _, loss = find_called(loss_source, _last(loss_kind))
    first = loss.args[0] if loss.args else None
    if not (isinstance(given, ast.Name) and isinstance(first, ast.Name) and first.id in names):
        raise UnknownPlaceError
    if given.id in names:
        raise UnknownPlaceError
    return [file.replace(first, given.id)]


def drop_sum(source: str) -> list[TextChange]:
    """What the only sum on a line adds up, in its place: sum(x), torch.sum(x), x.sum()."""
    file, call = find_called(source, "sum")
    given = call.args[0] if call.args else None
    if isinstance(call.func, ast.Attribute) and not is_function(file, call):
        given = None if call.args or call.keywords else call.func.value
    elif len(call.args) != 1 or call.keywords:
        given = None
    if given is None or isinstance(given, ast.GeneratorExp):
        raise UnknownPlaceError
    return [file.replace(call, write_operand(file, given, "{x}"))]


def cut_elsewhere(source: str, dim: int, turn: int, part: str) -> list[TextChange]:
    """Another slice, "2:4", in one of the subscripts of a line that slice a dim."""
    file, line = open_line(source)
    found = [
        node.slice.elts[dim]
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Subscript)
        and node.lineno == line
        and isinstance(node.slice, ast.Tuple)
        and len(node.slice.elts) > dim
        and isinstance(node.slice.elts[dim], ast.Slice)
    ]
    found.sort(key=lambda node: node.col_offset)
    if turn >= len(found):
        raise UnknownPlaceError
    return [file.replace(found[turn], part)]


# -- the loss --------------------------------------------------------------------------------------


def negate_loss(program: UserProgram) -> list[TextChange]:
    """Minus what backward is called on; what the user's own loss function returns, with a minus."""
    if program.request.train_step is not None:
        file, function = read_step(program)
        _, statement = find_statement(function, calls_method("backward"))
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
            raise UnknownPlaceError
        receiver = call.func.value
        return [file.replace(receiver, f"(-{write_operand(file, receiver, '{x}')})")]
    file, function = find_definition(find_function(program.request.loss_fn).__code__)
    values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    if len(values) != 1 or values[0] is None:
        raise UnknownPlaceError
    return [file.replace(values[0], f"-{write_operand(file, values[0], '{x}')}")]


def change_output(program: UserProgram, code: str) -> list[TextChange]:
    """Another output before the loss: where the step assigns what the model gives, or first in the
    user's own loss function; "{x}" in the code is its name.
    """
    if program.request.train_step is not None:
        file, function = read_step(program)
        model = name_in_step(program, program.request.model)
        _, statement = find_statement(function, lambda call: ast.unparse(call.func) == model)
        target = statement.targets[0] if isinstance(statement, ast.Assign) else None
        if not isinstance(target, ast.Name) or not isinstance(statement.value, ast.Call):  # type: ignore[attr-defined]
            raise UnknownPlaceError
        return [insert_after(file, statement, f"{target.id} = {_check(file, code, target.id)}")]
    file, function = find_definition(find_function(program.request.loss_fn).__code__)
    arguments = [each.arg for each in function.args.args if each.arg != "self"]
    if not arguments:
        raise UnknownPlaceError
    return [insert_first(file, function, f"{arguments[0]} = {_check(file, code, arguments[0])}")]


def _check(file: File, code: str, name: str) -> str:
    """Code that says torch., for a file that has imported it."""
    imported = {
        alias.asname or alias.name
        for node in file.tree.body
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    if "torch" not in imported:
        raise UnknownPlaceError
    return code.format(x=name)
