"""A backward that raised: the op that overwrote a saved tensor, a graph that is gone, a loss that is cut off or no scalar."""

import contextlib
import re
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import find_cut, read_frame
from cnnprobe.crash.facts.saved import Saved, broke_off, find_saved, get_number, walk_nodes
from cnnprobe.crash.facts.words import operation, quote
from cnnprobe.crash.model_copy import copy_model
from cnnprobe.crash.overwriting import explain_overwritten
from cnnprobe.crash.own_backward import explain_own_backward
from cnnprobe.crash.training import Verdict, differentiated
from cnnprobe.explanation import Repair
from cnnprobe.trace import ModuleCall

_CUTTING = frozenset(
    {
        "detach",
        "detach_",
        "data",
        "argmax",
        "argmin",
        "round",
        "sign",
        "long",
        "int",
        "bool",
        "floor",
        "ceil",
        "__get__",
    }
)

_CHANGED = re.compile(
    r"hook '(.+?)' has changed the (size|type) of value"
)  # torch/csrc/autograd/python_hook.cpp
_UNFREEZE = "set requires_grad_(True) on what is to be trained"


def explain_backward(crash: Crash) -> Verdict:
    """Why the backward raised."""
    loss = differentiated(crash)
    if loss is None:
        return Verdict(
            diagnosis="unknown",
            message="the cause is not known: the tensor that was differentiated could not be found",
        )
    if not loss.requires_grad:
        return _detached(crash, loss)
    if loss.numel() != 1 and not _has_gradient(crash):
        return _non_scalar(crash, loss)
    own = explain_own_backward(crash, loss) or _hook_raised(crash)
    if own is not None:
        return own
    modified, freed, kept = find_saved(loss)
    if modified:
        return explain_overwritten(crash, modified[0])
    reshaping = _hook_reshapes(crash)
    if reshaping is not None:
        return reshaping
    if freed and not broke_off(freed, kept):
        return _freed(crash, freed)
    parameters = [
        p for m in crash.modules.values() for p in m._parameters.values() if p is not None
    ]
    if parameters and loss.dtype != parameters[0].dtype:
        return Verdict(
            diagnosis="target-dtype",
            message=f"the loss is {loss.dtype}, the parameters are {parameters[0].dtype}: targets of another dtype have drawn it there",
            arithmetic=f"loss {loss.dtype}, parameters {parameters[0].dtype}",
            repairs=(
                Repair(
                    title=f"pass targets.to({parameters[0].dtype})",
                    code=f".to({parameters[0].dtype})",
                ),
            ),
            tensors=(loss,),
        )
    return Verdict(
        diagnosis="unknown",
        message="the cause is not known; its graph has no tensors that were overwritten or freed by an earlier backward",
        tensors=(loss,),
    )


