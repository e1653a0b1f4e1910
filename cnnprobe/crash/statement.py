"""A statement of the user's outside of the model, as the forward of a model that holds only it.

So the causes of the forward explain it: a view, a concatenation or a layer in the loop. Nothing is
run again but torch's own functions, or the module that raised, on the values that were there.
"""

import ast
import inspect
import traceback
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from cnnprobe.crash.crash import Crash, LoopLine
from cnnprobe.crash.facts.frames import find_frames, find_maker, read_names
from cnnprobe.crash.facts.grad_mode import is_off
from cnnprobe.crash.facts.losses import list_losses
from cnnprobe.crash.facts.trees import parse_file
from cnnprobe.crash.facts.values import FailingLine, read_attribute, read_failing_line
from cnnprobe.crash.facts.words import shorten
from cnnprobe.crash.following import follow
from cnnprobe.operations import find_function
from cnnprobe.recorder import observe, sources
from cnnprobe.records.explanation import Explanation

_BUILTINS = frozenset({"len", "int", "float", "min", "max", "range", "sum", "tuple", "list", "abs"})
_VALUE = "_value"  # a name that stands for a value
_MOST_ELEMENTS = 10_000_000  # of a stand-in that is made real
_CALL = inspect.unwrap(nn.Module._call_impl).__code__


class StatementRunner(nn.Module):
    """Runs one statement of the user's on the values that its names had, or calls a module."""

    def __init__(self, code: types.CodeType, names: dict[str, Any], order: list[str]) -> None:
        super().__init__()
        self.code = code
        self.names = _Names(names)
        self.order = order  # the names of the arguments
        self.written: dict[str, str] = {}  # how the arguments that have no name are written
        self.called = ""  # path of the module that is called

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module that is called gives."""
        return self.run(args, kwargs)

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What the statement gives; nothing where it is no expression."""
        scope = {**self.names, **dict(zip(self.order, args, strict=False))}
        if self.called:
            scope = {"called": self.get_submodule(self.called), "args": args, "kwargs": kwargs}
        return eval(self.code, scope)  # noqa: S307 - the user's own line


class _Names(dict[str, Any]):
    """The values of names; a copy of the model shares them."""

    def __deepcopy__(self, _memo: dict[int, Any]) -> "_Names":
        return self


def to_forward(crash: Crash) -> Crash | None:
    """The crash of a statement as that of a forward; None: it cannot be run again."""
    if any(not loss.is_own for loss in list_losses(crash)):
        return None
    call = _find_module_call(crash)
    held = _hold_module(crash, *call) if call is not None else None
    model, args, kwargs = held or (*_hold_line(crash), {})
    if model is None:
        return None
    with torch.set_grad_enabled(torch.is_grad_enabled() and not is_off(crash.error)):
        seen = observe(model, args, kwargs)
    if type(seen.error) is not type(crash.error) or seen.trace.failure is None:
        return None
    return Crash(
        error=seen.error,
        model=model,
        trace=seen.trace,
        args=args,
        kwargs=kwargs,
        is_lenient=crash.is_lenient,
        line=_read_line(crash, model) if held is None else None,
    )


def _read_line(crash: Crash, model: StatementRunner) -> LoopLine:
    """What is known around the line."""
    line, path = read_failing_line(crash), find_frames(crash.error)[-1].filename
    root = _find_statement(line.nodes[0], path)
    return LoopLine(
        names=tuple(_describe_value(crash, model.written.get(n, n)) for n in model.order),
        samples=crash.batch,
        follows=follow(path, root, line.names),
    )


def _describe_value(crash: Crash, name: str) -> str:
    value = read_names(crash.error).get(name)
    owners = [fqn for fqn, p in _list_parameters(crash) if p is value]
    if owners:
        return f"'{name}', which is the parameter '{owners[0]}'"
    if (made := find_maker(crash.error, name)) is None:
        return f"'{name}'"
    called, line = made
    return f"'{name}' ({called} at {shorten(f'{find_frames(crash.error)[-1].filename}:{line}')})"


