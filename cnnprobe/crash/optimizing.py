"""An optimizer that raised: as a rule it was given nothing."""

import contextlib
import inspect
import traceback
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.facts.frames import read_frame, read_locals
from cnnprobe.crash.training import Crash, Verdict
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of, named_modules

_SCHEDULERS = "torch/optim/lr_scheduler.py"


def explain_step(crash: Crash) -> Verdict:
    """Why the optimizer raised: as a rule it was given nothing."""
    found = read_frame(crash.error, "torch/optim/optimizer.py", "__init__")
    model = crash.model
    method = _method_given(crash)
    if method is not None:
        return _uncalled(crash, method)
    misused = _without_closure(crash) or _scheduler_of_no_optimizer(crash)
    if misused is not None:
        return misused
    given = list((found or {}).get("param_groups") or [])
    if found is None or (given and any(_parameters_in(group) for group in given)):
        return Verdict(diagnosis="unknown", message="the cause is not known; the optimizer raised")
    parameters = list(model.parameters()) if model is not None else []
    if model is not None and not parameters:
        return _nothing_registered(model)
    frozen = sum(not p.requires_grad for p in parameters)
    if parameters and frozen == len(parameters):
        why, fix = (
            "every parameter is frozen, and the frozen ones were filtered out",
            "set requires_grad_(True) on what is to be trained",
        )
    else:
        why = (
            f"the model has {len(parameters)} parameters"
            if model is not None
            else "nothing was in it"
        )
        fix = "pass model.parameters() itself: a generator that was read once (in a sum, say) is empty afterwards"
        why += ", so that the iterator was used up before"
    return Verdict(
        diagnosis="empty-parameters",
        module="" if model is not None else None,
        message=f"the optimizer got no parameters: {why}",
        arithmetic=f"{len(parameters)} parameters, {frozen} of them frozen"
        if model is not None
        else "",
        repairs=(Repair(title=fix, code="model.parameters()"),),
    )


def _without_closure(crash: Crash) -> Verdict | None:
    """An optimizer such as LBFGS, which evaluates the loss several times a step, and was not told how."""
    locals_of = [f.f_locals for f, _ in traceback.walk_tb(crash.error.__traceback__)]
    given = [
        v
        for values in locals_of
        for v in (values.get("self"), *(values.get("args") or ())[:1])
        if isinstance(v, Optimizer)
    ]
    optimizer = given[0] if given else None
    needed = (
        inspect.signature(type(optimizer).step).parameters.get("closure")
        if optimizer is not None
        else None
    )
    if (
        needed is None
        or needed.default is not needed.empty
        or not isinstance(crash.error, TypeError)
    ):
        return None
    kind = type(optimizer).__name__
    return Verdict(
        diagnosis="call-signature",
        message=f"{kind} computes the loss several times in one step, and step() was not given the function that does so",
        arithmetic=f"{kind}.step(closure) has no default for closure",
        repairs=(
            Repair(
                title="write def closure(): optimizer.zero_grad(); loss = ...; loss.backward(); return loss, and call optimizer.step(closure)",
                code="optimizer.step(closure)",
            ),
        ),
        raised_in=f"{kind}.step",
    )


