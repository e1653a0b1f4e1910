"""Finds in the text of a program what it does once an epoch and means otherwise: an evaluation that
trains, a metric that is never set back, a patience that improvement does not renew, a schedule that
counts in another unit than it is stepped in.
"""

import ast
import re
from collections.abc import Iterator, Sequence

from torch.optim import lr_scheduler

from cnnprobe.diagnosis.evidence.texts import Slip
from cnnprobe.training.scopes import Scope, list_assigned, list_live, list_own, make_slip
from cnnprobe.training.sourcing import FunctionText, name_of, read_file

_EVALUATION = re.compile(r"(^|_)(val|valid|validate|validation|eval|evaluate|evaluation|test)(_|$)")
_ADAPTS = re.compile(r"adapt|tune|meta|ttt|tent|attack|probe|train|fit")
_READ = frozenset({"compute", "value", "result", "avg", "average", "mean", "get", "accuracy"})
_CLEARED = frozenset({"reset", "clear", "zero", "reset_states"})
_RUNNING = re.compile(r"time|ema|ewma|speed|smooth|running")
_SCHEDULERS = frozenset(n for n, v in vars(lr_scheduler).items() if isinstance(v, type))
_PLATEAU = "ReduceLROnPlateau"
SHORT = 10  # rounds: a larger patience may be one of batches
# The arguments that say how long a schedule is, by their place behind the optimizer.
_LENGTHS = {
    "OneCycleLR": {"total_steps": 2, "steps_per_epoch": 4},
    "CosineAnnealingLR": {"T_max": 1},
    "PolynomialLR": {"total_iters": 1},
    "LinearLR": {"total_iters": 3},
}


def find_epochs(files: list[str], steps: Sequence[FunctionText]) -> Iterator[Slip]:
    """What is found in these files; `steps` are the functions of the step."""
    for path in files:
        scopes = list_live(path, steps)
        tree = read_file(path)
        if tree is None:
            continue
        own = [step.node for step in steps if step.path == path]
        for scope in scopes:
            yield from _find_training(scope, path)
            yield from _find_uncleared(scope, tree, path)
            yield from _find_impatience(scope, tree, path)
            yield from _find_repeated_sum(scope, path)
            yield from _find_made_anew(scope, path)
        yield from _find_units(scopes, own, path)


def _list_calls(node: ast.AST, name: str) -> list[ast.Call]:
    return [n for n in ast.walk(node) if isinstance(n, ast.Call) and name_of(n.func) == name]


def _owner(call: ast.Call) -> str:
    """What a method is called of: "optimizer" of optimizer.step()."""
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


def _list_loops(scope: ast.AST) -> list[ast.For]:
    return [n for n in list_own(scope) if isinstance(n, ast.For)]


def _holds(outer: ast.AST, node: ast.AST) -> bool:
    return outer is not node and any(inner is node for inner in ast.walk(outer))


def _list_stores(node: ast.AST, name: str) -> list[ast.AST]:
    """The statements that assign a variable or attribute a new value."""
    return [
        n
        for n in ast.walk(node)
        if isinstance(n, ast.Assign)
        and any(ast.unparse(target) == name for target, _ in list_assigned(n))
    ]


# -- evaluations that train ------------------------------------------------------------------------


def _find_training(scope: Scope, path: str) -> Iterator[Slip]:
    """The steps of an optimizer in a function that evaluates, or in the round that validates."""
    name = getattr(scope, "name", "")
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if _EVALUATION.search(plain) and not _ADAPTS.search(plain):
        for loop in _list_loops(scope):
            steps = [c for c in _list_steps(loop) if not _list_stores(scope, _owner(c))]
            if steps:
                yield make_slip("evaluation-trains", steps[0], path, name, _owner(steps[0]))
                return
    for loop in _list_loops(scope):
        phases = _list_phases(loop)
        if any(_EVALUATION.search(p) for p in phases) and any("train" in p for p in phases):
            free = [c for c in _list_steps(loop) if not _depends(c, loop)]
            if free:
                yield make_slip(
                    "evaluation-trains", free[0], path, ast.unparse(loop.target), _owner(free[0])
                )


def _list_steps(loop: ast.For) -> list[ast.Call]:
    """The steps of optimizers in a loop that calls backward."""
    steps = _list_calls(loop, "step") if _list_calls(loop, "backward") else []
    return [c for c in steps if "opt" in _owner(c).lower()]


