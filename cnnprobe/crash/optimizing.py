"""An optimizer that raised: as a rule it was given nothing."""

import inspect
import traceback
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.training import Training, Verdict
from cnnprobe.crash.users_code import frame_locals
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of, named_modules


def explain_step(training: Training) -> Verdict:
    """Why the optimizer raised: as a rule it was given nothing."""
    found = frame_locals(training.error, "torch/optim/optimizer.py", "__init__")
    model = training.model
    method = _method_given(training)
    if method is not None:
        return _uncalled(training, method)
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


def _method_given(training: Training) -> Any:
    """The method that an optimizer was given where parameters were meant, from the frame of its __init__."""
    for frame, _ in traceback.walk_tb(training.error.__traceback__):
        given = frame.f_locals.get("params")
        if "/torch/optim/" in frame.f_code.co_filename.replace("\\", "/") and inspect.ismethod(given):
            return given
    return None


def _uncalled(training: Training, method: Any) -> Verdict:
    """The method itself where what it gives was meant: Adam(model.parameters)."""
    is_known = isinstance(method.__self__, nn.Module) and method.__name__ == "parameters"
    count = sum(isinstance(p, Tensor) for p in method()) if is_known else 0
    return Verdict(
        diagnosis="empty-parameters",
        module="" if method.__self__ is training.model else None,
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