def _scheduler_of_no_optimizer(crash: Crash) -> Verdict | None:
    """A scheduler that was given the model, or what else, in the place of the optimizer."""
    frames = [
        f for f, _ in traceback.walk_tb(crash.error.__traceback__) if f.f_code.co_name == "__init__"
    ]
    frames = [f for f in frames if f.f_code.co_filename.replace("\\", "/").endswith(_SCHEDULERS)]
    found = frames[0].f_locals if frames else {}
    kind: Any = type(found.get("self"))
    given = found.get("optimizer")
    if not frames or isinstance(given, Optimizer):
        return None
    named = [
        (name, value)
        for name, value in read_locals(crash.error).items()
        if isinstance(value, Optimizer)
    ]
    name, optimizer = named[0] if len(named) == 1 else ("optimizer", None)
    tried = ""
    if optimizer is not None:
        alike = [
            {
                **{k: v for k, v in group.items() if k != "params"},
                "params": [nn.Parameter(torch.zeros(1))],
            }
            for group in optimizer.param_groups
        ]
        settings = {
            k: v
            for k, v in found.items()
            if k in inspect.signature(kind).parameters and k != "optimizer"
        }
        with contextlib.suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            other: Any = type(optimizer)
            kind(other(alike), **settings)
            tried = f"tried: {kind.__name__} takes another {type(optimizer).__name__} with these settings"
    return Verdict(
        diagnosis="call-signature",
        message=f"{kind.__name__} changes the learning rate of an optimizer, and was given a {type(given).__name__}",
        arithmetic=f"{kind.__name__}(optimizer, ...)",
        repairs=(
            Repair(
                title=f"write {kind.__name__}({name}, ...)",
                code=f"{kind.__name__}({name}, ...)",
                works=bool(tried),
                plausible=bool(tried),
                tried=tried,
            ),
        ),
        raised_in=kind.__name__,
    )


def _method_given(crash: Crash) -> Any:
    """The method that an optimizer was given where parameters were meant, from the frame of its __init__."""
    for frame, _ in traceback.walk_tb(crash.error.__traceback__):
        given = frame.f_locals.get("params")
        if "/torch/optim/" in frame.f_code.co_filename.replace("\\", "/") and inspect.ismethod(
            given
        ):
            return given
    return None


def _uncalled(crash: Crash, method: Any) -> Verdict:
    """The method itself where what it gives was meant: Adam(model.parameters)."""
    is_known = isinstance(method.__self__, nn.Module) and method.__name__ == "parameters"
    count = sum(isinstance(p, Tensor) for p in method()) if is_known else 0
    return Verdict(
        diagnosis="empty-parameters",
        module="" if method.__self__ is crash.model else None,
        message=f"the optimizer was given the method {method.__name__} itself, and not the parameters that it gives when it is called",
        arithmetic=f"{count} parameters are in it" if count else "",
        repairs=(
            Repair(
                title=f"write {method.__name__}(), with parentheses",
                code=f"model.{method.__name__}()",
                works=count > 0,
                plausible=count > 0,
                tried=f"tried: it gives {count} parameters" if count else "",
            ),
        ),
    )


def _parameters_in(group: Any) -> bool:
    return bool(group.get("params")) if isinstance(group, dict) else isinstance(group, Tensor)


def _nothing_registered(model: nn.Module) -> Verdict:
    hidden = [
        (fqn, name, value)
        for fqn, m, _ in named_modules(model)
        for name, value in m.__dict__.items()
    ]
    hidden = [one for one in hidden if one[1] != "_modules" and _hides_modules(one[2])]
    if not hidden:
        return Verdict(
            diagnosis="empty-parameters",
            module="",
            message=f"the optimizer got no parameters: {class_of(model).__name__} has no layers with weights",
            repairs=(
                Repair(title="make its layers attributes in __init__: self.fc = nn.Linear(...)"),
            ),
        )
    fqn, name, value = hidden[0]
    kind = "ModuleDict" if isinstance(value, dict) else "ModuleList"
    inner = [m for m in tree_leaves(value) if isinstance(m, nn.Module)]
    count = sum(p.numel() for m in inner for p in m.parameters())
    single = isinstance(value, tuple) and len(value) == 1
    title = (
        f"drop the comma at the end of 'self.{name} = ...'"
        if single
        else f"make it an nn.{kind}: self.{name} = nn.{kind}(...)"
    )
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
                tried=f"tried: {count:,} elements of parameters are registered then"
                if count and _registers(inner)
                else "",
                parameters=count,
            ),
        ),
    )


def _registers(inner: list[nn.Module]) -> bool:
    return any(True for _ in nn.ModuleList(inner).parameters())


def _hides_modules(value: Any) -> bool:
    return isinstance(value, list | tuple | dict) and any(
        isinstance(m, nn.Module) for m in tree_leaves(value)
    )