def _hook_raised(crash: Crash) -> Verdict | None:
    """A backward hook of a module's, or of a parameter's, that raised; None where none did."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(crash.error.__traceback__)]
    for fqn, module in crash.modules.items():
        for hook in (*module._backward_hooks.values(), *module._backward_pre_hooks.values()):
            if getattr(hook, "__code__", None) in codes:
                kind = type(crash.error).__name__
                return Verdict(
                    diagnosis="broken-hook",
                    module=fqn,
                    message=f"the backward hook {hook.__name__!r} on {quote(fqn)} raised {kind}: {crash.error}",
                    arithmetic="it is called as hook(module, grad_input, grad_output), and the gradients are tuples of tensors",
                    repairs=(
                        Repair(
                            title=f"correct {hook.__name__!r}: grad_output[0] is the gradient of what {quote(fqn)} gives"
                        ),
                    ),
                )
        for name, p in module._parameters.items():
            for hook in (getattr(p, "_backward_hooks", None) or {}).values():
                if p is not None and getattr(hook, "__code__", None) in codes:
                    return _hook_of_gradient(
                        fqn,
                        name,
                        p,
                        hook,
                        f"raised {type(crash.error).__name__}: {crash.error}",
                    )
    return None


def _hook_of_gradient(fqn: str, name: str, parameter: Tensor, hook: Any, what: str) -> Verdict:
    shape = tuple(parameter.shape)
    return Verdict(
        diagnosis="broken-hook",
        module=fqn,
        message=f"the gradient hook {getattr(hook, '__name__', 'of no name')!r} on the parameter {name!r} of {quote(fqn)} {what}",
        arithmetic=f"it is called with the gradient, {shape}, and gives one of that shape or None",
        repairs=(
            Repair(title=f"return a gradient of {shape} from the hook, or take it off", module=fqn),
        ),
    )


def _hook_reshapes(crash: Crash) -> Verdict | None:
    """A hook of a parameter that gives another kind of gradient than it was given; torch tells the name of the hook, and not of what."""
    said = _CHANGED.search(str(crash.error))
    if said is None:
        return None
    what = f"returns a gradient of another {said[2]}"
    found = [
        (fqn, name, p, hook)
        for fqn, module in crash.modules.items()
        for name, p in module._parameters.items()
        for hook in (getattr(p, "_backward_hooks", None) or {}).values()
        if p is not None and getattr(hook, "__name__", None) == said[1]
    ]
    if len(found) == 1:
        return _hook_of_gradient(*found[0], what)
    places = ", ".join(quote(f"{fqn}.{name}" if fqn else name) for fqn, name, _, _ in found)
    return Verdict(
        diagnosis="broken-hook",
        message=f"a gradient hook {said[1]!r} {what}"
        + (f"; hooks of that name are on {places}" if found else ""),
        repairs=(
            Repair(
                title="return a gradient of the shape and dtype that the hook was given, or None"
            ),
        ),
    )


def _has_gradient(crash: Crash) -> bool:
    found = read_frame(crash.error, "torch/_tensor.py", "backward")
    return bool(found) and found is not None and found.get("gradient") is not None


def _non_scalar(crash: Crash, loss: Tensor) -> Verdict:
    shape = tuple(loss.shape)
    return Verdict(
        diagnosis="non-scalar-loss",
        message=f"the loss has the shape {shape}, and backward() starts from one number",
        arithmetic=f"{loss.numel()} elements",
        repairs=tuple(_reduced(crash, loss)),
        tensors=(loss,),
        evidence=("a loss made with reduction='none' is to be reduced by yourself",)
        if loss.dim()
        else (),
    )


def _reduced(crash: Crash, loss: Tensor) -> Iterator[Repair]:
    parameters = [
        p
        for m in crash.modules.values()
        for p in m._parameters.values()
        if p is not None and p.requires_grad
    ]
    for name in ("mean", "sum"):
        tried = ""
        with contextlib.suppress(RuntimeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = (
                torch.autograd.grad(
                    getattr(loss, name)(), parameters, retain_graph=True, allow_unused=True
                )
                if parameters
                else ()
            )
            reached = sum(g is not None for g in found)
            tried = (
                f"tried: the backward passes, and gradients reach {reached} of {len(parameters)} parameters"
                if parameters
                else ""
            )
        yield Repair(
            title=f"call loss.{name}().backward()",
            code=f"loss.{name}()",
            works=bool(tried),
            plausible=bool(tried),
            tried=tried,
        )


# -- a loss that is cut off --------------------------------------------------------------------------------------------------


def _detached(crash: Crash, loss: Tensor) -> Verdict:
    module, message, fix = _cut(crash, loss)
    last, repair = crash.find_last_layer(), Repair(title=fix, module=module)
    if fix == _UNFREEZE and last is not None and _learns(crash, last):
        code = f"model.{last}.requires_grad_(True)"
        tried = "tried: forward and backward pass on a copy of the model"
        repair = Repair(
            title=f"{fix}, at least on {quote(last)}: {code}",
            code=code,
            module=last,
            works=True,
            plausible=True,
            tried=tried,
        )
    return Verdict(
        diagnosis="detached-graph",
        module=module,
        message=message,
        arithmetic=f"loss.requires_grad is {loss.requires_grad}, loss.grad_fn is {type(loss.grad_fn).__name__ if loss.grad_fn else None}",
        repairs=(repair,),
        tensors=(loss,),
    )


def _learns(crash: Crash, fqn: str) -> bool:
    """Whether a backward passes on a copy of the model in which one layer requires gradients."""
    if crash.model is None or not (crash.args or crash.kwargs):
        return False
    shadow = copy_model(crash.model, crash.args, crash.kwargs, meta=False, grad=True)
    with contextlib.suppress(Exception):
        if shadow is not None:
            shadow.module(fqn).requires_grad_(True)
            return shadow.backward()
    return False


def _cut(crash: Crash, loss: Tensor) -> tuple[str | None, str, str]:
    parameters = [
        p for m in crash.modules.values() for p in m._parameters.values() if p is not None
    ]
    if not parameters and crash.model is not None:
        return (
            "",
            "the model has no parameters: there is nothing to train",
            "give it layers, as attributes that __init__ sets",
        )
    if parameters and not any(p.requires_grad for p in parameters):
        return "", "no parameter of the model requires a gradient: all are frozen", _UNFREEZE
    if not loss.is_floating_point() and not loss.is_complex():
        return (
            None,
            f"the loss is {loss.dtype}: no gradient passes through whole numbers",
            "compute the loss from the logits, not from argmax",
        )
    case = crash if crash.trace.calls else None
    calls = case.trace.calls if case is not None else ()
    if case is None or not calls:
        return (
            None,
            "nothing that the loss was made from requires a gradient",
            "do not use .detach(), .item() or torch.no_grad() before it",
        )
    if any(t.requires_grad for t in calls[0].outputs):
        where = "the model's output requires a gradient, the loss does not: it was cut off after the model"
        cut = find_cut(
            crash.error,
            _CUTTING | {"item", "numpy", "tolist", "tensor", "as_tensor", "Tensor", "from_numpy"},
        )
        if cut is not None:
            return (
                None,
                f"{where} by {cut[0]}, at line {cut[1]}",
                f"compute the loss without {cut[0]}, through which no gradient passes",
            )
        return (
            None,
            where,
            "do not wrap the loss in torch.tensor(...), nor use .item(), .detach(), argmax or numpy on the way to it",
        )
    made = [call for call in calls if any(t.requires_grad for t in call.outputs)]
    if not made and not any(call.fqn is None and operation(call) in _CUTTING for call in calls):
        return (
            None,
            "the forward ran without recording a graph, although parameters require gradients",
            "take torch.no_grad() off the forward",
        )
    return _cut_inside(case, calls)


def _cut_inside(case: Crash, calls: tuple[ModuleCall, ...]) -> tuple[str | None, str, str]:
    for call in reversed(calls):
        if (
            call.outputs
            and not any(t.requires_grad for t in call.outputs)
            and any(t.requires_grad for t in call.inputs)
        ):
            owner = call.fqn if call.fqn is not None else case.find_module_above(call.parent)
            return (
                owner,
                f"{case.describe_call(call)} cuts the graph: its input requires a gradient, its output does not",
                (f"take {operation(call) or quote(call.fqn or '')} out"),
            )
    for call in reversed(calls):
        strangers = [
            t
            for t in call.inputs
            if t.source is None and not case.is_input(t) and not t.requires_grad
        ]
        if strangers and call.parent is not None:
            owner = case.find_module_above(call.parent)
            what = f"{case.describe_call(call)} was given a tensor that no recorded call made: the graph ends there (numpy, torch.tensor, .data)"
            return owner, what, "stay with torch's own functions on the way"
    return (
        "",
        "the graph ends inside the model",
        "look for torch.no_grad(), .detach() or .data in its forward",
    )


# -- a graph that is gone ----------------------------------------------------------------------------------------------------


def _freed(crash: Crash, freed: list[Saved]) -> Verdict:
    keepers = list(_keepers(crash))
    if keepers:
        fqn, name = keepers[0]
        return Verdict(
            diagnosis="backward-twice",
            module=fqn,
            message=f"the attribute '{name}' of {quote(fqn)} keeps the graph of an earlier step, whose tensors are freed",
            arithmetic=f"{len(freed)} saved tensors are gone; the first is that of {freed[0].node.name()}",
            repairs=(
                Repair(
                    title=f"detach it when it is kept: self.{name} = self.{name}.detach()",
                    code=".detach()",
                    module=fqn,
                ),
            ),
        )
    start = crash.trace.calls[0].sequence if crash.trace is not None and crash.trace.calls else None
    old = [
        one.node
        for one in freed
        if start is not None and (get_number(one.node) or start[0]) < start[0]
    ]
    earlier, part = bool(old), _part_of(crash, old)
    why = (
        f"{f'what {quote(part)} gave' if part else 'a part of its graph'} belongs to an earlier forward, and was freed by an earlier backward"
        if earlier
        else "its graph was freed by an earlier backward over the same forward"
    )
    detach = (
        f"detach() what {quote(part)} gives for the earlier backward"
        if part
        else "detach() what is carried over from the earlier step"
    )
    return Verdict(
        diagnosis="backward-twice",
        module=part or None,
        message=f"backward() ran a second time: {why}",
        arithmetic=f"{len(freed)} saved tensors are gone; the first is that of {freed[0].node.name()}",
        repairs=(
            Repair(title=detach if earlier else "run the forward again before each backward()"),
            Repair(
                title="add the losses and call backward() once, or pass retain_graph=True to the first call",
                code="retain_graph=True",
            ),
        ),
    )


def _part_of(crash: Crash, nodes: list[Any]) -> str:
    """The part of the model that made some nodes, by the parameters that they lead to; "" where it is not one part below the model."""
    names = {
        id(p): fqn
        for fqn, m in crash.modules.items()
        for p in m._parameters.values()
        if p is not None
    }
    found = {
        names[id(v)]
        for node in walk_nodes(*nodes)
        if (v := getattr(node, "variable", None)) is not None and id(v) in names
    }
    paths = [fqn.split(".") for fqn in found]
    shared = [parts[0] for parts in zip(*paths, strict=False) if len(set(parts)) == 1]
    return ".".join(shared)


def _keepers(crash: Crash) -> Iterator[tuple[str, str]]:
    """The modules whose attributes hold tensors with a graph."""
    for fqn, module in crash.modules.items():
        for name, value in [*module.__dict__.items(), *module._buffers.items()]:
            if (
                name.startswith("__")
                or isinstance(value, nn.Module)
                or name in ("_parameters", "_modules", "_buffers")
            ):
                continue
            if any(isinstance(t, Tensor) and t.grad_fn is not None for t in tree_leaves(value)):
                yield fqn, name
