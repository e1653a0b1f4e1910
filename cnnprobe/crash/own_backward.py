"""Autograd functions of the user's own whose backward does not give what autograd wants of it. Runs a shadow of the model for the trial."""

import ast
import inspect
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction, Function

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.calls import Bind
from cnnprobe.crash.edits.files import write_changes
from cnnprobe.crash.edits.writing import extend_return
from cnnprobe.crash.facts.frames import list_names
from cnnprobe.crash.facts.saved import find_maker, walk_nodes
from cnnprobe.crash.facts.source import get_forward, parse, recompile
from cnnprobe.crash.overwriting import backward_passes
from cnnprobe.crash.training import Verdict
from cnnprobe.explanation import Repair

_MOST_NAMES = 6  # tensors of a failing line that are told with their shapes


def explain_own_backward(crash: Crash, loss: Tensor) -> Verdict | None:
    """What is wrong with the backward of an autograd function in the graph of a loss, as far as its source tells; None where nothing is."""
    case, seen = (crash if crash.trace.calls else None), set()
    entered = {
        frame.f_code: (frame, line) for frame, line in traceback.walk_tb(crash.error.__traceback__)
    }
    for node in walk_nodes(loss.grad_fn):
        kind = getattr(node, "_forward_cls", None) if isinstance(node, BackwardCFunction) else None
        if kind is None or kind in seen:
            continue
        seen.add(kind)
        if kind.backward.__code__ in entered:
            return _raised(crash, case, node, *entered[kind.backward.__code__])
        wanted, given = _inputs(kind), _gradients(kind)
        if wanted is not None and given is not None and wanted != given:
            return _miscounted(crash, case, _owner(case, node), kind, wanted=wanted, given=given)
        refused = _refused_shapes(crash, case, node, kind)
        if refused is not None:
            return refused
    return None


def _owner(case: Crash | None, node: Any) -> str | None:
    """The module whose forward made a node."""
    maker = find_maker(case, node)
    return case.find_module_above(maker[0]) if case is not None and maker is not None else None


def _shapes_wanted(node: Any) -> list[tuple[int, ...] | None]:
    """The shapes that the gradients of a node's inputs are to have; None where an input wants none."""
    wanted: list[tuple[int, ...] | None] = []
    for before, index in node.next_functions:
        value = getattr(before, "variable", None)
        found = (
            value
            if value is not None
            else None
            if before is None
            else before._input_metadata[index]
        )
        wanted.append(None if found is None else tuple(found.shape))
    return wanted


def _raised(
    crash: Crash, case: Crash | None, node: Any, frame: types.FrameType, line: int
) -> Verdict:
    """The code of a backward that raised itself."""
    kind = node._forward_cls
    owner, shown = (
        _owner(case, node),
        ", ".join("None" if s is None else str(s) for s in _shapes_wanted(node)),
    )
    names = dict.fromkeys((*list_names(crash.error), *frame.f_locals))
    at_hand = [
        f"{name} is {tuple(v.shape)}"
        for name in names
        if isinstance(v := frame.f_locals.get(name), Tensor)
    ]
    return Verdict(
        diagnosis="broken-backward",
        module=owner,
        message=f"the backward of {kind.__name__}, an autograd function of your own, raised at line {line}: {crash.error}",
        arithmetic="; ".join(at_hand[:_MOST_NAMES]),
        repairs=(
            Repair(
                title=f"correct line {line}: the gradients that the backward of {kind.__name__} returns are to be of the shapes {shown}"
            ),
        ),
        raised_in=f"the backward of {kind.__name__}",
    )


def _refused_shapes(
    crash: Crash, case: Crash | None, node: Any, kind: type[Function]
) -> Verdict | None:
    """A backward that returns gradients of other shapes than its inputs have, seen by running it on a copy of the model."""
    owner, wanted = _owner(case, node), _shapes_wanted(node)
    module = case.modules.get(owner) if case is not None and owner is not None else None
    given: list[tuple[int, ...] | None] = []

    def watched(ctx: Any, *gradients: Any) -> Any:
        returned = kind.backward(ctx, *gradients)
        given[:] = [
            tuple(t.shape) if isinstance(t, Tensor) else None
            for t in (returned if isinstance(returned, tuple) else (returned,))
        ]
        return returned

    forward = _with_function(module, kind, watched) if module is not None else None
    if case is None or forward is None:
        return None
    backward_passes(crash, case, Bind(title="", code="", module=owner, function=forward))
    wrong = [
        (i, a, b)
        for i, (a, b) in enumerate(zip(given, wanted, strict=False))
        if a is not None and b is not None and not _sums_to(a, b)
    ]
    if not wrong:
        return None
    at, returned, shape = wrong[0]
    name = [p for p in inspect.signature(kind.forward).parameters if p != "ctx"][at]
    return Verdict(
        diagnosis="broken-backward",
        module=owner,
        message=f"the backward of {kind.__name__}, an autograd function of your own, returns a gradient of {returned} for {name!r}, "
        f"which is {shape}",
        arithmetic="a gradient has the shape of the input that it belongs to",
        repairs=(
            Repair(
                title=f"return a gradient of the shape {shape} for {name!r} from the backward of {kind.__name__}",
                module=owner,
            ),
        ),
        raised_in=f"the backward of {kind.__name__}",
    )


