"""A loss that raised: labels outside of their range, targets of another dtype or shape, outputs outside of what the loss takes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.case import quoted
from cnnprobe.crash.training import Loss, Training, Verdict, loss_from, range_of
from cnnprobe.crash.users_code import forward_of, innermost_locals, one_tuples
from cnnprobe.explanation import Repair
from cnnprobe.recorder.inventory import class_of

_BY_CLASS = {
    "CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss", "NLLLoss2d": "nll_loss", "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits", "MSELoss": "mse_loss", "L1Loss": "l1_loss", "SmoothL1Loss": "smooth_l1_loss",
    "HuberLoss": "huber_loss", "GaussianNLLLoss": "gaussian_nll_loss", "PoissonNLLLoss": "poisson_nll_loss", "KLDivLoss": "kl_div",
    "MultiMarginLoss": "multi_margin_loss",
}  # fmt: skip
_CLASSES = ("cross_entropy", "nll_loss", "nll_loss2d", "multi_margin_loss")
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")

Change = Callable[[Any, Any], tuple[Any, Any]]


def explain_loss(training: Training) -> Verdict:
    """Why the loss raised."""
    found = loss_from(training)
    if found is None:
        return _unknown(training)
    name = _BY_CLASS.get(found.name, found.name)
    if not isinstance(found.input, Tensor):
        return _no_tensor(training, found)
    if not isinstance(found.target, Tensor):
        return _target_no_tensor(found)
    checks: list[Callable[[Training, Loss, str], Verdict | None]] = [_devices, _merged_batch]
    if name in _CLASSES:
        checks += [_swapped, _class_dtype, _class_shape, _label_range, _weights]
    elif name in _BINARY:
        checks += [_same_shape, _float_target, _binary_range]
    else:
        checks += [_output_range, _same_shape, _float_target]
    for check in checks:
        verdict = check(training, found, name)
        if verdict is not None:
            return verdict
    return _shapes(found)


def repaired(found: Loss, name: str, title: str, change: Change, *, code: str = "", other: str = "") -> Repair:
    """A repair of the loss's arguments (or another loss), tried on copies of them."""
    given = {key: value for key, value in found.arguments.items() if isinstance(value, Tensor)}
    first = next((key for key in ("input", "x1") if key in given), None)
    try:
        x, target = change(given[first or "input"].detach(), given["target"].detach())
        loss = _call(found, other or name, x, target)
    except Exception as error:  # it does not mend it: the sentence says so
        return Repair(title=title, code=code, tried=f"tried: {type(error).__name__} is raised then")
    shape = tuple(loss.shape)
    value = f" {float(loss):.4g}" if loss.numel() == 1 and not loss.is_meta else f" of shape {shape}"
    return Repair(title=title, code=code, works=True, plausible=loss.numel() == 1, tried=f"tried: the loss passes and gives{value}")


def _call(found: Loss, name: str, x: Tensor, target: Tensor) -> Tensor:
    with torch.no_grad():
        if found.module is not None and _BY_CLASS.get(type(found.module).__name__) == name and name != "gaussian_nll_loss":
            return found.module(x, target)  # type: ignore[no-any-return]
        function = getattr(F, name)
        options = {k: found.arguments[k] for k in ("weight", "ignore_index", "label_smoothing", "var") if k in found.arguments}
        if name.startswith("binary"):
            options.pop("ignore_index", None)
        return function(x, target, **options)  # type: ignore[no-any-return]


def _keep(*repairs: Repair) -> tuple[Repair, ...]:
    return tuple(sorted((r for r in repairs if r.works), key=lambda r: not r.plausible))


# -- what is no tensor -------------------------------------------------------------------------------------------------------


