"""How remedies of the loop are written into the user's own training step."""

import ast
from collections.abc import Sequence

from cnnprobe.crash.edits.files import File, TextChange, UnknownPlaceError
from cnnprobe.crash.edits.places import get_given, is_function, open_line, read_called
from cnnprobe.crash.edits.writing import find_definition
from cnnprobe.remedies.model_lines import keep_gradient, name_nn
from cnnprobe.remedies.program import (
    Block,
    UserProgram,
    calls_method,
    enclose,
    find_function,
    find_statement,
    insert_after,
    insert_before,
    insert_first,
    list_blocks,
    list_files,
    list_statements,
    name_in_step,
    read_step,
    remove,
)

CLIPPING = ("clip_grad_norm_", "clip_grad_value_")
COMPOUND = (ast.For, ast.While)
REWRAPPING = ("item", "detach", "clone", "numpy", "cpu", "requires_grad_", "to", "float")


def _name_optimizer(program: UserProgram) -> str:
    """How the step names its only optimizer."""
    if len(program.optimizers) != 1:
        raise UnknownPlaceError
    return name_in_step(program, program.optimizers[0][1])


def _name_lacking(program: UserProgram, function: ast.FunctionDef, method: str) -> list[str]:
    """The optimizers of which the step never calls a method; the only one in any case."""
    names = [name_in_step(program, optimizer) for _, optimizer in program.optimizers]
    found = [n for n in names if not list_statements(function, calls_method(method, n))]
    if not found and len(names) != 1:
        raise UnknownPlaceError
    return found or names


def add_zero_grad(program: UserProgram) -> list[TextChange]:
    """zero_grad before backward; at the beginning where backward stands in a loop, or there are
    several.
    """
    file, function = read_step(program)
    names = _name_lacking(program, function, "zero_grad")
    texts = [f"{name}.zero_grad()" for name in names]
    inner = [n for n in ast.walk(function) if isinstance(n, ast.FunctionDef) and n is not function]
    closures = [n for n in inner if list_statements(n, calls_method("backward"))]
    if len(closures) == 1:
        return [insert_first(file, closures[0], *texts)]
    found = list_statements(function, calls_method("backward"))
    if len(found) == 1 and found[0][0] is function.body:
        return [insert_before(file, found[0][1], *texts)]
    return [insert_first(file, function, *texts)]


def add_zero_grad_after_others(program: UserProgram, used: str) -> list[TextChange]:
    """zero_grad of an optimizer after each step of the others."""
    file, function = read_step(program)
    names = {name: name_in_step(program, optimizer) for name, optimizer in program.optimizers}
    if used not in names:
        raise UnknownPlaceError
    return [
        insert_after(
            file,
            find_statement(function, calls_method("step", name))[1],
            f"{names[used]}.zero_grad()",
        )
        for known, name in names.items()
        if known != used
    ]


def move_zero_grad(program: UserProgram) -> list[TextChange]:
    """zero_grad from where it is to before backward."""
    file, function = read_step(program)
    name = _name_optimizer(program)
    block, clearing = find_statement(function, calls_method("zero_grad"))
    return [remove(file, block, clearing), *_before_backward(file, function, f"{name}.zero_grad()")]


def _before_backward(file: File, function: ast.FunctionDef, text: str) -> list[TextChange]:
    _, statement = find_statement(function, calls_method("backward"))
    return [insert_before(file, statement, text)]


def add_step(program: UserProgram) -> list[TextChange]:
    """The optimizer's step after backward."""
    file, function = read_step(program)
    found = list_statements(function, calls_method("backward"))
    names = _name_lacking(program, function, "step")
    if not found or (len(found) > 1 and len(program.optimizers) == 1):
        raise UnknownPlaceError
    return [insert_after(file, found[-1][1], *(f"{name}.step()" for name in names))]


def move_clip(program: UserProgram) -> list[TextChange]:
    """The clip to right before the optimizer's step, in the same block."""
    file, function = read_step(program)
    block, clip = _find_clip(function)
    names = [name_in_step(program, optimizer) for _, optimizer in program.optimizers]
    found = [each for n in names for each in list_statements(function, calls_method("step", n))]
    if len(found) != len(names) or not names:
        raise UnknownPlaceError
    other, step = min(found, key=lambda each: each[1].lineno)
    start, end = file.span(clip)
    if other is not block:
        raise UnknownPlaceError
    return [remove(file, block, clip), insert_before(file, step, file.text[start:end])]


