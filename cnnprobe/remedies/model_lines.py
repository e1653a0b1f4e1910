"""How remedies of the model are written: around a layer where it is made, on a line of a forward,
and before the optimizer is built.
"""

import ast
from collections.abc import Callable, Iterator

from torch import nn

from cnnprobe.crash import Crash
from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError, open_file
from cnnprobe.crash.edits.places import (
    find_called,
    find_constructor,
    find_method,
    is_function,
    list_members,
    open_line,
    read_called,
    read_prefix,
    write_operand,
)
from cnnprobe.recorder.inventory import class_of
from cnnprobe.remedies.program import (
    UserProgram,
    enclose,
    insert_before,
    list_blocks,
    remove,
)
from cnnprobe.remedies.program import (
    find_constructor as find_optimizer,
)

CONTEXTS = ("no_grad", "inference_mode")


# -- where a layer is made -------------------------------------------------------------------------


def follow_layer(crash: Crash, fqn: str, code: str) -> list[TextChange]:
    """A layer behind another, "nn.ReLU()": as the next one where a Sequential is written out; else
    in a Sequential of both.
    """
    _, file, call = find_constructor(crash, fqn)
    prefix = read_prefix(file, call)
    code = code.replace("nn.", prefix)
    start, end = file.span(call)
    if _is_written_out(crash, fqn, call):
        line = file.text[:start].rpartition("\n")[2]
        between = f",\n{line}" if not line.strip() else ", "
        return [TextChange(file.path, end, end, between + code)]
    return [file.replace(call, f"{prefix}Sequential({file.source(call)}, {code})")]


def _is_written_out(crash: Crash, fqn: str, call: ast.Call) -> bool:
    """Whether a layer is made within the call of the Sequential that holds it."""
    parent, _, _ = fqn.rpartition(".")
    if not fqn or type(crash.modules[parent]) is not nn.Sequential:
        return False
    try:
        members = list_members(find_constructor(crash, parent)[2])
    except UnknownPlaceError:
        return False
    # By their places: a file that was parsed again has other nodes.
    return (call.lineno, call.col_offset) in {(each.lineno, each.col_offset) for each in members}


def drop_last(crash: Crash, fqn: str) -> list[TextChange]:
    """Without the last layer of a Sequential that is made of one list: nn.Sequential(*layers)."""
    parent, _, name = fqn.rpartition(".")
    _, file, call = find_constructor(crash, parent)
    given = call.args[0] if len(call.args) == 1 and not call.keywords else None
    is_last = list(crash.modules[parent]._modules)[-1] == name
    if not (isinstance(given, ast.Starred) and isinstance(given.value, ast.Name) and is_last):
        raise UnknownPlaceError
    return [file.replace(given, f"*{given.value.id}[:-1]")]


def remove_attribute(crash: Crash, fqn: str) -> list[TextChange]:
    """Without the only statement of __init__ that sets an attribute which no method reads."""
    owner, _, name = fqn.rpartition(".")
    kind = class_of(crash.modules[owner])
    file, function = find_method(kind, "__init__")
    found = [
        (block, statement)
        for block in list_blocks(function)
        for statement in block
        if isinstance(statement, ast.Assign)
        and len(statement.targets) == 1
        and isinstance(statement.targets[0], ast.Attribute)
        and statement.targets[0].attr == name
    ]
    read = [n for n in ast.walk(file.tree) if isinstance(n, ast.Attribute) and n.attr == name]
    if len(found) != 1 or len(read) != 1:
        raise UnknownPlaceError
    return [remove(file, *found[0])]


# -- before the optimizer is built -----------------------------------------------------------------


def prepare_model(program: UserProgram, write: Callable[[str, str], list[str]]) -> list[TextChange]:
    """Statements before the one that builds the only optimizer, from the names of the model and of
    torch.nn there.
    """
    file, call, _ = find_optimizer(program)
    model = program.request.names.get("model", "model")
    if model not in map(ast.unparse, ast.walk(call)):
        raise UnknownPlaceError
    _, statement = enclose(file, call)
    return [insert_before(file, statement, *write(model, name_nn(file)))]


