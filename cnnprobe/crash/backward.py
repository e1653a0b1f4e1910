"""A backward or an optimizer that raised: the op that overwrote a saved tensor, a graph that is gone, a loss that is cut off or no scalar."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.case import Case, line_of, operation, quoted, short
from cnnprobe.crash.edits import Edit, Reconfigure, Rewrite
from cnnprobe.crash.patch import diff
from cnnprobe.crash.shadow import make_shadow
from cnnprobe.crash.training import Training, Verdict, differentiated
from cnnprobe.crash.users_code import frame_locals
from cnnprobe.explanation import Repair
from cnnprobe.recorder.functions import is_writing
from cnnprobe.recorder.inventory import class_of, named_modules
from cnnprobe.trace import ModuleCall

MOST_NODES = 40_000  # of a graph that are looked at: a longer walk from Python is a danger to torch itself
_CUTTING = frozenset({"detach", "detach_", "data", "argmax", "argmin", "round", "sign", "long", "int", "bool", "floor", "ceil", "__get__"})

_VIEWS = frozenset({"__getitem__", "view", "narrow", "select", "unsqueeze", "t", "transpose", "squeeze", "chunk", "split"})


def explain_backward(training: Training) -> Verdict:
    """Why the backward raised."""
    loss = differentiated(training)
    if loss is None:
        return Verdict(diagnosis="unknown", message="the cause is not known: the tensor that was differentiated could not be found")
    if not loss.requires_grad:
        return _detached(training, loss)
    if loss.numel() != 1 and not _has_gradient(training):
        return _non_scalar(training, loss)
    modified, freed = _saved(loss)
    if modified:
        return _overwritten(training, modified[0])
    if freed:
        return _freed(training, freed)
    parameters = [p for m in training.modules().values() for p in m._parameters.values() if p is not None]
    if parameters and loss.dtype != parameters[0].dtype:
        return Verdict(
            diagnosis="target-dtype",
            message=f"the loss is {loss.dtype}, the parameters are {parameters[0].dtype}: targets of another dtype have drawn it there",
            arithmetic=f"loss {loss.dtype}, parameters {parameters[0].dtype}",
            repairs=(Repair(title=f"pass targets.to({parameters[0].dtype})", code=f".to({parameters[0].dtype})"),),
            tensors=(loss,),
        )
    return Verdict(
        diagnosis="unknown", message="the cause is not known; its graph has neither freed nor overwritten tensors", tensors=(loss,)
    )


def _has_gradient(training: Training) -> bool:
    found = frame_locals(training.error, "torch/_tensor.py", "backward")
    return bool(found) and found is not None and found.get("gradient") is not None


def _non_scalar(training: Training, loss: Tensor) -> Verdict:
    shape = tuple(loss.shape)
    return Verdict(
        diagnosis="non-scalar-loss",
        message=f"the loss has the shape {shape}, and backward() starts from one number",
        arithmetic=f"{loss.numel()} elements",
        repairs=tuple(_reduced(training, loss)),
        tensors=(loss,),
        evidence=("a loss made with reduction='none' is to be reduced by yourself",) if loss.dim() else (),
    )


def _reduced(training: Training, loss: Tensor) -> Iterator[Repair]:
    parameters = [p for m in training.modules().values() for p in m._parameters.values() if p is not None and p.requires_grad]
    for name in ("mean", "sum"):
        tried = ""
        with contextlib.suppress(RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.autograd.grad(getattr(loss, name)(), parameters, retain_graph=True, allow_unused=True) if parameters else ()
            reached = sum(g is not None for g in found)
            tried = f"tried: the backward passes, and gradients reach {reached} of {len(parameters)} parameters" if parameters else ""
        yield Repair(title=f"call loss.{name}().backward()", code=f"loss.{name}()", works=bool(tried), plausible=bool(tried), tried=tried)


# -- a loss that is cut off --------------------------------------------------------------------------------------------------


def _detached(training: Training, loss: Tensor) -> Verdict:
    module, message, fix = _cut(training, loss)
    return Verdict(
        diagnosis="detached-graph",
        module=module,
        message=message,
        arithmetic=f"loss.requires_grad is {loss.requires_grad}, loss.grad_fn is {type(loss.grad_fn).__name__ if loss.grad_fn else None}",
        repairs=(Repair(title=fix, module=module),),
        tensors=(loss,),
    )


def _cut(training: Training, loss: Tensor) -> tuple[str | None, str, str]:
    parameters = [p for m in training.modules().values() for p in m._parameters.values() if p is not None]
    if parameters and not any(p.requires_grad for p in parameters):
        return "", "no parameter of the model requires a gradient: all are frozen", "set requires_grad_(True) on what is to be trained"
    if not loss.is_floating_point() and not loss.is_complex():
        return (
            None,
            f"the loss is {loss.dtype}: no gradient passes through whole numbers",
            "compute the loss from the logits, not from argmax",
        )
    case = training.case()
    calls = case.trace.calls if case is not None else ()
    if case is None or not calls:
        return None, "nothing that the loss was made from requires a gradient", "do not use .detach(), .item() or torch.no_grad() before it"
    if any(t.requires_grad for t in calls[0].outputs):
        where = "the model's output requires a gradient, the loss does not: it was cut off after the model"
        return None, where, "do not wrap the loss in torch.tensor(...), nor use .item(), .detach(), argmax or numpy on the way to it"
    made = [call for call in calls if any(t.requires_grad for t in call.outputs)]
    if not made and not any(call.fqn is None and operation(call) in _CUTTING for call in calls):
        return (
            None,
            "the forward ran without recording a graph, although parameters require gradients",
            "take torch.no_grad() off the forward",
        )
    return _cut_inside(case, calls)


def _cut_inside(case: Case, calls: tuple[ModuleCall, ...]) -> tuple[str | None, str, str]:
    for call in reversed(calls):
        if call.outputs and not any(t.requires_grad for t in call.outputs) and any(t.requires_grad for t in call.inputs):
            owner = call.fqn if call.fqn is not None else case.module_above(call.parent)
            return (
                owner,
                f"{case.name_of(call)} cuts the graph: its input requires a gradient, its output does not",
                (f"take {operation(call) or quoted(call.fqn or '')} out"),
            )
    for call in reversed(calls):
        strangers = [t for t in call.inputs if t.source is None and not case.is_input(t) and not t.requires_grad]
        if strangers and call.parent is not None:
            owner = case.module_above(call.parent)
            what = f"{case.name_of(call)} was given a tensor that no recorded call made: the graph ends there (numpy, torch.tensor, .data)"
            return owner, what, "stay with torch's own functions on the way"
    return "", "the graph ends inside the model", "look for torch.no_grad(), .detach() or .data in its forward"


# -- saved tensors -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Saved:
    """A tensor that a node of the graph has kept for its backward."""

    node: Any
    name: str


def _saved(loss: Tensor) -> tuple[list[Saved], list[Saved]]:
    """The saved tensors that were overwritten, and those that are gone, in the order of the backward.

    Reading one raises in both cases; only one that is still there lets hooks be registered.
    """
    modified: list[Saved] = []
    freed: list[Saved] = []
    seen: set[Any] = set()
    level = [loss.grad_fn]
    while level and len(seen) < MOST_NODES:
        below = []
        for node in level:
            if node is None or node in seen:
                continue
            seen.add(node)
            for name in dir(node):
                if name.startswith("_saved_"):
                    state = _state(node, name)
                    if state is not None:
                        (modified if state == "modified" else freed).append(Saved(node, name))
            below += [child for child, _ in node.next_functions]
        level = below
    return modified, freed


def _state(node: Any, name: str) -> str | None:
    try:
        getattr(node, name)
    except RuntimeError:
        raw = getattr(node, "_raw" + name, None)
        if raw is None or isinstance(raw, list | tuple):
            return None
        try:
            raw.register_hooks(lambda t: t, lambda t: t)
        except RuntimeError:
            return "freed"
        return "modified"
    except Exception:  # a node that does not show what it keeps
        return None
    return None


def _number(node: Any) -> int | None:
    with contextlib.suppress(AttributeError, RuntimeError):
        return int(node._sequence_nr())
    return None


def _maker(case: Case | None, node: Any) -> tuple[int, ModuleCall] | None:
    """The innermost recorded call that made a node of the graph."""
    number = _number(node)
    if case is None or number is None:
        return None
    found = [(i, c) for i, c in enumerate(case.trace.calls) if c.sequence is not None and c.sequence[0] <= number < c.sequence[1]]
    return max(found, key=lambda pair: pair[1].depth, default=None)


def _overwritten(training: Training, saved: Saved) -> Verdict:
    case = training.case()
    maker = _maker(case, saved.node)
    parameter = _changed_parameter(training, saved)
    what = saved.node.name().rstrip("0123456789").removesuffix("Backward") or saved.node.name()
    keeper = case.name_of(maker[1]) if case is not None and maker is not None else what
    if parameter is not None:
        owner = parameter.rpartition(".")[0]
        return Verdict(
            diagnosis="inplace-autograd",
            module=owner,
            message=f"the parameter '{parameter}' was changed in place between the forward and the backward that needs it",
            arithmetic=f"{keeper} saved it for its backward ({saved.node.name()})",
            repairs=(
                Repair(title="call optimizer.step() after the last backward(), or run the forward again after the step", module=owner),
            ),
        )
    writer = _writer(case, maker) if case is not None else None
    if case is None or writer is None:
        return Verdict(
            diagnosis="inplace-autograd",
            module=case.module_above(maker[0]) if case is not None and maker is not None else None,
            message=f"a tensor that {keeper} saved for its backward was overwritten in place afterwards",
            arithmetic=f"{saved.node.name()}{saved.name} has another version than when it was saved",
            repairs=(Repair(title="use the out-of-place form of the operation that writes to it, or clone() it first"),),
        )
    at, call = writer
    owner = call.fqn if call.fqn is not None else case.module_above(call.parent)
    return Verdict(
        diagnosis="inplace-autograd",
        module=owner,
        message=f"{case.name_of(call)} overwrites in place a tensor that {keeper} saved for its backward",
        arithmetic=f"saved by {saved.node.name()}, overwritten by call {at} ({call.kind})",
        repairs=tuple(_out_of_place(training, case, call)),
        raised_in=f"the backward of {keeper}",
    )


def _changed_parameter(training: Training, saved: Saved) -> str | None:
    """The parameter that a node keeps, where it is the parameter itself that was written to."""
    if not saved.name.endswith(("weight", "mat2", "mat1", "other", "self")):
        return None
    names = {
        id(p): f"{fqn}.{name}" if fqn else name
        for fqn, m in training.modules().items()
        for name, p in m._parameters.items()
        if p is not None
    }
    for child, _ in saved.node.next_functions:
        for node in (child, *(below for below, _ in getattr(child, "next_functions", ()))):
            variable = getattr(node, "variable", None)
            if variable is not None and id(variable) in names and variable._version > 0 and _is_kept(saved, variable):
                return names[id(variable)]
    return None


def _is_kept(saved: Saved, variable: Tensor) -> bool:
    """Whether the saved tensor can be the parameter, by the sizes that the node remembers."""
    others = [n for n in dir(saved.node) if n.startswith("_saved_") and n != saved.name]
    for name in others:
        with contextlib.suppress(RuntimeError):
            value = getattr(saved.node, name)
            if isinstance(value, Tensor) and value.data_ptr() == variable.data_ptr():
                return False
    return saved.name.endswith(("weight", "mat2")) or variable._version > 1


def _writer(case: Case, maker: tuple[int, ModuleCall] | None) -> tuple[int, ModuleCall] | None:
    """The first call after the saving one that writes to what it saved: its output, or one of its inputs."""
    start = maker[0] if maker is not None else -1
    kept: set[Any] = set()
    if maker is not None:
        kept = {start, *(t.source for t in maker[1].inputs)} | {t.source for t in maker[1].outputs}
    writers = [(i, c) for i, c in enumerate(case.trace.calls) if i > start and _writes(case, c)]
    views = set(kept)
    for i, call in enumerate(case.trace.calls):  # a slice of what was saved is written to as well
        if i > start and operation(call) in _VIEWS and any(t.source in views for t in call.inputs):
            views.add(i)
    exact = [pair for pair in writers if pair[1].inputs and pair[1].inputs[0].source in views and pair[1].inputs[0].source is not None]
    inputs = [pair for pair in writers if pair[1].inputs and pair[1].inputs[0].source is None and None in kept]
    return next(iter(exact or inputs or writers), None)


def _writes(case: Case, call: ModuleCall) -> bool:
    if call.fqn is None:
        return is_writing(operation(call), dict(call.arguments)) or call.arguments.get("inplace") is True
    return bool(getattr(case.modules.get(call.fqn), "inplace", False))


def _out_of_place(training: Training, case: Case, call: ModuleCall) -> Iterator[Repair]:
    for edit in _edits(case, call):
        tried = _backward_passes(training, case, edit)
        if tried is not False:
            said = "tried: forward and backward pass on a copy of the model" if tried else ""
            worked, patch = bool(tried), diff(case, [edit])
            yield Repair(title=edit.title, code=edit.code, module=edit.module, works=worked, plausible=worked, tried=said, patch=patch)
    if operation(call) in ("__setitem__", "copy_", "zero_", "fill_"):
        yield Repair(title=f"clone the tensor before writing to it at {short(call.source)}: x = x.clone()", code="x = x.clone()")


def _edits(case: Case, call: ModuleCall) -> Iterator[Edit]:
    if call.fqn is not None:
        yield Reconfigure(
            title=f"set inplace=False in {quoted(call.fqn)}", code="inplace=False", module=call.fqn, changes={"inplace": False}
        )
        return
    name = operation(call)
    owner = case.module_above(call.parent)
    symbol = {"add_": "+", "sub_": "-", "mul_": "*", "div_": "/"}.get(
        name.replace("__itruediv__", "div_").replace("__i", "").replace("__", "_")
    )
    if symbol is not None and f"{symbol}=" in line_of(call.source):
        plain = {"+": "__add__", "-": "__sub__", "*": "__mul__", "/": "__truediv__"}[symbol]
        yield Rewrite(
            title=f"write x = x {symbol} y instead of x {symbol}= y at {short(call.source)}",
            code=f"x = x {symbol} y",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda _func, args, kwargs: getattr(args[0], plain)(*args[1:], **kwargs),
            respell="{x} = {x} + {rest}",
        )
    elif name.endswith("_") and not name.endswith("__"):
        yield Rewrite(
            title=f"use {name.rstrip('_')} instead of {name} at {short(call.source)}: x = x.{name.rstrip('_')}(...)",
            code=f"x = x.{name.rstrip('_')}(...)",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda _func, args, kwargs: getattr(args[0].clone(), name)(*args[1:], **kwargs),
        )
    elif call.arguments.get("inplace") is True:
        yield Rewrite(
            title=f"use inplace=False at {short(call.source)}",
            code="inplace=False",
            module=owner,
            kind=call.kind,
            source=call.source,
            function=lambda func, args, kwargs: func(args[0].clone(), *args[1:], **kwargs),
        )


def _backward_passes(training: Training, case: Case, edit: Edit) -> bool | None:
    """Whether forward and backward pass on a copy with this edit; None where that could not be tried."""
    if not training.args and not training.kwargs:
        return None
    shadow = make_shadow(case.model, training.args, training.kwargs, meta=False, grad=True)
    if shadow is None:
        return None
    try:
        shadow.apply([edit])
        return shadow.backward()
    except Exception:  # the edit does not fit
        return None


# -- a graph that is gone ----------------------------------------------------------------------------------------------------


def _freed(training: Training, freed: list[Saved]) -> Verdict:
    keepers = list(_keepers(training))
    if keepers:
        fqn, name = keepers[0]
        return Verdict(
            diagnosis="backward-twice",
            module=fqn,
            message=f"the attribute '{name}' of {quoted(fqn)} keeps the graph of an earlier step, whose tensors are freed",
            arithmetic=f"{len(freed)} saved tensors are gone; the first is that of {freed[0].node.name()}",
            repairs=(Repair(title=f"detach it when it is kept: self.{name} = self.{name}.detach()", code=".detach()", module=fqn),),
        )
    start = training.trace.calls[0].sequence if training.trace is not None and training.trace.calls else None
    earlier = start is not None and any((_number(one.node) or start[0]) < start[0] for one in freed)
    why = (
        "a part of its graph belongs to an earlier forward, and was freed by an earlier backward"
        if earlier
        else "its graph was freed by an earlier backward over the same forward"
    )
    return Verdict(
        diagnosis="backward-twice",
        message=f"backward() ran a second time: {why}",
        arithmetic=f"{len(freed)} saved tensors are gone; the first is that of {freed[0].node.name()}",
        repairs=(
            Repair(
                title="detach() what is carried over from the earlier step" if earlier else "run the forward again before each backward()"
            ),
            Repair(title="add the losses and call backward() once, or pass retain_graph=True to the first call", code="retain_graph=True"),
        ),
    )


def _keepers(training: Training) -> Iterator[tuple[str, str]]:
    """The modules whose attributes hold tensors with a graph."""
    for fqn, module in training.modules().items():
        for name, value in [*module.__dict__.items(), *module._buffers.items()]:
            if name.startswith("__") or isinstance(value, nn.Module) or name in ("_parameters", "_modules", "_buffers"):
                continue
            if any(isinstance(t, Tensor) and t.grad_fn is not None for t in tree_leaves(value)):
                yield fqn, name


# -- the optimizer -----------------------------------------------------------------------------------------------------------


def explain_step(training: Training) -> Verdict:
    """Why the optimizer raised: as a rule it was given nothing."""
    found = frame_locals(training.error, "torch/optim/optimizer.py", "__init__")
    model = training.model
    given = list((found or {}).get("param_groups") or [])
    if found is None or (given and any(_parameters_in(group) for group in given)):
        return Verdict(diagnosis="unknown", message="the cause is not known; the optimizer raised")
    parameters = list(model.parameters()) if model is not None else []
    if model is not None and not parameters:
        return _nothing_registered(model)
    frozen = sum(not p.requires_grad for p in parameters)
    if parameters and frozen == len(parameters):
        why, fix = "every parameter is frozen, and the frozen ones were filtered out", "set requires_grad_(True) on what is to be trained"
    else:
        why = f"the model has {len(parameters)} parameters" if model is not None else "nothing was in it"
        fix = "pass model.parameters() itself: a generator that was read once (in a sum, say) is empty afterwards"
        why += ", so that the iterator was used up before"
    return Verdict(
        diagnosis="empty-parameters",
        module="" if model is not None else None,
        message=f"the optimizer got no parameters: {why}",
        arithmetic=f"{len(parameters)} parameters, {frozen} of them frozen" if model is not None else "",
        repairs=(Repair(title=fix, code="model.parameters()"),),
    )


def _parameters_in(group: Any) -> bool:
    return bool(group.get("params")) if isinstance(group, dict) else isinstance(group, Tensor)


def _nothing_registered(model: nn.Module) -> Verdict:
    hidden = [(fqn, name, value) for fqn, m, _ in named_modules(model) for name, value in m.__dict__.items()]
    hidden = [one for one in hidden if one[1] != "_modules" and _hides_modules(one[2])]
    if not hidden:
        return Verdict(
            diagnosis="empty-parameters",
            module="",
            message=f"the optimizer got no parameters: {class_of(model).__name__} has no layers with weights",
            repairs=(Repair(title="make its layers attributes in __init__: self.fc = nn.Linear(...)"),),
        )
    fqn, name, value = hidden[0]
    kind = "ModuleDict" if isinstance(value, dict) else "ModuleList"
    inner = [m for m in tree_leaves(value) if isinstance(m, nn.Module)]
    count = sum(p.numel() for m in inner for p in m.parameters())
    single = isinstance(value, tuple) and len(value) == 1
    title = f"drop the comma at the end of 'self.{name} = ...'" if single else f"make it an nn.{kind}: self.{name} = nn.{kind}(...)"
    return Verdict(
        diagnosis="empty-parameters",
        module=fqn,
        message=f"the optimizer got no parameters: the {len(inner)} layers in '{name}' are in a plain {type(value).__name__}, "
        "which does not register them",
        arithmetic=f"parameters() gives 0 elements; the layers in '{name}' have {count:,}",
        repairs=(
            Repair(
                title=title,
                code=f"nn.{kind}",
                module=fqn,
                works=count > 0,
                plausible=count > 0,
                tried=f"tried: {count:,} elements of parameters are registered then" if count and _registers(inner) else "",
                parameters=count,
            ),
        ),
    )


def _registers(inner: list[nn.Module]) -> bool:
    return any(True for _ in nn.ModuleList(inner).parameters())


def _hides_modules(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) and any(isinstance(m, nn.Module) for m in tree_leaves(value))
