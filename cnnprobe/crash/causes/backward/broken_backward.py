import ast
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.autograd.function import BackwardCFunction

from cnnprobe.crash.cause import Candidate, Crash, Suspect, Suspects, blame, cause, propose, vary
from cnnprobe.crash.edits.calls import ReplaceBackward
from cnnprobe.crash.edits.outside import Advice
from cnnprobe.crash.edits.writing import extend_return
from cnnprobe.crash.facts.frames import list_backward_frames, list_names
from cnnprobe.crash.facts.saved import find_maker, find_start, walk_nodes
from cnnprobe.crash.facts.source import parse, recompile

_MOST_NAMES = 6  # tensors of a failing line that are shown with their shapes
_Shape = tuple[int, ...] | None  # None: no gradient

_NET = """
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, factor, shift=0.0):
        ctx.factor = factor
        return x * factor + shift
    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 2)
    def forward(self, x):
        return Scale.apply(self.fc(x), 2.0)
model = Net()
def run(model):
    F.cross_entropy(model(torch.randn(4, 8)), torch.tensor([0, 1, 0, 1])).backward()
"""
_RIGHT = "return gradient * ctx.factor, None"
EXAMPLES = tuple(
    vary(_NET, _RIGHT, wrong, repair, blames="", is_tried=is_tried)
    for wrong, repair, is_tried in (
        ("return gradient * ctx.factor", "return None as well", True),
        ("gradient = gradient * ctx.factor", "return gradient, None", True),
        ("return gradient.sum(1) * ctx.factor, None", "of the shape (4, 2) for 'x'", False),
        ("return gradient * torch.ones(3), None", "the shapes (4, 2), None", False),
    )
)


@cause("CP088", "broken-backward", EXAMPLES, stage="backward", prior=880)
def broken_backward(crash: Crash) -> Suspects:
    """The backward of an autograd function of your own does not give what autograd expects.

    Why it happens: backward() has to return one gradient for each argument that apply() got, in
    that order and in the shape of the argument; None for what needs no gradient.
    What to do: return None for every argument that is no tensor. Sum over the dims that were
    broadcast.
    Known exceptions: further values may be returned if they are None.
    Source: PyTorch, "Extending PyTorch", extending torch.autograd.
    """
    loss = find_start(crash)
    entered = {frame.f_code: (frame, line) for frame, line in list_backward_frames(crash.error)}
    seen: set[Any] = set()
    for node in walk_nodes(loss.grad_fn) if loss is not None else ():
        kind = getattr(node, "_forward_cls", None) if isinstance(node, BackwardCFunction) else None
        if kind is None or kind in seen:
            continue
        seen.add(kind)
        if kind.backward.__code__ in entered:
            yield _suspect_line(crash, node, *entered[kind.backward.__code__])
            return
        suspect = None if entered else _suspect_return(crash, node, kind)
        if suspect is not None:
            yield suspect
            return


def _suspect_line(crash: Crash, node: Any, frame: Any, line: int) -> Suspect:
    """A line of the backward raised."""
    kind = node._forward_cls.__name__
    names = dict.fromkeys((*list_names(crash.error), *frame.f_locals))
    shapes = [
        f"{name} is {tuple(value.shape)}"
        for name in names
        if isinstance(value := frame.f_locals.get(name), Tensor)
    ]
    wanted = ", ".join("None" if s is None else str(s) for s in _list_shapes(node))
    title = f"the backward of {kind} has to return gradients of the shapes {wanted}"
    advice, given = Advice(title=f"correct line {line}: {title}"), "; ".join(shapes[:_MOST_NAMES])
    return _suspect(crash, node, f"raised at line {line}: {crash.error}", given, propose(advice))


def _suspect_return(crash: Crash, node: Any, kind: Any) -> Suspect | None:
    """The backward returns the wrong number of gradients, or of wrong shapes."""
    wanted, given = len(node.needs_input_grad), _observe_backward(crash, kind)
    count = _count_returned(kind) if given is None else len(given)
    if count is not None and (count < wanted or any(s is not None for s in (given or ())[wanted:])):
        return _suspect_count(crash, node, kind, wanted=wanted, count=count)
    names = [p for p in inspect.signature(kind.forward).parameters if p != "ctx"]
    for name, returned, shape in zip(names, given or (), _list_shapes(node), strict=False):
        if returned is not None and shape is not None and not _sums_to(returned, shape):
            title = f"return a gradient of the shape {shape} for {name!r} from the backward of "
            advice = propose(Advice(title=title + kind.__name__))
            what = f"returns a gradient of {returned} for {name!r}, which is {shape}"
            why = "a gradient has the shape of the input that it belongs to"
            return _suspect(crash, node, what, why, advice)
    return None