def move_schedule(program: UserProgram) -> list[TextChange]:
    """The scheduler's step to behind the loop over the batches that calls the step."""
    file, function = read_step(program)
    if len(program.around.schedulers) != 1:
        raise UnknownPlaceError
    name, scheduler = next(iter(program.around.schedulers.values()))
    within = name_in_step(program, scheduler)
    block, statement = find_statement(function, calls_method("step", within))
    loop = _find_batch_loop(file, function)
    return [remove(file, block, statement), insert_after(file, loop, f"{name}.step()")]


def _find_batch_loop(file: File, function: ast.FunctionDef) -> ast.stmt:
    """The only loop in a loop whose body calls the step."""
    found = [
        inner
        for outer in ast.walk(file.tree)
        if isinstance(outer, COMPOUND)
        for inner in outer.body
        if isinstance(inner, COMPOUND)
        and any(
            isinstance(node, ast.Call) and read_called(node) == function.name
            for node in ast.walk(inner)
        )
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    return found[0]


def call_backward(program: UserProgram) -> list[TextChange]:
    """Backward of the loss that the step returns, before the optimizer's step; also that step,
    where there is none.
    """
    file, function = read_step(program)
    returns = [node for node in ast.walk(function) if isinstance(node, ast.Return)]
    value = returns[0].value if len(returns) == 1 else None
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):  # loss.item()
        value = value.func.value
    steps = list_statements(function, calls_method("step"))
    end = steps[0][1] if steps else returns[0] if returns else None
    if not isinstance(value, ast.Name) or end is None:
        raise UnknownPlaceError
    made = [
        n.lineno
        for n in function.body
        if isinstance(n, ast.Assign | ast.AugAssign) and _sets(n, value.id)
    ]
    if not made or max(made) > end.lineno:
        raise UnknownPlaceError
    more = [] if steps else [f"{_name_optimizer(program)}.step()"]
    return [insert_before(file, end, f"{value.id}.backward()", *more)]


def _sets(node: ast.Assign | ast.AugAssign, name: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def add_clip(program: UserProgram, limit: float) -> list[TextChange]:
    """A clip before the only optimizer's step."""
    file, function = read_step(program)
    _, step = find_statement(function, calls_method("step", _name_optimizer(program)))
    model = name_in_step(program, program.request.model)
    return [
        insert_before(
            file, step, f"{name_nn(file)}.utils.clip_grad_norm_({model}.parameters(), {limit})"
        )
    ]


def add_schedule(program: UserProgram) -> list[TextChange]:
    """The scheduler's step after the only optimizer's."""
    file, function = read_step(program)
    if len(program.around.schedulers) != 1:
        raise UnknownPlaceError
    scheduler = next(iter(program.around.schedulers.values()))[1]
    _, step = find_statement(function, calls_method("step", _name_optimizer(program)))
    return [insert_after(file, step, f"{name_in_step(program, scheduler)}.step()")]


def freeze_modules(program: UserProgram, places: Sequence[str]) -> list[TextChange]:
    """eval() of some modules, ".stem[1]" of the model, after its only train(); in a step that has
    none, first.
    """
    if program.request.train_step is not None:
        file, function = read_step(program)
        model = name_in_step(program, program.request.model)
        found = list_statements(function, calls_method("train", model))
        texts = [f"{model}{place}.eval()" for place in places]
        if len(found) == 1:
            return [insert_after(file, found[0][1], *texts)]
        return [insert_first(file, function, *texts)]
    model = program.request.names.get("model", "model")
    calls = [
        (file, node)
        for file in list_files(program)
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and calls_method("train", model)(node)
    ]
    if len(calls) != 1:
        raise UnknownPlaceError
    file, call = calls[0]
    return [insert_after(file, enclose(file, call)[1], *(f"{model}{p}.eval()" for p in places))]


def keep_gradient_of_model(program: UserProgram) -> list[TextChange]:
    """Without the no_grad around the step's only call of the model."""
    file, function = read_step(program)
    model = name_in_step(program, program.request.model)
    _, statement = find_statement(function, lambda call: ast.unparse(call.func) == model)
    return keep_gradient(f"{file.path}:{statement.lineno}")


def keep_loss(source: str) -> list[TextChange]:
    """The loss as it came, where a line assigns what is made of its number."""
    file, line = open_line(source)
    found = [n for n in ast.walk(file.tree) if isinstance(n, ast.Assign) and n.lineno == line]
    if len(found) != 1:
        raise UnknownPlaceError
    inner = found[0].value
    while isinstance(inner, ast.Call):
        if isinstance(inner.func, ast.Attribute) and inner.func.attr in REWRAPPING:
            inner = inner.func.value
        elif read_called(inner) in ("tensor", "as_tensor", "from_numpy", "float") and inner.args:
            inner = inner.args[0]
        else:
            break
    if inner is found[0].value:
        raise UnknownPlaceError
    return [file.replace(found[0].value, file.source(inner))]


def change_inputs_first(program: UserProgram, code: str) -> list[TextChange]:
    """Other inputs at the beginning of the step; "{x}" in the code is their name there."""
    file, function = read_step(program)
    name = name_in_step(program, program.request.inputs)
    return [insert_first(file, function, f"{name} = {code.format(x=name)}")]


def change_targets_first(program: UserProgram, code: str) -> list[TextChange]:
    """Other targets at the beginning of the step, or of the user's own loss function; "{y}" in the
    code is their name there.
    """
    if program.request.train_step is not None:
        file, function = read_step(program)
        name = name_in_step(program, program.request.targets)
    else:
        file, function = find_definition(find_function(program.request.loss_fn).__code__)
        arguments = [each.arg for each in function.args.args if each.arg != "self"]
        if len(arguments) != 2:
            raise UnknownPlaceError
        name = arguments[1]
    return [insert_first(file, function, f"{name} = {code.format(y=name)}")]


def drop_call(source: str, kind: str) -> list[TextChange]:
    """What goes into the only call of a function on a line, in its place."""
    file, line = open_line(source)
    name = kind.rpartition(".")[2]
    found = [
        node
        for node in ast.walk(file.tree)
        if isinstance(node, ast.Call) and node.lineno == line and read_called(node) == name
    ]
    if len(found) != 1:
        raise UnknownPlaceError
    call = found[0]
    if isinstance(call.func, ast.Attribute) and not is_function(file, call):
        return [file.replace(call, file.source(call.func.value))]
    if not call.args:
        raise UnknownPlaceError
    return [file.replace(call, file.source(call.args[0]))]


def drop_inner_zero_grad(program: UserProgram) -> list[TextChange]:
    """Without the zero_grad in a loop of the step; before all else, where there is no other."""
    file, function = read_step(program)
    found = [
        (block, statement)
        for block in list_blocks(function)
        for statement in block
        if isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Call)
        and calls_method("zero_grad")(statement.value)
    ]
    inner = [(block, statement) for block, statement in found if block is not function.body]
    if len(inner) != 1:
        raise UnknownPlaceError
    changes = [remove(file, *inner[0])]
    if len(found) == 1:
        changes.append(insert_first(file, function, f"{_name_optimizer(program)}.zero_grad()"))
    return changes