def _list_phases(loop: ast.For) -> list[str]:
    """The words that a loop runs over: ["train", "val"]."""
    words = loop.iter.elts if isinstance(loop.iter, ast.List | ast.Tuple) else []
    return [w.value for w in words if isinstance(w, ast.Constant) and isinstance(w.value, str)]


def _depends(call: ast.Call, loop: ast.For) -> bool:
    """Whether a call in a loop stands under a condition, or the phase ends before it."""
    tests = [n for n in ast.walk(loop) if isinstance(n, ast.If)]
    return any(_holds(n, call) for n in tests) or any(
        isinstance(n, ast.Continue | ast.Break) for n in ast.walk(loop)
    )


# -- metrics and patience --------------------------------------------------------------------------


def _find_uncleared(scope: Scope, tree: ast.Module, path: str) -> Iterator[Slip]:
    """The metrics that all epochs go into, and that are read in each as that of one."""
    for outer in _list_loops(scope):
        inner = [n for n in ast.walk(outer) if isinstance(n, ast.For) and n is not outer]
        updated = {_owner(c) for loop in inner for c in _list_calls(loop, "update")}
        inside = {id(n) for loop in inner for n in ast.walk(loop)}
        for node in ast.walk(outer):
            name = ast.unparse(node.value) if isinstance(node, ast.Attribute) else ""
            is_read = name in updated and node.attr in _READ and id(node) not in inside  # type: ignore[attr-defined]
            if is_read and not _is_cleared(name, outer, scope, tree):
                yield make_slip("never-cleared", node, path, name, ast.unparse(node))
                break


def _is_cleared(name: str, outer: ast.For, scope: Scope, tree: ast.Module) -> bool:
    """Whether a metric is made or set back in each round, may be elsewhere, or runs on purpose."""
    calls = [n for n in ast.walk(outer) if isinstance(n, ast.Call)]
    passed = {ast.unparse(a) for c in calls for a in (*c.args, *(k.value for k in c.keywords))}
    cleared = any(_owner(c) == name and name_of(c.func) in _CLEARED for c in calls)
    made = [
        n for n in list_own(scope) if isinstance(n, ast.Assign) and n in _list_stores(scope, name)
    ]
    if cleared or name in passed or _list_stores(outer, name) or not made:
        return True
    return bool(_RUNNING.search(name.lower())) or any(_clears_itself(n, tree) for n in made)


def _clears_itself(made: ast.Assign, tree: ast.Module) -> bool:
    """Whether the class of an object sets it back where it is read."""
    kind = name_of(made.value.func) if isinstance(made.value, ast.Call) else ""
    classes = [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == kind]
    readers = [
        f for c in classes for f in c.body if isinstance(f, ast.FunctionDef) and f.name in _READ
    ]
    return any(
        isinstance(n, ast.Assign) or (isinstance(n, ast.Call) and name_of(n.func) in _CLEARED)
        for reader in readers
        for n in ast.walk(reader)
    )


def _find_impatience(scope: Scope, tree: ast.Module, path: str) -> Iterator[Slip]:
    """The counts of rounds without improvement that an improvement does not set back."""
    for branch in (n for n in list_own(scope) if isinstance(n, ast.If)):
        best = _find_best(branch)
        for count in _list_counted(branch.orelse) if best else ():
            place = _find_end(scope, count)
            whole = _list_classes(tree, scope) if count.startswith("self.") else [scope]
            stores = [n for part in whole for n in _list_stores(part, count)]
            around = [loop for loop in _list_loops(scope) if _holds(loop, branch)]
            again = stores if not around else [n for n in stores if _holds(around[0], n)]
            is_first = count.startswith("self.") and all(_is_first(n, whole) for n in stores)
            if place is not None and (around or is_first) and (is_first or not again):
                yield make_slip("patience", place, path, count, best)


def _find_best(branch: ast.If) -> str:
    """The best value so far, where a branch takes a better one."""
    if not isinstance(branch.test, ast.Compare) or len(branch.test.ops) != 1:
        return ""
    sides = {ast.unparse(branch.test.left), ast.unparse(branch.test.comparators[0])}
    for node in branch.body:
        if isinstance(node, ast.Assign):
            for target, value in list_assigned(node):
                if {ast.unparse(target), ast.unparse(value)} == sides:
                    return ast.unparse(target)
    return ""