def _sums_to(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether autograd takes a gradient of one shape for an input of another: it sums over the axes that were broadcast."""
    lead = len(given) - len(wanted)
    return lead >= 0 and all(m in (n, 1) for m, n in zip(wanted, given[lead:], strict=True))


def _inputs(kind: type[Function]) -> int | None:
    """How many gradients the backward has to return: one for each input of the forward but ctx."""
    parameters = list(inspect.signature(kind.forward).parameters.values())
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters) or any(
        p.default is not p.empty for p in parameters
    ):
        return None
    with_context = kind.setup_context is Function.setup_context
    return len(parameters) - with_context


def _gradients(kind: type[Function]) -> int | None:
    """How many gradients the backward returns, where its returns are written out and agree."""
    tree = parse(kind.backward)
    values = (
        [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
        if tree is not None
        else []
    )
    if not values or any(
        isinstance(v, ast.Tuple) and any(isinstance(e, ast.Starred) for e in v.elts) for v in values
    ):
        return None
    if any(isinstance(v, ast.Name) and _is_made_of_several(tree, v.id) for v in values):
        return None
    counts = {
        len(v.elts) if isinstance(v, ast.Tuple) else 1
        for v in values
        if not isinstance(v, ast.Call)
    }
    return (
        counts.pop()
        if len(counts) == 1 and not any(isinstance(v, ast.Call) for v in values)
        else None
    )


def _is_made_of_several(tree: ast.FunctionDef | None, name: str) -> bool:
    """Whether a name may stand for a tuple: it is assigned one, or what a call returns."""
    for node in ast.walk(tree) if tree is not None else ():
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(
            node, ast.Assign
        ):
            value = node.value
            is_method = (
                isinstance(value, ast.Call)
                and isinstance(value.func, ast.Attribute)
                and value.func.attr in ("clone", "sum", "neg")
            )
            if isinstance(value, ast.Tuple | ast.List) or (
                isinstance(value, ast.Call) and not is_method
            ):
                return True
    return False


def _miscounted(
    crash: Crash,
    case: Crash | None,
    owner: str | None,
    kind: type[Function],
    *,
    wanted: int,
    given: int,
) -> Verdict:
    names = [p for p in inspect.signature(kind.forward).parameters if p != "ctx"][:wanted]
    first, last = inspect.getsourcelines(kind.backward)[1], parse(kind.backward)
    repairs = tuple(_completed(crash, case, owner, kind, wanted - given)) if wanted > given else ()
    return Verdict(
        diagnosis="call-signature",
        module=owner,
        message=f"the backward of {kind.__name__}, an autograd function of your own, returns {given} gradient{'s' * (given != 1)}, "
        f"and its forward has {wanted} input{'s' * (wanted != 1)}: each of them wants one, None where it has none",
        arithmetic=f"forward(ctx, {', '.join(names)}); the backward is at line {last.lineno if last is not None else first}",
        repairs=repairs
        or (
            Repair(
                title=f"return {wanted} values from the backward of {kind.__name__}", module=owner
            ),
        ),
        raised_in=f"the backward of {kind.__name__}",
    )


def _completed(
    crash: Crash, case: Crash | None, owner: str | None, kind: type[Function], lacking: int
) -> Iterator[Repair]:
    """The same backward with None for the inputs that it forgot, tried with a copy of the function."""

    def complete(tree: ast.FunctionDef) -> None:
        for node in ast.walk(tree):
            if isinstance(node, ast.Return) and node.value is not None:
                elements = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                node.value = ast.Tuple(
                    elts=[*elements, *(ast.Constant(None) for _ in range(lacking))], ctx=ast.Load()
                )

    again = recompile(kind.backward, complete)
    if again is None:
        return
    nones = ", ".join(["None"] * lacking)
    title = f"return {nones} as well, after the gradient{'s' * (lacking > 1)} that the backward of {kind.__name__} returns"
    module = case.modules.get(owner) if case is not None and owner is not None else None
    forward = _with_function(module, kind, again) if module is not None else None
    written = extend_return(kind.backward.__code__, nones)
    tried = ""
    if case is not None and forward is not None:
        edit = Bind(title=title, code="", module=owner, function=forward)
        passed = backward_passes(crash, case, edit)
        tried = "tried: forward and backward pass on a copy of the model" if passed else ""
    yield Repair(
        title=title,
        code=nones,
        module=owner,
        works=bool(tried),
        plausible=bool(tried),
        tried=tried,
        patch=write_changes(written),
    )


def _with_function(
    module: nn.Module, kind: type[Function], backward: Callable[..., Any]
) -> Callable[..., Any] | None:
    """A module's forward in which the name of an autograd function stands for one with another backward."""
    forward = get_forward(module)
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