def name_nn(file: File) -> str:
    """How a file names torch.nn."""
    known = {
        alias.asname or alias.name
        for node in file.tree.body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    if "nn" in known:
        return "nn"
    if "torch" in known:
        return "torch.nn"
    raise UnknownPlaceError


def initialise_layer(nn_name: str, place: str) -> list[str]:
    """He's initialisation of a layer, and 0 for its bias."""
    weight = f'{nn_name}.init.kaiming_normal_({place}.weight, nonlinearity="relu")'
    return [weight, *clear_bias(nn_name, place)]


def clear_bias(nn_name: str, place: str) -> list[str]:
    """0 for the bias of a layer, which another fix may take away."""
    return [f"if {place}.bias is not None:", f"    {nn_name}.init.zeros_({place}.bias)"]


def initialise_layers(nn_name: str, model: str, kinds: list[str]) -> list[str]:
    """The same for all layers of some classes."""
    named = ", ".join(f"{nn_name}.{kind}" for kind in kinds)
    return [
        f"for layer in {model}.modules():",
        f"    if isinstance(layer, ({named}{',' if len(kinds) == 1 else ''})):",
        f'        {nn_name}.init.kaiming_normal_(layer.weight, nonlinearity="relu")',
        "        if layer.bias is not None:",
        f"            {nn_name}.init.zeros_(layer.bias)",
    ]


def list_weighted(model: nn.Module) -> list[str]:
    """The classes of the layers with a weight of two dims and more; all are torch's own."""
    found = set()
    for module in model.modules():
        matrices = [n for n, p in module._parameters.items() if p is not None and p.dim() > 1]
        if matrices and (
            matrices != ["weight"]
            or getattr(nn, class_of(module).__name__, "") is not class_of(module)
        ):
            raise UnknownPlaceError
        if matrices:
            found.add(class_of(module).__name__)
    if not found or "Embedding" in found:
        raise UnknownPlaceError
    return sorted(found)


# -- a line of a forward ---------------------------------------------------------------------------


def permute_first(source: str, kind: str, order: tuple[int, ...]) -> list[TextChange]:
    """x.permute(order).reshape(...) in place of the only x.view(...) or x.reshape(...) on a
    line.
    """
    name = kind.rpartition(".")[2]
    file, call = find_called(source, name)
    if not isinstance(call.func, ast.Attribute):
        raise UnknownPlaceError
    if is_function(file, call):
        return [
            file.replace(call.args[0], f"{write_operand(file, call.args[0], '{x}')}.permute{order}")
        ]
    given = write_operand(file, call.func.value, "{x}")
    return [file.replace(call.func, f"{given}.permute{order}.reshape")]


def wrap_call(source: str, kind: str, code: str) -> list[TextChange]:
    """The only such call on a line within code: "10.0 * {x}"."""
    file, call = find_called(source, kind.rpartition(".")[2])
    return [file.replace(call, code.format(x=file.source(call)))]


def rename_call(source: str, old: str, new: str) -> list[TextChange]:
    """Another function of torch's in the place of the only one of a name on a line."""
    file, call = find_called(source, old)
    if not isinstance(call.func, ast.Attribute):
        raise UnknownPlaceError  # imported one by one: the other may not be
    end = file.span(call.func)[1]
    return [TextChange(file.path, end - len(old), end, new)]


def detach_argument(source: str, kind: str, place: int) -> list[TextChange]:
    """A detach of one of the arguments of the only such call on a line."""
    file, call = find_called(source, kind.rpartition(".")[2])
    if len(call.args) <= place or any(isinstance(each, ast.Starred) for each in call.args):
        raise UnknownPlaceError
    given = call.args[place]
    return [file.replace(given, f"{write_operand(file, given, '{x}')}.detach()")]


def keep_gradient(source: str) -> list[TextChange]:
    """Without what cuts the gradient off around a line: no_grad as a context or a decorator."""
    file, line = open_line(source)
    around = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.With | ast.FunctionDef)
        and node.lineno <= line <= (node.end_lineno or node.lineno)
    ]
    found = [change for node in around for change in _uncut(file, node)]
    if not found:
        raise UnknownPlaceError
    return found


