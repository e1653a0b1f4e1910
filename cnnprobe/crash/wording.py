"""Slips of the pen in the user's own lines: tensors that are not in a list, a layer class called as a function, a forward without self."""

import ast
import copy
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from cnnprobe.crash.crash import Crash, describe_module
from cnnprobe.crash.edits.build import change_tensor
from cnnprobe.crash.edits.calls import AdaptOutput, Bind, Rewrite
from cnnprobe.crash.edits.edit import Edit
from cnnprobe.crash.edits.files import Change
from cnnprobe.crash.edits.writing import add_parameters, extend_targets, replace_call, replace_name
from cnnprobe.crash.facts.frames import list_calls, list_data, read_arguments, read_locals
from cnnprobe.crash.facts.source import get_forward, parse, recompile
from cnnprobe.crash.facts.words import operation, quote, read_line, shorten
from cnnprobe.crash.suspect import STRONG, Suspect, propose
from cnnprobe.recorder.inventory import class_of
from cnnprobe.trace import ModuleCall

# Functions whose first argument is a sequence of tensors. Source: their pages in the documentation of torch.
_OF_SEQUENCES = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack"})


def suspect(crash: Crash) -> Iterator[Suspect]:
    """What may be wrong with the wording of the failing line or of the forward."""
    if crash.call is None:
        return
    if isinstance(crash.error, TypeError) and crash.leaf is None:
        yield from _without_self(crash, crash.call)
        yield from _unlisted(crash)
    if isinstance(crash.error, NameError):
        yield from _without_prefix(crash)
    if isinstance(crash.error, ValueError) and crash.leaf is None:
        yield from _unpacked(crash, crash.call)
    if isinstance(crash.error, TypeError | AttributeError | RuntimeError):
        yield from _class_called(crash)


def _bound(
    title: str, module: str, function: Callable[..., Any], written: Callable[[], list[Change]]
) -> Bind:
    """The forward worded otherwise."""
    return Bind(title=title, module=module, function=function, written=written)


# -- def forward(x) ------------------------------------------------------------------------------------------------------------