def _list_parameters(crash: Crash) -> Iterator[tuple[str, Any]]:
    for fqn, module in crash.modules.items():
        for name, parameter in module._parameters.items():
            yield (f"{fqn}.{name}" if fqn else name), parameter


# -- a module that the loop calls ------------------------------------------------------------------


def _find_module_call(crash: Crash) -> tuple[types.FrameType, types.FrameType, int] | None:
    """The outermost call of a module that raised, and the user's frame and line of it."""
    caller, line = None, 0
    for frame, number in traceback.walk_tb(crash.error.__traceback__):
        if frame.f_code is _CALL and caller is not None:
            return frame, caller, line
        if sources.is_users(frame.f_code.co_filename):
            caller, line = frame, number
    return None


def _hold_module(
    crash: Crash, frame: types.FrameType, caller: types.FrameType, line: int
) -> tuple[StatementRunner, tuple[Any, ...], dict[str, Any]] | None:
    """A model that calls the module as the loop did; it has the name that the user's model has."""
    module, args = frame.f_locals.get("self"), frame.f_locals.get("args", ())
    if not isinstance(module, nn.Module) or module is crash.model:
        return None
    names = [fqn for fqn, one in crash.modules.items() if one is module]
    names += [key for key, value in caller.f_locals.items() if value is module]
    names += [key for key, value in caller.f_globals.items() if value is module]
    tree = ast.increment_lineno(ast.parse("called(*args, **kwargs)", mode="eval"), line - 1)
    model = StatementRunner(compile(tree, caller.f_code.co_filename, "eval"), {}, [])
    model.called = (names or [type(module).__name__])[0]
    holder: nn.Module = model
    *above, last = model.called.split(".")
    for part in above:
        holder._modules[part] = nn.Module()
        holder = holder.get_submodule(part)
    holder._modules[last] = module
    return model, args, frame.f_locals.get("kwargs", {})


# -- a line of the loop ----------------------------------------------------------------------------


def _hold_line(crash: Crash) -> tuple[StatementRunner | None, tuple[Any, ...]]:
    """A model that runs the failing part of the line."""
    line, frames = read_failing_line(crash), find_frames(crash.error)
    root = _find_statement(line.nodes[0], frames[-1].filename) if line.nodes else None
    is_write = isinstance(root, ast.AugAssign) or (
        isinstance(root, ast.Assign) and isinstance(root.targets[0], ast.Subscript)
    )
    is_expression = isinstance(root, ast.Call | ast.BinOp | ast.Subscript | ast.Compare)
    if root is None or not (is_write or is_expression) or "site-packages" in frames[-1].filename:
        return None, ()
    reader = _Reader(line)
    copy: Any = reader.copy(root)
    if not reader.is_safe or not reader.values:
        return None, ()
    tree = ast.Expression(copy) if is_expression else ast.Module([copy], type_ignores=[])
    ast.fix_missing_locations(tree)
    code = compile(tree, frames[-1].filename, "eval" if is_expression else "exec")
    order = list(reader.values)
    names = {key: value for key, value in line.names.items() if key not in order}
    model = _name_arguments(order)(code, names, order)
    model.written = reader.written
    return model, tuple(reader.values.values())


def _find_statement(node: ast.AST, path: str) -> ast.AST:
    """The assignment, where the node is what it assigns to; else the node."""
    if isinstance(getattr(node, "ctx", None), ast.Store):
        for other in ast.walk(parse_file(path) or node):
            if isinstance(other, ast.Assign | ast.AugAssign) and node in ast.walk(other):
                return other
    return node


def _name_arguments(order: list[str]) -> type[StatementRunner]:
    """A class whose forward has the names of the user's values as parameters."""

    def forward(self: StatementRunner, *args: Any) -> Any:
        return self.run(args, {})

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", *order)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return type("Statement", (StatementRunner,), {"forward": forward})


