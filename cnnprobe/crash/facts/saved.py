"""The graph behind a loss: which saved tensors were overwritten or freed, what made a node."""

import ast
import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash, find_once
from cnnprobe.crash.facts.frames import (
    find_frames,
    list_backward_frames,
    parse_function,
    read_frame,
    read_names,
)
from cnnprobe.crash.facts.losses import differentiated
from cnnprobe.operations import find_function
from cnnprobe.records.trace import ModuleCall

MOST_NODES = 40_000  # that are looked at: a longer walk from Python is a danger to torch itself


@dataclass(frozen=True)
class SavedTensor:
    """A tensor that a node of the graph has kept for its backward."""

    node: Any
    name: str


@dataclass(frozen=True, kw_only=True)
class SavedTensors:
    """What the nodes of a graph have kept, in the order of the backward."""

    modified: list[SavedTensor] = field(default_factory=list)
    freed: list[SavedTensor] = field(default_factory=list)
    kept: list[SavedTensor] = field(default_factory=list)

    @property
    def broke_off(self) -> bool:
        """Whether what is gone went in this very backward.

        It runs the nodes that were made last first: all that is left is then older.
        """
        gone = [n for one in self.freed if (n := get_number(one.node)) is not None]
        left = [n for one in self.kept if (n := get_number(one.node)) is not None]
        return bool(gone) and bool(left) and max(left) < min(gone)


def find_start(crash: Crash) -> Tensor | None:
    """The tensor whose backward has begun; None where it could not begin."""
    if (loss := differentiated(crash)) is None or not loss.requires_grad:
        return None
    frame = read_frame(crash.error, "torch/_tensor.py", "backward") or {}
    return loss if loss.numel() == 1 or frame.get("gradient") is not None else None


@find_once
def find_saved(crash: Crash) -> SavedTensors:
    """What the graph has kept; nothing where code of the user's own raised in the backward."""
    loss = find_start(crash)
    is_own = bool(list_backward_frames(crash.error))
    return SavedTensors() if loss is None or is_own else _sort_saved(loss)


def walk_nodes(*starts: Any) -> Iterator[Any]:
    """The nodes of a graph that some nodes start, by level."""
    seen: set[Any] = set()
    level = list(starts)
    while level and len(seen) < MOST_NODES:
        below = []
        for node in level:
            if node is None or node in seen:
                continue
            seen.add(node)
            yield node
            below += [child for child, _ in node.next_functions]
        level = below


def _sort_saved(loss: Tensor) -> SavedTensors:
    found = SavedTensors()
    for node in walk_nodes(loss.grad_fn):
        for name in dir(node):
            state = _read_state(node, name) if name.startswith("_saved_") else None
            if state is not None:
                getattr(found, state).append(SavedTensor(node, name))
    return found


def _read_state(node: Any, name: str) -> str | None:
    """Reading one that was overwritten or freed raises; only on one that is there hooks can sit."""
    try:
        return "kept" if isinstance(getattr(node, name), Tensor) else None
    except RuntimeError:
        try:
            raw = getattr(node, "_raw" + name, None)
        except RuntimeError:  # a list of them, such as the indices of an index_put
            return "freed"
        if raw is None or isinstance(raw, list | tuple):
            return None
        try:
            raw.register_hooks(lambda t: t, lambda t: t)
        except RuntimeError:
            return "freed"
        return "modified"
    except Exception:  # a node that does not show what it keeps
        return None


def get_number(node: Any) -> int | None:
    """Autograd's sequence number of a node: the order in which nodes were made."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return int(node._sequence_nr())
    return None


def find_maker(crash: Crash, node: Any) -> tuple[int, ModuleCall] | None:
    """The innermost recorded call that made a node of the graph."""
    if (number := get_number(node)) is None:
        return None
    found = [
        (i, c)
        for i, c in enumerate(crash.trace.calls)
        if c.sequence is not None and c.sequence[0] <= number < c.sequence[1]
    ]
    return max(found, key=lambda pair: pair[1].depth, default=None)


def describe_keeper(crash: Crash, node: Any) -> str:
    """The call that made a node in words, or the node's own operation."""
    if (maker := find_maker(crash, node)) is not None:
        return crash.describe_call(maker[1])
    return node.name().rstrip("0123456789").removesuffix("Backward") or str(node.name())