def _suspect(
    crash: Crash, node: Any, what: str, arithmetic: str, *candidates: Candidate
) -> Suspect:
    kind, maker = node._forward_cls.__name__, find_maker(crash, node)
    return blame(
        None if maker is None else crash.find_module_above(maker[0]),
        f"the backward of {kind}, an autograd function of your own, {what}",
        *candidates,
        arithmetic=arithmetic,
        raised_in=f"the backward of {kind}",
    )


def _suspect_count(crash: Crash, node: Any, kind: Any, *, wanted: int, count: int) -> Suspect:
    names = [p for p in inspect.signature(kind.forward).parameters if p != "ctx"]
    tree = parse(kind.backward)
    has_return = tree is None or any(isinstance(n, ast.Return) for n in ast.walk(tree))
    got = f"returns {count} gradient{'s' * (count != 1)}" if has_return else "returns nothing"
    return _suspect(
        crash,
        node,
        f"{got}, but apply() got {wanted} argument{'s' * (wanted != 1)}: "
        "each needs a gradient, or None",
        f"forward(ctx, {', '.join(names)}); the backward is at line "
        f"{tree.lineno if tree is not None else inspect.getsourcelines(kind.backward)[1]}",
        propose(_complete(kind, wanted, count, has_return=has_return)),
    )


def _complete(kind: Any, wanted: int, count: int, *, has_return: bool) -> ReplaceBackward | Advice:
    """The same backward with None for the arguments that it forgot."""
    nones = ", ".join(["None"] * (wanted - count)) if has_return else ""
    shown: list[str] = []

    def complete(tree: ast.FunctionDef) -> None:
        last = tree.body[-1]
        if (
            not has_return
            and isinstance(last, ast.Assign)
            and isinstance(last.targets[0], ast.Name)
        ):
            tree.body.append(ast.Return(value=ast.Name(id=last.targets[0].id, ctx=ast.Load())))
        elif not has_return and isinstance(last, ast.Expr):
            tree.body[-1] = ast.Return(value=last.value)
        for node in ast.walk(tree):
            if isinstance(node, ast.Return) and node.value is not None:
                given = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
                more = [ast.Constant(None) for _ in range(wanted - len(given))]
                node.value = ast.Tuple(elts=[*given, *more], ctx=ast.Load())
                shown.append(", ".join(map(ast.unparse, node.value.elts)))

    function = recompile(kind.backward, complete) if count < wanted else None
    if function is None or not shown:
        return Advice(title=f"return {wanted} values from the backward of {kind.__name__}")
    plural = "s" * (count > 1)
    return ReplaceBackward(
        title=f"return {nones} as well, after the gradient{plural} that the backward of "
        f"{kind.__name__} returns"
        if has_return
        else f"return {shown[-1]} at the end of the backward of {kind.__name__}",
        code=nones or f"return {shown[-1]}",
        kind=kind,
        function=function,
        written=extend_return(kind.backward.__code__, nones) if has_return else None,
    )


def _observe_backward(crash: Crash, kind: Any) -> tuple[_Shape, ...] | None:
    """The shapes that the backward returns, seen on a copy of the model; None: it was not run."""
    seen: list[tuple[_Shape, ...]] = []
    original: Callable[..., Any] = kind.backward

    def watch(ctx: Any, *gradients: Any) -> Any:
        returned = original(ctx, *gradients)
        parts = returned if isinstance(returned, tuple) else (returned,)
        seen.append(tuple(tuple(t.shape) if isinstance(t, Tensor) else None for t in parts))
        return returned

    if crash.trials is not None:
        crash.trials.run_backward([ReplaceBackward(title="", kind=kind, function=watch)])
    return seen[0] if seen else None


def _count_returned(kind: Any) -> int | None:
    """How many gradients the backward returns, where its source says so plainly."""
    if (tree := parse(kind.backward)) is None:
        return None
    values = [node.value for node in ast.walk(tree) if isinstance(node, ast.Return)]
    if any(not isinstance(v, ast.Tuple | ast.BinOp | ast.UnaryOp) for v in values):
        return None
    counts = {len(v.elts) if isinstance(v, ast.Tuple) else 1 for v in values}
    return counts.pop() if len(counts) == 1 else None


def _list_shapes(node: Any) -> list[_Shape]:
    """The shapes that the gradients have to have, by argument; None: no gradient is needed."""
    edges = iter([edge for edge in node.next_functions if edge[0] is not None])
    shapes: list[_Shape] = []
    for is_needed in node.needs_input_grad:
        before, index = next(edges, (None, 0)) if is_needed else (None, 0)
        found = getattr(before, "variable", None)
        if before is not None and found is None:
            found = before._input_metadata[index]
        shapes.append(None if found is None else tuple(found.shape))
    return shapes


def _sums_to(given: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether autograd sums a gradient to the shape of the input: over dims that were broadcast."""
    lead = len(given) - len(wanted)
    return lead >= 0 and all(m in (n, 1) for m, n in zip(wanted, given[lead:], strict=True))