def _without_self(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    module = crash.module
    if module is None or class_of(module).__module__.startswith("torch."):
        return
    given, tree = read_arguments(crash.error, module), parse(get_forward(module))
    if (
        tree is None
        or given is None
        or len(tree.args.args) != len(given[0])
        or any(a.arg == "self" for a in tree.args.args)
    ):
        return
    if not any(isinstance(node, ast.Name) and node.id == "self" for node in ast.walk(tree)):
        return
    again = recompile(get_forward(module), lambda one: one.args.args.insert(0, ast.arg("self")))
    kind, fqn = class_of(module).__name__, call.fqn or ""
    names = ", ".join(["self", *(a.arg for a in tree.args.args)])
    edits = (
        []
        if again is None
        else [
            _bound(
                f"write def forward({names}) in {kind}",
                fqn,
                again,
                add_parameters(get_forward(module).__code__, "self"),
            )
        ]
    )
    yield Suspect(
        diagnosis="call-signature",
        module=fqn,
        message=f"the forward of {describe_module(crash, fqn)} has no parameter self, so that the module itself takes the place of the first",
        arithmetic=f"forward({', '.join(a.arg for a in tree.args.args)}), at line {tree.lineno}",
        candidates=tuple(propose(edit, weight=STRONG) for edit in edits),
        weight=STRONG + 1,
    )


# -- conv1(x) for self.conv1(x) ----------------------------------------------------------------------------------------------


def _without_prefix(crash: Crash) -> Iterator[Suspect]:
    """A layer that is called without its module."""
    name, owner = getattr(crash.error, "name", None), crash.modules.get(crash.owner)
    if (
        owner is None
        or not isinstance(name, str)
        or class_of(owner).__module__.startswith("torch.")
    ):
        return
    known = (
        name in owner._modules
        or name in owner._parameters
        or name in owner._buffers
        or name in owner.__dict__
    )
    if not known:
        return

    def changed(tree: ast.FunctionDef) -> None:
        _Prefixed(name).visit(tree)

    again = recompile(get_forward(owner), changed)
    title = f"write self.{name} instead of {name}"
    edits = (
        []
        if again is None
        else [
            _bound(
                title,
                crash.owner,
                again,
                replace_name(get_forward(owner).__code__, name, f"self.{name}"),
            )
        ]
    )
    yield Suspect(
        diagnosis="missing-attribute",
        module=crash.owner,
        message=f"there is no variable {name!r} in the forward of {describe_module(crash, crash.owner)}: it is an attribute of the module, self.{name}",
        arithmetic=f"self.{name} is a {type(getattr(owner, name)).__name__}",
        candidates=tuple(propose(edit, weight=STRONG) for edit in edits),
        weight=STRONG,
    )


class _Prefixed(ast.NodeTransformer):
    """An attribute of self in the place of a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Exchange it where it is read."""
        if node.id != self.name or not isinstance(node.ctx, ast.Load):
            return node
        return ast.copy_location(
            ast.Attribute(value=ast.Name(id="self", ctx=ast.Load()), attr=node.id, ctx=ast.Load()),
            node,
        )


# -- a, b = x.chunk(3) -------------------------------------------------------------------------------------------------------


def _unpacked(crash: Crash, call: ModuleCall) -> Iterator[Suspect]:
    """Another number of names than of things that a call gives."""
    failure = crash.trace.failure
    source = failure.source if failure is not None else ""
    wanted = _names_assigned(source)
    if wanted and (sized := _sizes_taken(crash, source)) is not None:
        yield _other_rank(crash, *sized, wanted=wanted, source=source)
        return
    made = [
        c
        for c in crash.trace.calls
        if c.parent == crash.index and c.source == source and c.completed
    ]
    if len(made) > 1 and operation(made[-1]) == "unbind" and "unbind" not in read_line(source):
        made.pop()  # torch iterates over a tensor by it
    if (
        not wanted
        or not made
        or not made[-1].outputs
        or call.fqn is None
        or _callee(source) != (made[-1].fqn or operation(made[-1])).rpartition(".")[2]
    ):
        return
    last, tensors = made[-1], len({t.path.partition("]")[0] for t in made[-1].outputs})
    is_one = last.returned == "Tensor"
    given = (
        last.outputs[0].shape[0] if is_one and last.outputs and last.outputs[0].shape else tensors
    )
    if given == wanted:
        return
    edits: list[Edit] = []
    if is_one and last.fqn is not None:
        title = f"take what {quote(last.fqn)} gives as it is, without unpacking: it is one tensor"
        edits.append(
            AdaptOutput(
                title=title, module=last.fqn, function=lambda x: (x, *[None] * (wanted - 1))
            )
        )
    elif operation(last) == "chunk":
        edits.append(_chunked(crash, last, wanted))
    what = "one tensor, whose first axis would be unpacked" if is_one else f"{tensors} tensors"
    yield Suspect(
        diagnosis="call-signature",
        module=crash.owner,
        message=f"{crash.describe_call(last)} gives {what}, and {wanted} name{'s' * (wanted != 1)} take{'s' * (wanted == 1)} it",
        arithmetic=f"{given} against {wanted}",
        candidates=tuple(propose(edit, weight=STRONG) for edit in edits),
        weight=STRONG,
    )


def _callee(source: str) -> str:
    """The name of the function or layer whose very result a line assigns; "" where it assigns something else."""
    node = ast.parse(read_line(source)).body[0]
    value = node.value if isinstance(node, ast.Assign) else None
    function = value.func if isinstance(value, ast.Call) else None
    return (
        function.attr
        if isinstance(function, ast.Attribute)
        else function.id
        if isinstance(function, ast.Name)
        else ""
    )


def _sizes_taken(crash: Crash, source: str) -> tuple[str, Tensor] | None:
    """The tensor whose sizes a line unpacks, `b, c, h, w = x.shape`, and how it is written."""
    tree = ast.parse(read_line(source)).body[0]
    value = tree.value if isinstance(tree, ast.Assign) else None
    if (
        isinstance(value, ast.Call)
        and not value.args
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "size"
    ):
        node = value.func.value
    elif isinstance(value, ast.Attribute) and value.attr == "shape":
        node = value.value
    else:
        return None
    found = read_locals(crash.error).get(node.id) if isinstance(node, ast.Name) else None
    return (ast.unparse(node), found) if isinstance(found, Tensor) else None


def _other_rank(crash: Crash, written: str, x: Tensor, *, wanted: int, source: str) -> Suspect:
    shape = tuple(x.shape)
    given = next((t for t in crash.root_inputs if t.shape == shape), None)
    edits: list[Edit] = []
    if given is not None and len(shape) == wanted - 1:
        edits.append(
            change_tensor(
                crash,
                given,
                lambda t: t[None],
                "{x}.unsqueeze(0)",
                title="add the batch dimension: x.unsqueeze(0)",
            )
        )
    missing = bool(edits)
    if len(shape) > wanted:
        edits += _more_names(crash, source, len(shape) - wanted)
    return Suspect(
        diagnosis="missing-batch" if missing else "shape-mismatch",
        module=crash.owner,
        message=f"{wanted} names take the sizes of {written}, which has {len(shape)} axes: {shape}",
        arithmetic=f"{len(shape)} against {wanted}",
        candidates=tuple(propose(edit, weight=STRONG) for edit in edits),
        weight=STRONG,
    )


def _more_names(crash: Crash, source: str, count: int) -> Iterator[Edit]:
    """The same forward with a name for each of the axes that have none."""
    function, line = get_forward(crash.modules[crash.owner]), int(source.rpartition(":")[2])

    def changed(tree: ast.FunctionDef) -> None:
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Assign)
                and node.lineno == line
                and isinstance(node.targets[0], ast.Tuple)
            ):
                node.targets[0].elts += [ast.Name("_", ctx=ast.Store()) for _ in range(count)]

    again, more = recompile(function, changed), ", ".join("_" * count)
    target, _, value = read_line(source).partition("=")
    if again is not None:
        title = f"write {target.strip()}, {more} = {value.strip()}"
        yield _bound(title, crash.owner, again, extend_targets(function.__code__, line, more))