def _uncut(file: File, node: ast.With | ast.FunctionDef) -> Iterator[TextChange]:
    if isinstance(node, ast.FunctionDef):
        for decorator in filter(_is_cut, node.decorator_list):
            start, end = file.span(decorator)
            first = file.text.rfind("\n", 0, start) + 1
            yield TextChange(file.path, first, file.text.index("\n", end) + 1, "")
    elif len(node.items) == 1 and _is_cut(node.items[0].context_expr):
        yield from _dedent(file, node)


def _is_cut(node: ast.expr) -> bool:
    if not isinstance(node, ast.Call):
        return isinstance(node, ast.Attribute) and node.attr in CONTEXTS
    name = read_called(node)
    is_off = bool(node.args) and isinstance(node.args[0], ast.Constant) and not node.args[0].value
    return name in CONTEXTS or (name == "set_grad_enabled" and is_off)


def _dedent(file: File, node: ast.With) -> Iterator[TextChange]:
    """The statements of a with in its place."""
    lines = file.text.splitlines(keepends=True)
    first, last = node.body[0], node.body[-1]
    by = first.col_offset - node.col_offset
    is_long = any(
        isinstance(each, ast.Constant)
        and isinstance(each.value, str)
        and each.lineno != each.end_lineno
        for each in ast.walk(node)
    )
    if first.lineno == node.lineno or is_long:
        raise UnknownPlaceError
    start = file.offset(node.lineno, 0)
    yield TextChange(file.path, start, file.offset(first.lineno, 0), "")
    for number in range(first.lineno, (last.end_lineno or last.lineno) + 1):
        if lines[number - 1].startswith(" " * by):
            at = file.offset(number, 0)
            yield TextChange(file.path, at, at + by, "")


def drop_data(source: str) -> list[TextChange]:
    """X in place of the only x.data on a line."""
    file, line = open_line(source)
    found = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Attribute) and node.attr == "data" and node.lineno == line
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return [file.replace(found[0], file.source(found[0].value))]


def remove_line(source: str, kind: str) -> list[TextChange]:
    """Without the statement that is the only such call on a line."""
    file, call = find_called(source, kind.rpartition(".")[2])
    block, statement = enclose(file, call)
    if not isinstance(statement, ast.Expr):
        raise UnknownPlaceError
    return [remove(file, block, statement)]


def copy_inputs(model: nn.Module) -> list[TextChange]:
    """A copy of each input first in the forward of a model of the user's own class."""
    file, function = find_method(class_of(model), "forward")
    names = [argument.arg for argument in function.args.args[1:]]
    if not names or class_of(model).__module__.startswith("torch."):
        raise UnknownPlaceError
    first = function.body[0]
    return [insert_before(file, first, *(f"{name} = {name}.clone()" for name in names))]


def in_training(source: str, kind: str) -> list[TextChange]:
    """What the only such call on a line of a method gives, in training alone; else 0."""
    file, call = find_called(source, kind.rpartition(".")[2])
    methods = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.FunctionDef) and call in ast.walk(node)
    ]
    if not methods or [each.arg for each in methods[-1].args.args[:1]] != ["self"]:
        raise UnknownPlaceError
    return [file.replace(call, f"({file.source(call)} if self.training else 0.0)")]


def view_as_first(source: str, kind: str) -> list[TextChange]:
    """The second argument of the only such call on a line in the shape of the first."""
    file, call = find_called(source, kind.rpartition(".")[2])
    if len(call.args) < 2 or not isinstance(call.args[0], ast.Name):
        raise UnknownPlaceError
    given = write_operand(file, call.args[1], "{x}")
    return [file.replace(call.args[1], f"{given}.view_as({call.args[0].id})")]


def raise_rest(source: str) -> list[TextChange]:
    """(1 - p) ** gamma in place of the only p ** gamma on a line."""
    file, line = open_line(source)
    found = [
        node.left
        for node in ast.walk(file.tree)
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Pow)
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return [file.replace(found[0], f"(1 - {write_operand(file, found[0], '{x}')})")]


def set_keyword(path: str, name: str, keyword: str, code: str) -> list[TextChange]:
    """Another value for a keyword of the only call, of a name if one is given, that has it in a
    file.
    """
    file = open_file(path)
    found = [
        each.value
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and name in ("", read_called(node))
        for each in node.keywords
        if each.arg == keyword
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return [file.replace(found[0], code.format(x=file.source(found[0])))]