def name_parameters(crash: Crash) -> dict[int, str]:
    """The fqn of every parameter by its id; also of other models that the user's line can read."""
    others = {
        id(p): f"{name}.{fqn}"
        for name, value in read_names(crash.error).items()
        if isinstance(value, nn.Module) and value is not crash.model
        for fqn, p in value.named_parameters()
    }
    return others | {
        id(p): f"{fqn}.{name}" if fqn else name
        for fqn, m in crash.modules.items()
        for name, p in m._parameters.items()
        if p is not None
    }


def find_changed_parameter(crash: Crash, saved: SavedTensor) -> str | None:
    """The parameter that a node keeps, itself or a view of it."""
    name = saved.name.removeprefix("_saved_")
    shift = saved.node.name().lower().startswith(("addmm", "addbmm", "baddbmm", "addmv"))
    place = _PLACES.get(name, len(saved.node.next_functions)) + shift
    if name in ("mat1", "batch1"):
        place = 1
    node = dict(enumerate(child for child, _ in saved.node.next_functions)).get(place)
    while node is not None and _is_view(node) and len(node.next_functions) == 1:
        node = node.next_functions[0][0]
    return name_parameters(crash).get(id(getattr(node, "variable", None)))


# Which input of its node a saved tensor is; one later where a bias comes before it.
_PLACES = {"self": 0, "input": 0, "other": 1, "weight": 1, "mat2": 1, "batch2": 1, "vec": 1}


def _is_view(node: Any) -> bool:
    """Whether a node is that of a view, which shares the memory of its input."""
    name = node.name().rstrip("0123456789").removesuffix("Backward")
    found = find_function(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    return found is not None and "view" in found.traits


def find_keepers(crash: Crash) -> Iterator[tuple[str, str, Any]]:
    """The attributes of modules that hold tensors with a graph: fqn, name and value."""
    for fqn, module in crash.modules.items():
        for name, value in [*module.__dict__.items(), *module._buffers.items()]:
            if name.startswith("__") or name in ("_parameters", "_modules", "_buffers"):
                continue
            if any(isinstance(t, Tensor) and t.grad_fn is not None for t in tree_leaves(value)):
                yield fqn, name, value


def write_detached(name: str, value: Any) -> str:
    """The code that detaches a value: a tensor, or what holds tensors."""
    if isinstance(value, Tensor):
        return f"{name}.detach()"
    if isinstance(value, tuple | list) and all(isinstance(part, Tensor) for part in value):
        parts = f"part.detach() for part in {name}"
        return f"[{parts}]" if isinstance(value, list) else f"tuple({parts})"
    if isinstance(value, dict) and all(isinstance(part, Tensor) for part in value.values()):
        return f"{{key: part.detach() for key, part in {name}.items()}}"
    return f"torch.utils._pytree.tree_map(torch.Tensor.detach, {name})"


def find_carried(crash: Crash) -> Iterator[tuple[str, Any, ast.AST]]:
    """What the user's loop carries from step to step with its graph: name, value, assignment.

    It is assigned inside of the loop from itself alone: `out, h = model(x, h)`, `total += loss`.
    """
    frames, tree = find_frames(crash.error), parse_function(crash.error)
    line = frames[-1].lineno or 0 if frames else 0
    values = read_names(crash.error)
    for loop in ast.walk(tree) if tree is not None else ():
        if not isinstance(loop, ast.For | ast.While):
            continue
        if not loop.lineno <= line <= (loop.end_lineno or 0):
            continue
        found: dict[str, list[tuple[ast.AST, bool]]] = {}
        for node in ast.walk(loop):
            for name, reads_itself in _list_assigned(node):
                found.setdefault(name, []).append((node, reads_itself))
        for name, nodes in found.items():
            has_graph = any(
                isinstance(t, Tensor) and t.grad_fn is not None
                for t in tree_leaves(values.get(name))
            )
            if has_graph and all(reads_itself for _, reads_itself in nodes):
                yield name, values[name], nodes[0][0]


def _list_assigned(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """The names that a statement assigns, and whether it reads them."""
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
        yield node.target.id, True
    if isinstance(node, ast.Assign):
        read = {n.id for n in ast.walk(node.value) if isinstance(n, ast.Name)}
        for target in (n for t in node.targets for n in ast.walk(t)):
            if isinstance(target, ast.Name):
                yield target.id, target.id in read
