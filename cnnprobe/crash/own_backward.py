"""Autograd functions of the user's own whose backward does not give what autograd wants of it. Runs a shadow of the model for the trial."""

import ast
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, Function

from cnnprobe.crash.case import Case
from cnnprobe.crash.edits import Bind
from cnnprobe.crash.functions import with_more_returned
from cnnprobe.crash.graphs import maker_of, nodes_of
from cnnprobe.crash.overwriting import backward_passes
from cnnprobe.crash.patch import diff_of
from cnnprobe.crash.training import Training, Verdict
from cnnprobe.crash.users_code import compiled_again, forward_of, parsed
from cnnprobe.explanation import Repair


def explain_own_backward(training: Training, loss: Tensor) -> Verdict | None:
    """What is wrong with the backward of an autograd function in the graph of a loss, as far as its source tells; None where nothing is."""
    case, seen = training.case(), set()
    for node in nodes_of(loss.grad_fn):
        kind = getattr(node, "_forward_cls", None) if isinstance(node, BackwardCFunction) else None
        if kind is None or kind in seen:
            continue
        seen.add(kind)
        wanted, given = _inputs(kind), _gradients(kind)
        if wanted is not None and given is not None and wanted != given:
            maker = maker_of(case, node)
            owner = case.module_above(maker[0]) if case is not None and maker is not None else None
            return _miscounted(training, case, owner, kind, wanted=wanted, given=given)
    return None


def _inputs(kind: type[Function]) -> int | None:
    """How many gradients the backward has to return: one for each input of the forward but ctx."""
    parameters = list(inspect.signature(kind.forward).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) or any(p.default is not p.empty for p in parameters):
        return None
    with_context = kind.setup_context is Function.setup_context
    return len(parameters) - with_context


def _gradients(kind: type[Function]) -> int | None:
    """How many gradients the backward returns, where its returns are written out and agree."""
    tree = parsed(kind.backward)
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)] if tree is not None else []
    if not values or any(isinstance(v, ast.Tuple) and any(isinstance(e, ast.Starred) for e in v.elts) for v in values):
        return None
    if any(isinstance(v, ast.Name) and _is_made_of_several(tree, v.id) for v in values):
        return None
    counts = {len(v.elts) if isinstance(v, ast.Tuple) else 1 for v in values if not isinstance(v, ast.Call)}
    return counts.pop() if len(counts) == 1 and not any(isinstance(v, ast.Call) for v in values) else None


def _is_made_of_several(tree: ast.FunctionDef | None, name: str) -> bool:
    """Whether a name may stand for a tuple: it is assigned one, or what a call returns."""
    for node in ast.walk(tree) if tree is not None else ():
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(node, ast.Assign):
            value = node.value
            is_method = isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in ("clone", "sum", "neg")
            if isinstance(value, ast.Tuple | ast.List) or (isinstance(value, ast.Call) and not is_method):
                return True
    return False


def _miscounted(training: Training, case: Case | None, owner: str | None, kind: type[Function], *, wanted: int, given: int) -> Verdict:
    names = [p for p in inspect.signature(kind.forward).parameters if p != "ctx"][:wanted]
    first, last = inspect.getsourcelines(kind.backward)[1], parsed(kind.backward)
    repairs = tuple(_completed(training, case, owner, kind, wanted - given)) if wanted > given else ()
    return Verdict(
        diagnosis="call-signature",
        module=owner,
        message=f"the backward of {kind.__name__}, an autograd function of your own, returns {given} gradient{'s' * (given != 1)}, "
        f"and its forward has {wanted} input{'s' * (wanted != 1)}: each of them wants one, None where it has none",
        arithmetic=f"forward(ctx, {', '.join(names)}); the backward is at line {last.lineno if last is not None else first}",
        repairs=repairs or (Repair(title=f"return {wanted} values from the backward of {kind.__name__}", module=owner),),
        raised_in=f"the backward of {kind.__name__}",
    )


def _completed(training: Training, case: Case | None, owner: str | None, kind: type[Function], lacking: int) -> Iterator[Repair]:
    """The same backward with None for the inputs that it forgot, tried with a copy of the function."""

    def complete(tree: ast.FunctionDef) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Return) and node.value is not None:
                elements = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                node.value = ast.Tuple(elts=[*elements, *(ast.Constant(None) for _ in range(lacking))], ctx=ast.Load())

    again = compiled_again(kind.backward, complete)
    if again is None:
        return
    nones = ", ".join(["None"] * lacking)
    title = f"return {nones} as well, after the gradient{'s' * (lacking > 1)} that the backward of {kind.__name__} returns"
    module = case.modules.get(owner) if case is not None and owner is not None else None
    forward = _with_function(module, kind, again) if module is not None else None
    written = with_more_returned(kind.backward.__code__, nones)
    tried = ""
    if case is not None and forward is not None:
        edit = Bind(title=title, code="", module=owner, function=forward)
        passed = backward_passes(training, case, edit)
        tried = "tried: forward and backward pass on a copy of the model" if passed else ""
    yield Repair(title=title, code=nones, module=owner, works=bool(tried), plausible=bool(tried), tried=tried, patch=diff_of(written))


def _with_function(module: nn.Module, kind: type[Function], backward: Callable[..., Any]) -> Callable[..., Any] | None:
    """A module's forward in which the name of an autograd function stands for one with another backward."""
    forward = forward_of(module)
    if not isinstance(forward, types.FunctionType):
        return None
    names = [name for name, value in forward.__globals__.items() if value is kind]
    other = type(kind.__name__, (kind,), {"backward": staticmethod(backward)})
    made = types.FunctionType(
        forward.__code__,
        {**forward.__globals__, **dict.fromkeys(names, other)},
        forward.__name__,
        forward.__defaults__,
        forward.__closure__,
    )
    made.__kwdefaults__ = forward.__kwdefaults__
    return made if names else None