def _list_counted(block: list[ast.stmt]) -> Iterator[str]:
    """The variables to which a block adds 1."""
    for statement in block:
        if isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add):
            if ast.unparse(statement.value) == "1":
                yield ast.unparse(statement.target)
        elif isinstance(statement, ast.If):  # elif, or a condition of the count
            yield from _list_counted([*statement.body, *statement.orelse])


def _find_end(scope: Scope, count: str) -> ast.expr | None:
    """The comparison of a count under which a loop ends, or a flag is set for it."""
    for node in list_own(scope):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
            sides = [node.test.left, *node.test.comparators]
            ends = any(
                isinstance(n, ast.Break | ast.Return)
                or (isinstance(n, ast.Assign) and "stop" in ast.unparse(n.targets[0]).lower())
                for n in node.body
            )
            if ends and count in map(ast.unparse, sides):
                return node.test
    return None


def _list_classes(tree: ast.Module, scope: Scope) -> list[ast.ClassDef]:
    return [n for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and scope in n.body]


def _is_first(store: ast.AST, classes: Sequence[ast.AST]) -> bool:
    """Whether a statement of a class stands in its constructor."""
    makers = [
        f
        for c in classes
        for f in ast.walk(c)
        if isinstance(f, ast.FunctionDef) and f.name == "__init__"
    ]
    return any(_holds(f, store) for f in makers)


# -- sums of losses --------------------------------------------------------------------------------


def _find_repeated_sum(scope: Scope, path: str) -> Iterator[Slip]:
    """The sums over batches whose backward is called in each round, through all before."""
    for loop in _list_loops(scope):
        for call in _list_calls(loop, "backward"):
            name = _owner(call)
            around = [n for n in _list_loops(scope) if _holds(n, call)]
            inner = min(around, key=lambda n: len(list(ast.walk(n))))
            grows = [n for n in ast.walk(inner) if _adds_to(n, name)]
            starts = [n for n in _list_stores(inner, name) if not _adds_to(n, name)]
            keeps = any(k.arg == "retain_graph" for k in call.keywords)
            if inner is loop and keeps and grows and not starts and not _is_loss_of(inner, name):
                yield make_slip("repeated-sum", call, path, name, ast.unparse(grows[0]))


def _adds_to(node: ast.AST, name: str) -> bool:
    if isinstance(node, ast.AugAssign):
        return isinstance(node.op, ast.Add) and ast.unparse(node.target) == name
    is_sum = isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp)
    return is_sum and any(
        ast.unparse(target) == name
        and isinstance(value, ast.BinOp)
        and isinstance(value.op, ast.Add)
        and name in (ast.unparse(value.left), ast.unparse(value.right))
        for target, value in list_assigned(node)  # type: ignore[arg-type]
    )


def _is_loss_of(loop: ast.For, name: str) -> bool:
    """Whether a sum is detached in the loop, or set back by a call."""
    return any(_owner(c) == name for n in ("detach_", "zero_") for c in _list_calls(loop, n))


# -- models of an epoch ---------------------------------------------------------------------------


def _find_made_anew(scope: Scope, path: str) -> Iterator[Slip]:
    """The models that a loop over epochs makes in each of them, and trains in the loop within."""
    for outer in _list_loops(scope):
        says_epoch = "epoch" in f"{ast.unparse(outer.target)} {ast.unparse(outer.iter)}".lower()
        inner = [loop for loop in _list_loops(scope) if _holds(outer, loop) and _list_steps(loop)]
        if not says_epoch or not inner:
            continue
        called = {ast.unparse(n.func) for n in ast.walk(inner[0]) if isinstance(n, ast.Call)}
        for node in outer.body:
            for target, value in list_assigned(node) if isinstance(node, ast.Assign) else ():
                name = ast.unparse(target)
                is_made = isinstance(value, ast.Call) and name in called and _is_network(value)
                trains = any(name in ast.unparse(n) for n in _list_optimizers(outer))
                if is_made and trains:
                    yield make_slip("made-anew", node, path, name)


def _is_network(call: ast.Call) -> bool:
    """Whether a call may make a model: it is given no module, as a wrapper or a `.to()` is."""
    is_method = isinstance(call.func, ast.Attribute) and name_of(call.func) in ("to", "cuda")
    names = [ast.unparse(a) for a in call.args]
    return not is_method and not any(re.search("model|net|load|copy", n.lower()) for n in names)