class _Reader:
    """Copies the failing node, with values in the place of what is not to be run again."""

    def __init__(self, line: FailingLine) -> None:
        self.line = line
        self.values: dict[str, Any] = {}  # what holds tensors, by name
        self.written: dict[str, str] = {}
        self.is_safe = True

    def copy(self, node: ast.AST) -> ast.AST:
        """The node with all that is below it read."""
        if isinstance(node, ast.Name) and _holds_tensors(self.line.names.get(node.id)):
            self.values[node.id] = self.line.names[node.id]
        if isinstance(node, ast.Call):
            self.is_safe = self.is_safe and self._is_pure(node.func)
        self.is_safe = self.is_safe and not isinstance(node, ast.Await | ast.Yield | ast.NamedExpr)
        fields = {name: self._read_field(value) for name, value in ast.iter_fields(node)}
        return ast.copy_location(type(node)(**fields), node)

    def _read_field(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._read(one) if isinstance(one, ast.AST) else one for one in value]
        return self._read(value) if isinstance(value, ast.AST) else value

    def _read(self, node: ast.AST) -> ast.AST:
        value = None
        if isinstance(getattr(node, "ctx", None), ast.Store):
            self.is_safe = self.is_safe and not isinstance(node, ast.Attribute)
        elif isinstance(node, ast.Call | ast.BinOp | ast.Subscript):
            value = self.line.evaluate(node)
        elif isinstance(node, ast.Attribute):
            value = read_attribute(node, self.line.names)
            owner = self.line.evaluate(node.value)
            if isinstance(owner, Tensor) and node.attr == "grad":
                value = owner.grad
        if not _holds_tensors(value):
            return self.copy(node)
        name = f"{_VALUE}{len(self.values)}"
        self.values[name] = tree_map(_make_real, value)
        self.written[name] = ast.unparse(node)
        return ast.copy_location(ast.Name(id=name, ctx=ast.Load()), node)

    def _is_pure(self, function: ast.expr) -> bool:
        """Whether a function is torch's, or one of Python's that only computes."""
        if isinstance(function, ast.Name):
            value = self.line.names.get(function.id)
            is_torchs = str(getattr(value, "__module__", "")).startswith("torch")
            return is_torchs or (value is None and function.id in _BUILTINS)
        if not isinstance(function, ast.Attribute) or find_function(function.attr) is None:
            return False
        owner = read_attribute(function.value, self.line.names)
        if isinstance(owner, types.ModuleType):
            return owner.__name__.startswith("torch")
        value = self.line.evaluate(function.value)
        return value is None or isinstance(value, Tensor)


def _holds_tensors(value: Any) -> bool:
    is_plain = isinstance(value, Tensor | list | tuple | dict)
    return is_plain and any(isinstance(t, Tensor) for t in tree_leaves(value))


def _make_real(value: Any) -> Any:
    """A stand-in as a tensor of zeros, where it is no larger than can be afforded."""
    if not isinstance(value, Tensor) or not value.is_meta or value.numel() > _MOST_ELEMENTS:
        return value
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype).zero_()
    return made.requires_grad_(value.requires_grad)


# -- words -----------------------------------------------------------------------------------------


def to_explanation(crash: Crash, explanation: Explanation) -> Explanation:
    """What was said of the statement's forward, as said of the loop."""
    is_known = explanation.module in crash.modules and explanation.module != ""
    place = shorten(crash.source)
    repairs = [
        replace(
            one,
            title=_reword(one.title.replace("to the model", f"at {place}")),
            tried=_reword_trial(one.tried),
        )
        for one in explanation.repairs
    ]
    return replace(
        explanation,
        stage=crash.stage,
        module=explanation.module if is_known else None,
        kind=explanation.kind if is_known else "",
        source=crash.source,
        message=_reword(explanation.message),
        arithmetic=_reword(explanation.arithmetic),
        evidence=tuple(map(_reword, explanation.evidence)),
        repairs=tuple(repairs),
        error=f"{type(crash.error).__name__}: {crash.error}".removesuffix(": "),
    )


def _reword_trial(text: str) -> str:
    text = text.replace("; 0 parameters unchanged", "").replace(" and gives no tensor", "")
    return text.replace("the forward passes", "the line runs")


def _reword(text: str) -> str:
    return text.replace("the model (Statement)", "the line").replace("the model", "the line")