def _no_tensor(training: Training, found: Loss) -> Verdict:
    value = found.input
    kind = type(value).__name__
    root = training.trace.calls[0] if training.trace is not None and training.trace.calls else None
    comma = None
    for fqn, module in training.modules().items():
        if not class_of(module).__module__.startswith("torch."):
            node = next(one_tuples(forward_of(module)), None)
            if node is not None:
                comma = (fqn, node.lineno)
                break
    tensors = [(path, t) for path, t in _entries(value) if isinstance(t, Tensor)]
    repairs = []
    if tensors and isinstance(found.target, Tensor):
        path, first = tensors[0]
        name = _BY_CLASS.get(found.name, found.name)
        arguments = Loss(name=found.name, module=found.module, arguments={**found.arguments, "input": first})
        title = f"drop the trailing comma at line {comma[1]}" if comma is not None else f"pass output{path} to the loss"
        repairs.append(repaired(arguments, name, title, lambda x, t: (x, t), code=f"output{path}"))
    why = f": the trailing comma at line {comma[1]} of the forward of {quoted(comma[0])} makes a tuple" if comma is not None else ""
    if value is None:
        why = ": its forward has no return"
    return Verdict(
        diagnosis="not-a-tensor",
        module=comma[0] if comma is not None else "",
        message=f"{found.shown} was given a {kind}, not a tensor, as the model's output{why}",
        arithmetic=f"the model returned a {root.returned}" if root is not None and root.returned else "",
        repairs=_keep(*repairs),
        raised_in=found.shown,
    )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield f"[{i}]", item


def _target_no_tensor(found: Loss) -> Verdict:
    kind = type(found.target).__name__
    repairs = []
    try:
        made = torch.as_tensor(found.target)
        arguments = Loss(name=found.name, module=found.module, arguments={**found.arguments, "target": made})
        name = _BY_CLASS.get(found.name, found.name)
        repairs.append(
            repaired(arguments, name, "pass torch.as_tensor(targets)", lambda x, t: (x, t.to(x.device)), code="torch.as_tensor({x})")
        )
    except (TypeError, ValueError, RuntimeError):
        pass
    return Verdict(diagnosis="not-a-tensor", message=f"the targets of {found.shown} are a {kind}, not a tensor", repairs=_keep(*repairs))


# -- class indices -----------------------------------------------------------------------------------------------------------


