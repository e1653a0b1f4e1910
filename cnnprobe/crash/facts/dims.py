"""Dims that a tensor lacks: where they were dropped on its way, and what brings them back."""

import ast
from collections.abc import Callable
from typing import Any

from torch import nn

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.edits.build import change_tensor
from cnnprobe.crash.edits.calls import RewriteCall, rewrite_call
from cnnprobe.crash.edits.files import TextChange
from cnnprobe.crash.edits.layers import Remove
from cnnprobe.crash.edits.places import find_called, is_function
from cnnprobe.crash.facts.words import count_of, operation, quote
from cnnprobe.crash.suspect import POSSIBLE, USUAL, Candidates, propose
from cnnprobe.operations import find
from cnnprobe.records.trace import ModuleCall, TensorInfo

# Layers for maps and sequences: what they get without a batch has a dim less.
_SHAPED = nn.modules.conv._ConvNd | nn.RNNBase | nn.Embedding | nn.MultiheadAttention


def find_drop(crash: Crash, x: TensorInfo, rank: int) -> ModuleCall | None:
    """The latest call on the way that made a tensor of fewer dims than `rank` out of one of it."""
    for _, call in crash.walk_back(x):
        before = len(call.inputs[0].shape) if call.inputs else 0
        if len(call.outputs[0].shape) < rank <= before if call.outputs else False:
            info = find(call)
            return call if info is not None and info.effect in ("reshapes", "reduces") else None
    return None


def explain_rank(crash: Crash, x: TensorInfo, rank: int) -> str:
    """How many dims a tensor has, and what dropped one of them."""
    call = find_drop(crash, x, rank)
    if call is not None:
        before, after = call.inputs[0].shape, call.outputs[0].shape
        return f"{crash.describe_call(call)} made {after} of {before}"
    return f"{x.shape} from {crash.describe_origin(x)} has {count_of(len(x.shape), 'dim')}"


def propose_rank(crash: Crash, x: TensorInfo, rank: int) -> Candidates:
    """Leave out the call that dropped a dim, or keep the dim; or add a batch to the input."""
    call = find_drop(crash, x, rank)
    info = find(call) if call is not None else None
    if call is not None and info is not None and info.effect == "reduces" and call.fqn is None:
        yield propose(keep_dim(crash, call))
    elif call is not None and call.fqn is not None:
        yield propose(Remove(title=f"take {quote(call.fqn)} out", module=call.fqn), weight=USUAL)
    elif call is not None:
        yield propose(leave_out(crash, call))
    has_shape = any(isinstance(module, _SHAPED) for module in crash.modules.values())
    if has_shape and crash.find_root(x) is not None and len(x.shape) == rank - 1:
        batch = change_tensor(crash, x, lambda x: x.unsqueeze(0), "{x}.unsqueeze(0)")
        yield propose(batch, weight=POSSIBLE)


def find_turn(crash: Crash, x: TensorInfo, dim: int, size: int) -> ModuleCall | None:
    """The latest call that moved the dims of a tensor which had a size in a dim before it.

    Nothing but functions that keep the shape stand after it.
    """
    for _, call in crash.walk_back(x):
        info = find(call) if call.fqn is None else None
        if info is None or not call.inputs or not call.outputs:
            return None
        before = call.inputs[0].shape
        if info.effect == "turns" and info.name not in ("flip", "roll"):
            is_right = len(before) == len(x.shape) and before[dim] == size != x.shape[dim]
            return call if is_right and sorted(before) == sorted(x.shape) else None
        if before != call.outputs[0].shape:
            return None
    return None


def leave_out(crash: Crash, call: ModuleCall) -> RewriteCall:
    """What a function is given in the place of what it gives."""

    def write() -> list[TextChange]:
        file, node = find_called(call.source, call.kind.rpartition(".")[2])
        given = node.args[0] if is_function(file, node) else node.func.value  # type: ignore[attr-defined]
        for one in (n for n in ast.walk(file.tree) if isinstance(n, ast.Assign)):
            if one.value is node and [ast.unparse(t) for t in one.targets] == [ast.unparse(given)]:
                start, end = file.offset(one.lineno, 0), file.offset(one.end_lineno or 0, 0)
                return [TextChange(file.path, start, file.text.index("\n", end) + 1, "")]
        return [file.replace(node, file.source(given))]

    title = f"leave out {operation(call)} at {{place}}"
    return rewrite_call(
        crash, call, lambda _func, args, _kwargs: args[0], title=title, code="{x}", written=write
    )


def keep_dim(crash: Crash, call: ModuleCall) -> RewriteCall:
    """The same reduction with keepdim=True."""

    def rewrite(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **{**kwargs, "keepdim": True})

    title = f"keep the dim in {operation(call)} at {{place}}: keepdim=True"
    return rewrite_call(
        crash, call, rewrite, title=title, code="keepdim=True", keyword=("keepdim", True, 2)
    )