def _list_optimizers(loop: ast.For) -> list[ast.Call]:
    """The calls in the body of a loop that are given parameters."""
    calls = [n for s in loop.body for n in ast.walk(s) if isinstance(n, ast.Call)]
    return [c for c in calls if c.args and "parameters" in ast.unparse(c.args[0])]


# -- units of schedules ----------------------------------------------------------------------------


def _find_units(
    scopes: Sequence[Scope], steps: Sequence[ast.FunctionDef], path: str
) -> Iterator[Slip]:
    """The schedules that count batches and are stepped once an epoch, or the other way round."""
    made = {
        ast.unparse(target): value
        for scope in scopes
        for node in list_own(scope)
        if isinstance(node, ast.Assign)
        for target, value in list_assigned(node)
        if isinstance(value, ast.Call) and name_of(value.func) in _SCHEDULERS
    }
    training = {s.name for s in scopes if isinstance(s, ast.FunctionDef) and _list_batch_loops(s)}
    for name, call in made.items():
        unit, why = _find_unit(call)
        own = [] if name_of(call.func) == _PLATEAU else steps  # of a whole data set, perhaps
        found = {
            _find_round(step, scope, training, own)
            for scope in scopes
            for step in _list_own_calls(scope, f"{name}.step")
        }
        other = {"batches": "epoch", "epochs": "batch"}.get(unit, "")
        if other and set(found) == {other}:
            yield make_slip(f"counts-{unit}", call, path, name, why)


def _list_own_calls(scope: Scope, text: str) -> list[ast.Call]:
    return [n for n in list_own(scope) if isinstance(n, ast.Call) and ast.unparse(n.func) == text]


def _find_unit(call: ast.Call) -> tuple[str, str]:
    """What a schedule counts, by the words of its length, and the argument that says so."""
    kind = name_of(call.func)
    if kind == _PLATEAU:
        given = [k.value for k in call.keywords if k.arg == "patience"] or call.args[3:4]
        patience = getattr(given[0], "value", None) if given else 10
        is_short = isinstance(patience, int) and patience <= SHORT
        return ("epochs", f"patience={patience}") if is_short else ("", "")
    for argument, place in _LENGTHS.get(kind, {}).items():
        given = [k.value for k in call.keywords if k.arg == argument] or call.args[
            place : place + 1
        ]
        text = ast.unparse(given[0]) if given else ""
        in_batches = re.search(r"len\(.*(load|dl|batch)|(steps|iter\w*|batches)_per_epoch", text)
        if text and (argument == "steps_per_epoch" or in_batches):
            return "batches", f"{argument}={text}"
        words = set(re.split(r"[^a-z]+", text.lower()))
        in_epochs = words & {"epoch", "epochs"} and not re.search("len|iter|step|batch", text)
        if in_epochs and "*" not in text:
            return "epochs", f"{argument}={text}"
    return "", ""


def _list_batch_loops(scope: Scope) -> list[ast.For]:
    """The innermost loops that call backward, and step an optimizer; not one over a range by
    itself, whose rounds may be epochs.
    """
    loops = [n for n in _list_loops(scope) if _list_steps(n)]
    inner = [n for n in loops if not any(_holds(n, other) for other in loops)]
    return [
        n
        for n in inner
        if not (isinstance(n.iter, ast.Call) and name_of(n.iter.func) == "range")
        or any(_holds(other, n) for other in loops)
    ]


def _find_round(
    step: ast.Call, scope: Scope, training: set[str], steps: Sequence[ast.FunctionDef]
) -> str:
    """Whether a schedule steps with each batch or with each epoch; "" if unknown."""
    batches = _list_batch_loops(scope)
    if any(_holds(loop, step) for loop in batches):
        return "" if _is_rare(step, batches) else "batch"
    around = [loop for loop in _list_loops(scope) if _holds(loop, step)]
    calls = {name_of(n.func) for loop in around for n in ast.walk(loop) if isinstance(n, ast.Call)}
    if around and (any(_holds(a, b) for a in around for b in batches) or calls & training):
        return "epoch"
    is_step = scope in steps and not _list_loops(scope) and bool(_list_calls(scope, "backward"))
    return "batch" if is_step else ""


def _is_rare(step: ast.Call, loops: Sequence[ast.For]) -> bool:
    """Whether a step in a loop over batches stands under a condition."""
    tests = [n for loop in loops for n in ast.walk(loop) if isinstance(n, ast.If)]
    return any(_holds(n, step) for n in tests)