def clear_after_step(program: UserProgram) -> list[TextChange]:
    """A zero_grad right after the only step, and none elsewhere."""
    file, function = read_step(program)
    block, step = find_statement(function, calls_method("step", _name_optimizer(program)))
    after = block[block.index(step) + 1 :][:1]
    found = list_statements(function, calls_method("zero_grad"))
    changes = [_remove_alone(file, function, *each) for each in found if [each[1]] != after]
    if [statement for _, statement in found if [statement] == after] == []:
        changes.append(insert_after(file, step, f"{_name_optimizer(program)}.zero_grad()"))
    return changes


def _remove_alone(
    file: File, function: ast.FunctionDef, block: Block, statement: ast.stmt
) -> TextChange:
    """Without a statement, or without the `if` that is there for it alone."""
    for outer in list_blocks(function):
        for each in outer:
            if isinstance(each, ast.If) and each.body is block and len(block) == 1:
                if each.orelse:
                    raise UnknownPlaceError
                return remove(file, outer, each)
    return remove(file, block, statement)


def add_unscale(program: UserProgram) -> list[TextChange]:
    """unscale_ before the clip."""
    file, function = read_step(program)
    _, clip = _find_clip(function)
    _, step = find_statement(function, calls_method("step", _name_optimizer(program)))
    call = step.value if isinstance(step, ast.Expr) else None
    if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
        raise UnknownPlaceError
    scaler, optimizer = file.source(call.func.value), file.source(call.args[0])
    return [insert_before(file, clip, f"{scaler}.unscale_({optimizer})")]


def _find_clip(function: ast.FunctionDef) -> tuple[list[ast.stmt], ast.stmt]:
    return find_statement(function, lambda call: read_called(call) in CLIPPING)


def set_clip_limit(program: UserProgram, limit: float) -> list[TextChange]:
    """Another limit for the only clip of the step, where it is written as a number."""
    file, function = read_step(program)
    _, clip = _find_clip(function)
    calls = [node for node in ast.walk(clip) if isinstance(node, ast.Call)]
    call = next(each for each in calls if read_called(each) in CLIPPING)
    name = "max_norm" if read_called(call) == "clip_grad_norm_" else "clip_value"
    given = get_given(call, ["parameters", name], name)
    if not isinstance(given, ast.Constant):
        raise UnknownPlaceError
    return [file.replace(given, repr(limit))]