def _names_assigned(source: str) -> int:
    """How many names a line's assignment has on its left; 0 where it is none, or takes a rest."""
    try:
        tree = ast.parse(read_line(source))
    except SyntaxError:
        return 0
    node = tree.body[0] if tree.body else None
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    if not isinstance(target, ast.Tuple | ast.List) or any(
        isinstance(e, ast.Starred) for e in target.elts
    ):
        return 0
    return len(target.elts)


def _chunked(crash: Crash, call: ModuleCall, wanted: int) -> Rewrite:
    def rewritten(func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(
            args[0],
            wanted,
            *args[2:],
            **{name: value for name, value in kwargs.items() if name != "chunks"},
        )

    where: dict[str, Any] = {"module": crash.owner, "kind": call.kind, "source": call.source}
    title = f"split it into {wanted} at {shorten(call.source)}: chunk({wanted}, ...)"
    return Rewrite(
        title=title,
        code=f"chunk({wanted}, ...)",
        function=rewritten,
        keyword=("chunks", wanted, 1),
        **where,
    )


# -- torch.cat(a, b) ---------------------------------------------------------------------------------------------------------


def _unlisted(crash: Crash) -> Iterator[Suspect]:
    values = read_locals(crash.error)
    for call in list_calls(crash.error):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        tensors = [a for a in call.args if _may_be_tensor(a, values)]
        if name not in _OF_SEQUENCES or len(tensors) < 2 or tensors[0] is not call.args[0]:
            continue
        listed = copy.deepcopy(call)
        others = [a for a in call.args if a not in tensors]
        listed.args = [ast.List(elts=tensors, ctx=ast.Load()), *others]
        yield reworded(
            crash,
            call,
            ast.unparse(listed),
            diagnosis="not-a-tensor",
            message=f"{ast.unparse(call.func)} wants one list of tensors, and was given {len(tensors)} tensors one by one",
            arithmetic=ast.unparse(call),
        )


def _may_be_tensor(node: ast.expr, values: dict[str, Any]) -> bool:
    """Whether an argument is a tensor, by what its name stands for, or may be one that a call or an operator gives."""
    if isinstance(node, ast.Name):
        return isinstance(values.get(node.id), Tensor)
    return isinstance(node, ast.Call | ast.BinOp | ast.Subscript)


# -- nn.ReLU(x) ----------------------------------------------------------------------------------------------------------------


def _class_called(crash: Crash) -> Iterator[Suspect]:
    """A layer that was made from a tensor, where a layer was to be applied to it: `x = nn.ReLU(x)`."""
    owner = crash.modules.get(crash.owner)
    if owner is None or class_of(owner).__module__.startswith("torch."):
        return
    tree, known = parse(get_forward(owner)), get_forward(owner).__globals__
    calls = (
        [node for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree is not None else []
    )
    applied = {id(call.func) for call in calls}
    failing = {ast.unparse(call) for call in list_calls(crash.error)}
    values = read_locals(crash.error)
    taken = [
        type(values[name]) for name in list_data(crash.error) if name in values
    ]  # a layer where a tensor was meant
    for call in calls:
        kind = _layer_class(call.func, known)
        if (
            tree is None
            or kind is None
            or id(call) in applied
            or len(call.args) != 1
            or not _reads_data(call.args[0], tree)
        ):
            continue
        if kind not in taken and ast.unparse(call) not in failing:
            continue
        if any(
            p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
            for p in inspect.signature(kind).parameters.values()
        ):
            continue
        options = ", ".join(ast.unparse(k) for k in call.keywords)
        name = ast.unparse(call.func)
        yield reworded(
            crash,
            call,
            f"{name}({options})({ast.unparse(call.args[0])})",
            diagnosis="not-a-tensor",
            message=f"{ast.unparse(call)} makes a layer and does not apply it: what it gives is a {kind.__name__}, not a tensor",
            arithmetic=f"the first parentheses of {name} are for its settings, the second for the tensor",
        )
        return


def _layer_class(function: ast.expr, known: dict[str, Any]) -> type[nn.Module] | None:
    """The class of torch's layers that an expression names: nn.ReLU, torch.nn.ReLU, ReLU."""
    path: list[str] = []
    while isinstance(function, ast.Attribute):
        path.insert(0, function.attr)
        function = function.value
    found: Any = known.get(function.id) if isinstance(function, ast.Name) else None
    for name in path:
        if found is not None and not isinstance(found, types.ModuleType):
            return None
        found = getattr(found, name, None)
    is_layer = (
        isinstance(found, type)
        and issubclass(found, nn.Module)
        and found.__module__.startswith("torch.nn.modules")
    )
    return found if is_layer else None


def _reads_data(node: ast.expr, tree: ast.FunctionDef) -> bool:
    """Whether an expression is made from what the forward computes, rather than a plain setting."""
    assigned = {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    }
    arguments = {a.arg for a in tree.args.args[1:]}
    reads = any(isinstance(n, ast.Name) and n.id in assigned | arguments for n in ast.walk(node))
    return reads and not isinstance(node, ast.Starred) and not _is_size(node)


def _is_size(node: ast.expr) -> bool:
    """Whether an expression reads a size of a tensor: nn.LayerNorm(x.shape[1:])."""
    return any(
        isinstance(n, ast.Attribute) and n.attr in ("shape", "size", "dim", "ndim", "numel")
        for n in ast.walk(node)
    )


def reworded(
    crash: Crash, call: ast.Call, text: str, *, diagnosis: str, message: str, arithmetic: str
) -> Suspect:
    """A suspicion whose propose is the same forward with an expression written otherwise."""
    function = get_forward(crash.modules[crash.owner])
    old = ast.unparse(call)
    new = ast.parse(text, mode="eval").body

    def changed(tree: ast.FunctionDef) -> None:
        _Exchanged(old, call.lineno, new).visit(tree)

    again = recompile(function, changed)
    title = f"write {text} instead of {old}"
    edits = (
        []
        if again is None
        else [
            _bound(
                title, crash.owner, again, replace_call(function.__code__, call.lineno, old, text)
            )
        ]
    )
    return Suspect(
        diagnosis=diagnosis,
        module=crash.owner,
        message=message,
        arithmetic=arithmetic,
        candidates=tuple(propose(edit, weight=STRONG) for edit in edits),
        weight=STRONG,
    )


class _Exchanged(ast.NodeTransformer):
    """One expression in the place of another, which is told by its text and line."""

    def __init__(self, old: str, line: int, new: ast.expr) -> None:
        self.old, self.line, self.new = old, line, new

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Exchange it, or look into it."""
        if node.lineno == self.line and ast.unparse(node) == self.old:
            return ast.copy_location(self.new, node)
        return self.generic_visit(node)