def _swapped(_training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.is_floating_point() or not target.is_floating_point() or target.dim() < x.dim():
        return None
    return Verdict(
        diagnosis="target-dtype",
        message=f"the arguments of {found.shown} are swapped: the output comes first, then the targets",
        arithmetic=f"first {tuple(x.shape)} {x.dtype}, second {tuple(target.shape)} {target.dtype}",
        repairs=_keep(repaired(found, name, "call it as loss(output, targets)", lambda a, b: (b, a))),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _class_dtype(_training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if target.dtype is torch.long or (target.is_floating_point() and target.shape == x.shape and name == "cross_entropy"):
        return None
    shape = "" if target.dim() != x.dim() or x.dim() < 2 else " (N, 1)"
    repairs = [repaired(found, name, "pass targets.long()", lambda a, b: (a, b.long()), code="{x}.long()")]
    if target.dim() == x.dim() and target.shape != x.shape:
        repairs.append(repaired(found, name, "pass targets.squeeze(1).long()", lambda a, b: (a, b.squeeze(1).long())))
    if target.shape == x.shape:
        repairs.append(repaired(found, name, "pass targets.float(), as class probabilities", lambda a, b: (a, b.to(a.dtype))))
        repairs.append(repaired(found, name, "pass targets.argmax(1)", lambda a, b: (a, b.argmax(1))))
    return Verdict(
        diagnosis="target-dtype",
        message=f"{found.shown} wants class indices of dtype int64, and the targets are {str(target.dtype).removeprefix('torch.')}{shape}",
        arithmetic=f"output {tuple(x.shape)}, targets {tuple(target.shape)} {target.dtype}",
        repairs=_keep(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _class_shape(training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    wanted = (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()
    if tuple(target.shape) == tuple(wanted) or (target.is_floating_point() and target.shape == x.shape):
        return None
    repairs = []
    if target.dim() == x.dim() and target.shape[1:2] == (1,):
        repairs.append(repaired(found, name, "pass targets.squeeze(1)", lambda a, b: (a, b.squeeze(1)), code="{x}.squeeze(1)"))
    if target.shape == x.shape:
        repairs.append(repaired(found, name, "pass targets.argmax(1): class indices, not one-hot", lambda a, b: (a, b.argmax(1))))
        repairs.append(repaired(found, name, "pass targets.float(), as class probabilities", lambda a, b: (a, b.to(a.dtype))))
    if x.dim() > 2 and target.dim() == 1 and x.shape[2:].numel() == 1:
        repairs.append(repaired(found, name, "flatten the output: torch.flatten(output, 1)", lambda a, b: (a.flatten(1), b)))
    elif x.dim() > 2 and target.dim() == 1:
        repairs.append(repaired(found, name, "pool the output: output.mean((-2, -1))", lambda a, b: (a.flatten(2).mean(-1), b)))
    if x.dim() == 1 and target.dim() == 1:
        repairs.append(repaired(found, name, "give the output its batch axis back: output.unsqueeze(0)", lambda a, b: (a[None], b)))
    if x.dim() == 3 and target.dim() == 2 and x.shape[:2] == target.shape:
        repairs.append(repaired(found, name, "pass output.transpose(1, 2): the classes on axis 1", lambda a, b: (a.transpose(1, 2), b)))
    if x.dim() == target.dim() + 1 and x.dim() > 3:
        resize = lambda a, b: (F.interpolate(a, size=tuple(b.shape[1:])), b)  # noqa: E731
        repairs.append(repaired(found, name, "bring the output to the targets' size: F.interpolate(output, size=...)", resize))
    return Verdict(
        diagnosis="target-shape",
        message=f"{found.shown} wants targets of shape {tuple(wanted)} for an output of {tuple(x.shape)}, and they are {tuple(target.shape)}",
        arithmetic=f"output {tuple(x.shape)}, targets {tuple(target.shape)}",
        repairs=_keep(*repairs),
        module=training.last_layer() if x.dim() > 2 and target.dim() == 1 else None,
        tensors=(x, target),
        raised_in=found.shown,
    )


def _label_range(training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    bounds = range_of(target)
    classes = x.shape[1] if x.dim() > 1 else x.shape[0]
    ignored = found.arguments.get("ignore_index", getattr(found.module, "ignore_index", -100))
    if bounds is None or target.is_floating_point():
        return None
    counted = target[target != ignored]
    low, high = (int(n) for n in range_of(counted) or (0, 0))
    if low >= 0 and high < classes:
        return None
    repairs = []
    last = training.last_layer()
    head = training.modules().get(last) if last is not None else None
    if low == 1 and high == classes:
        repairs.append(repaired(found, name, "start the labels at 0: targets - 1", lambda a, b: (a, b - 1), code="{x} - 1"))
    if low >= 0 and isinstance(head, nn.Linear | nn.Conv2d):
        argument = "out_features" if isinstance(head, nn.Linear) else "out_channels"
        title = f"set {argument}={high + 1} in {quoted(last or '')} (now {classes})"
        widen = lambda a, b: (torch.cat([a, a.new_zeros((a.shape[0], high + 1 - classes, *a.shape[2:]))], 1), b)  # noqa: E731
        repairs.append(repaired(found, name, title, widen, code=f"{argument}={high + 1}"))
    if low < 0:
        title = f"leave these labels out: ignore_index={low}"
        repairs.append(repaired(found, name, title, lambda a, b: (a, b.masked_fill(b < 0, -100)), code=f"ignore_index={low}"))
    outside = int(((counted < 0) | (counted >= classes)).sum())
    return Verdict(
        diagnosis="label-range",
        module=last if low == 0 else None,
        message=f"labels go from {low} to {high}, and the output has {classes} classes: legal are 0 to {classes - 1}",
        arithmetic=f"{outside} of {counted.numel()} labels are outside"
        + (f"; the classes come from {quoted(last)}" if last is not None else ""),
        repairs=_keep(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _weights(_training: Training, found: Loss, _name: str) -> Verdict | None:
    weight = found.arguments.get("weight", getattr(found.module, "weight", None))
    classes = found.input.shape[1] if found.input.dim() > 1 else found.input.shape[0]
    if not isinstance(weight, Tensor) or weight.numel() == classes:
        return None
    return Verdict(
        diagnosis="shape-mismatch",
        message=f"the weight of {found.shown} has {weight.numel()} entries for {classes} classes",
        arithmetic=f"weight {tuple(weight.shape)}, output {tuple(found.input.shape)}",
        tensors=(found.input, weight),
        raised_in=found.shown,
    )


# -- outputs and targets of one shape ----------------------------------------------------------------------------------------


def _same_shape(_training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.shape == target.shape:
        return None
    repairs = []
    if x.numel() == target.numel():
        reshape = lambda a, b: (a, b.reshape(a.shape).to(a.dtype))  # noqa: E731
        how = (
            "unsqueeze(1)" if x.dim() == target.dim() + 1 else "squeeze(1)" if x.dim() == target.dim() - 1 else f"reshape({tuple(x.shape)})"
        )
        extra = "" if target.is_floating_point() else ".float()"
        repairs.append(repaired(found, name, f"pass targets.{how}{extra}", reshape, code=f"{{x}}.{how}{extra}"))
    if x.dim() == 2 and target.dim() == 1 and not target.is_floating_point() and target.shape[0] == x.shape[0]:
        one_hot = lambda a, b: (a, F.one_hot(b, a.shape[1]).to(a.dtype))  # noqa: E731
        repairs.append(repaired(found, name, f"pass F.one_hot(targets, {x.shape[1]}).float()", one_hot))
        repairs.append(repaired(found, name, "use nn.CrossEntropyLoss for class indices", lambda a, b: (a, b), other="cross_entropy"))
    return Verdict(
        diagnosis="target-shape",
        message=f"{found.shown} wants outputs and targets of one shape: {tuple(x.shape)} against {tuple(target.shape)}",
        arithmetic=f"{x.numel()} against {target.numel()} elements",
        repairs=_keep(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _float_target(_training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.dtype == target.dtype or not x.is_floating_point():
        return None
    kind = str(x.dtype).removeprefix("torch.")
    title = "pass targets.float()" if x.dtype is torch.float32 else f"pass targets.to(torch.{kind})"
    return Verdict(
        diagnosis="target-dtype",
        message=f"{found.shown} wants targets of the output's dtype {kind}, and they are {str(target.dtype).removeprefix('torch.')}",
        arithmetic=f"output {tuple(x.shape)} {x.dtype}, targets {tuple(target.shape)} {target.dtype}",
        repairs=_keep(repaired(found, name, title, lambda a, b: (a, b.to(a.dtype)), code="{x}.float()")),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _binary_range(training: Training, found: Loss, name: str) -> Verdict | None:
    outputs, labels = range_of(found.input), range_of(found.target)
    if name == "binary_cross_entropy" and outputs is not None and not (outputs[0] >= 0 and outputs[1] <= 1):
        last = training.last_layer()
        repairs = (
            repaired(
                found,
                name,
                "use nn.BCEWithLogitsLoss",
                lambda a, b: (a, b),
                code="nn.BCEWithLogitsLoss()",
                other="binary_cross_entropy_with_logits",
            ),
            repaired(found, name, "pass torch.sigmoid(output)", lambda a, b: (torch.sigmoid(a), b), code="torch.sigmoid({x})"),
        )
        return Verdict(
            diagnosis="bce-range",
            message=f"{found.shown} wants probabilities, and the outputs go from {outputs[0]:.3g} to {outputs[1]:.3g}: they are logits",
            arithmetic="legal are 0 to 1" + (f"; {quoted(last)} makes them, with no sigmoid after it" if last is not None else ""),
            repairs=_keep(*repairs),
            tensors=(found.input, found.target),
            raised_in=found.shown,
        )
    if labels is not None and not (labels[0] >= 0 and labels[1] <= 1):
        scale = lambda a, b: (a, (b - labels[0]) / (labels[1] - labels[0] or 1))  # noqa: E731
        title = f"bring the targets to 0 and 1: targets / {labels[1]:g}" if labels[0] == 0 else "bring the targets to 0 and 1"
        return Verdict(
            diagnosis="label-range",
            message=f"{found.shown} wants targets between 0 and 1, and they go from {labels[0]:g} to {labels[1]:g}",
            repairs=_keep(repaired(found, name, title, scale)),
            tensors=(found.input, found.target),
            raised_in=found.shown,
        )
    return None


def _output_range(_training: Training, found: Loss, name: str) -> Verdict | None:
    var = found.arguments.get("var")
    bounds = range_of(var)
    if name != "gaussian_nll_loss" or bounds is None or bounds[0] >= 0:
        return None
    if not isinstance(var, Tensor):
        return None
    positive = {**found.arguments, "var": F.softplus(var.detach())}
    changed = Loss(name=found.name, module=found.module, arguments=positive)
    return Verdict(
        diagnosis="output-range",
        message=f"{found.shown} wants variances that are not negative, and they go from {bounds[0]:.3g} to {bounds[1]:.3g}",
        arithmetic="legal are 0 and above",
        repairs=_keep(repaired(changed, name, "pass F.softplus(var), or the exponential of a log-variance", lambda a, b: (a, b))),
        tensors=(found.input, found.target, var),
        raised_in=found.shown,
    )


# -- anything else -----------------------------------------------------------------------------------------------------------


def _devices(_training: Training, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.device == target.device:
        return None
    title = f"move the targets: targets.to({str(x.device)!r})"
    return Verdict(
        diagnosis="device-mismatch",
        message=f"{found.shown} was given an output on {x.device} and targets on {target.device}",
        arithmetic=f"output {tuple(x.shape)} on {x.device}, targets {tuple(target.shape)} on {target.device}",
        repairs=_keep(repaired(found, name, title, lambda a, b: (a, _on_device_of(a, b)), code=".to(output.device)")),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _on_device_of(x: Tensor, target: Tensor) -> Tensor:
    return torch.zeros(target.shape, dtype=target.dtype, device=x.device) if target.is_meta else target.to(x.device)


def _merged_batch(training: Training, found: Loss, _name: str) -> Verdict | None:
    """The model has lost or multiplied the batch on the way."""
    case = training.case()
    x, target = found.input, found.target
    if case is None or case.batch is None or not target.dim() or target.shape[0] != case.batch or (x.dim() and x.shape[0] == case.batch):
        return None
    for call in case.trace.calls:
        name = call.kind.rpartition(".")[2]
        if not call.inputs or not call.outputs or name not in ("view", "reshape", "flatten", "squeeze", "Flatten", "permute", "transpose"):
            continue
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if before[:1] == (case.batch,) and after[:1] != (case.batch,):
            squeezed = name == "squeeze"
            owner = call.fqn if call.fqn is not None else case.module_above(call.parent)
            fix = "torch.flatten(x, 1), or squeeze with the axis that is meant" if squeezed else "torch.flatten(x, 1)"
            return Verdict(
                diagnosis="squeeze-batch" if squeezed else "batch-merge-view",
                module=owner,
                message=f"{case.name_of(call)} does not keep one row for each sample: {before} became {after}",
                arithmetic=f"{case.batch} samples went in, the output is {tuple(x.shape)}, the targets {tuple(target.shape)}",
                repairs=(Repair(title=f"use {fix} there", code="torch.flatten(x, 1)", module=owner),),
                tensors=(x, target),
                raised_in=found.shown,
            )
    return None


def _shapes(found: Loss) -> Verdict:
    tensors = tuple(v for v in found.arguments.values() if isinstance(v, Tensor))
    shapes = ", ".join(f"{name} {tuple(v.shape)} {v.dtype}" for name, v in found.arguments.items() if isinstance(v, Tensor))
    return Verdict(
        diagnosis="shape-mismatch",
        message=f"the cause is not known; {found.shown} raised when it was given {shapes}",
        tensors=tensors,
        raised_in=found.shown,
    )


def _unknown(training: Training) -> Verdict:
    values = {name: v for name, v in innermost_locals(training.error).items() if any(isinstance(t, Tensor) for t in tree_leaves(v))}
    tensors = [(name, v) for name, v in values.items() if isinstance(v, Tensor)][:6]
    shapes = ", ".join(f"{name} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for name, v in tensors)
    return Verdict(
        diagnosis="shape-mismatch" if tensors else "unknown",
        message="the cause is not known; the tensors at hand were " + (shapes or "none"),
        tensors=tuple(v for _, v in tensors),
    )
