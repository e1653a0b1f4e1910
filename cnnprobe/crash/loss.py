"""A loss that raised: labels outside of their range, targets of another dtype or shape, outputs outside of what the loss takes."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from cnnprobe.crash.facts.frames import read_locals
from cnnprobe.crash.facts.source import find_one_tuples, get_forward, returns_nothing
from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.head_trials import flattened_instead, resized_by_layers
from cnnprobe.crash.loss_trials import BY_CLASS, Change, repaired, working
from cnnprobe.crash.pairs import compared, explain_pairs
from cnnprobe.crash.targets import class_dtype, class_shape, class_weights, label_range, swapped
from cnnprobe.crash.training import Crash, Loss, Verdict, loss_from, range_of
from cnnprobe.recorder.inventory import class_of

_CLASSES = ("cross_entropy", "nll_loss", "nll_loss2d", "multi_margin_loss")
_BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits")


def explain_loss(crash: Crash) -> Verdict:
    """Why the loss raised."""
    found = loss_from(crash)
    if found is None:
        return _unknown(crash)
    name = BY_CLASS.get(found.name, found.name)
    if not isinstance(found.input, Tensor):
        return _no_tensor(crash, found)
    pair = explain_pairs(crash, found, name)
    if pair is not None:
        return pair
    if not isinstance(found.target, Tensor):
        return _target_no_tensor(found) if not compared(found) else _shapes(found)
    checks: list[Callable[[Crash, Loss, str], Verdict | None]] = [_devices, _merged_batch]
    if name in _CLASSES:
        checks += [swapped, class_dtype, class_shape, label_range, class_weights]
    elif name in _BINARY:
        checks += [_same_shape, _float_target, _binary_range]
    else:
        checks += [_output_range, _same_shape, _float_target]
    for check in checks:
        verdict = check(crash, found, name)
        if verdict is not None:
            return verdict
    return _shapes(found)


# -- what is no tensor -------------------------------------------------------------------------------------------------------


def _no_tensor(crash: Crash, found: Loss) -> Verdict:
    value = found.input
    kind = type(value).__name__
    root = crash.trace.calls[0] if crash.trace is not None and crash.trace.calls else None
    comma = None
    for fqn, module in crash.modules.items():
        if not class_of(module).__module__.startswith("torch."):
            node = next(find_one_tuples(get_forward(module)), None)
            if node is not None:
                comma = (fqn, node.lineno)
                break
    tensors = [(path, t) for path, t in _entries(value) if isinstance(t, Tensor)]
    repairs = []
    if tensors and isinstance(found.target, Tensor):
        path, first = tensors[0]
        name = BY_CLASS.get(found.name, found.name)
        arguments = Loss(
            name=found.name, module=found.module, arguments={**found.arguments, "input": first}
        )
        title = (
            f"drop the trailing comma at line {comma[1]}"
            if comma is not None
            else f"pass output{path} to the loss"
        )
        repairs.append(repaired(arguments, name, title, lambda x, t: (x, t), code=f"output{path}"))
    why = (
        f": the trailing comma at line {comma[1]} of the forward of {quote(comma[0])} makes a tuple"
        if comma is not None
        else ""
    )
    if value is None and crash.model is not None and returns_nothing(get_forward(crash.model)):
        why = ": its forward has no return"
    return Verdict(
        diagnosis="not-a-tensor",
        module=comma[0] if comma is not None else "",
        message=f"{found.shown} was given a {kind}, not a tensor, as the model's output{why}",
        arithmetic=f"the model returned a {root.returned}"
        if root is not None and root.returned
        else "",
        repairs=working(*repairs),
        raised_in=found.shown,
    )


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r}]", item
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            yield (f".{value._fields[i]}" if hasattr(value, "_fields") else f"[{i}]"), item


def _target_no_tensor(found: Loss) -> Verdict:
    kind = type(found.target).__name__
    repairs = []
    try:
        made = torch.as_tensor(found.target)
        arguments = Loss(
            name=found.name, module=found.module, arguments={**found.arguments, "target": made}
        )
        name = BY_CLASS.get(found.name, found.name)
        repairs.append(
            repaired(
                arguments,
                name,
                "pass torch.as_tensor(targets)",
                lambda x, t: (x, t.to(x.device)),
                code="torch.as_tensor({x})",
            )
        )
    except (TypeError, ValueError, RuntimeError):
        pass
    return Verdict(
        diagnosis="not-a-tensor",
        message=f"the targets of {found.shown} are a {kind}, not a tensor",
        repairs=working(*repairs),
    )


# -- outputs and targets of one shape ----------------------------------------------------------------------------------------


def _same_shape(crash: Crash, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.shape == target.shape:
        return None
    repairs = [
        repaired(found, name, title, change, code=code)
        for title, code, change in _same_elements(x, target)
    ]
    resizing = list(resized_by_layers(crash, found))
    repairs += resizing
    if (
        x.dim() == 2
        and target.dim() == 1
        and not target.is_floating_point()
        and target.shape[0] == x.shape[0]
    ):
        one_hot = lambda a, b: (a, F.one_hot(b, a.shape[1]).to(a.dtype))  # noqa: E731
        repairs.append(
            repaired(found, name, f"pass F.one_hot(targets, {x.shape[1]}).float()", one_hot)
        )
        repairs.append(
            repaired(
                found,
                name,
                "use nn.CrossEntropyLoss for class indices",
                lambda a, b: (a, b),
                other="cross_entropy",
            )
        )
    return Verdict(
        diagnosis="target-shape",
        message=f"{found.shown} wants outputs and targets of one shape: {tuple(x.shape)} against {tuple(target.shape)}",
        arithmetic=f"{x.numel()} against {target.numel()} elements",
        module=resizing[0].module if resizing else None,
        repairs=working(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _same_elements(x: Tensor, target: Tensor) -> Iterator[tuple[str, str, Change]]:
    """Targets with the same elements in another shape: an axis of 1 more or less, axes in another order; never a reshape that mixes them."""
    extra = "" if target.is_floating_point() else ".float()"
    ones = [n for n in x.shape if n != 1] == [n for n in target.shape if n != 1]
    if x.numel() != target.numel():
        return
    if ones:
        difference = x.dim() - target.dim()
        how = {1: "unsqueeze(1)", -1: "squeeze(1)"}.get(difference, f"reshape({tuple(x.shape)})")
        yield (
            f"pass targets.{how}{extra}",
            f"{{x}}.{how}{extra}",
            lambda a, b: (a, b.reshape(a.shape).to(a.dtype)),
        )
    elif (
        x.dim() == target.dim()
        and sorted(x.shape) == sorted(target.shape)
        and x.shape[0] == target.shape[0]
    ):
        orders = [
            o
            for o in itertools.permutations(range(1, x.dim()))
            if tuple(target.shape[i] for i in o) == tuple(x.shape[1:])
        ]
        order = (0, *orders[0])
        how = f"permute({', '.join(map(str, order))})"
        yield (
            f"pass targets.{how}{extra}: the axes of the output are in another order",
            f"{{x}}.{how}{extra}",
            lambda a, b: (a, b.permute(order).to(a.dtype)),
        )
    elif x.shape[0] == target.shape[0] and target.dim() == 2:
        yield (
            "pass torch.flatten(output, 1)",
            "torch.flatten({x}, 1)",
            lambda a, b: (a.flatten(1), b.to(a.dtype)),
        )
    elif x.shape[0] == target.shape[0] and x.dim() == 2:
        yield (
            f"pass torch.flatten(targets, 1){extra}",
            f"torch.flatten({{x}}, 1){extra}",
            lambda a, b: (a, b.flatten(1).to(a.dtype)),
        )


def _float_target(_crash: Crash, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.dtype == target.dtype or not x.is_floating_point():
        return None
    kind = str(x.dtype).removeprefix("torch.")
    title = "pass targets.float()" if x.dtype is torch.float32 else f"pass targets.to(torch.{kind})"
    return Verdict(
        diagnosis="target-dtype",
        message=f"{found.shown} wants targets of the output's dtype {kind}, and they are {str(target.dtype).removeprefix('torch.')}",
        arithmetic=f"output {tuple(x.shape)} {x.dtype}, targets {tuple(target.shape)} {target.dtype}",
        repairs=working(
            repaired(found, name, title, lambda a, b: (a, b.to(a.dtype)), code="{x}.float()")
        ),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _binary_range(crash: Crash, found: Loss, name: str) -> Verdict | None:
    outputs, labels = range_of(found.input), range_of(found.target)
    if (
        name == "binary_cross_entropy"
        and outputs is not None
        and not (outputs[0] >= 0 and outputs[1] <= 1)
    ):
        last = crash.find_last_layer()
        repairs = (
            repaired(
                found,
                name,
                "use nn.BCEWithLogitsLoss",
                lambda a, b: (a, b),
                code="nn.BCEWithLogitsLoss()",
                other="binary_cross_entropy_with_logits",
            ),
            repaired(
                found,
                name,
                "pass torch.sigmoid(output)",
                lambda a, b: (torch.sigmoid(a), b),
                code="torch.sigmoid({x})",
            ),
        )
        return Verdict(
            diagnosis="bce-range",
            message=f"{found.shown} wants probabilities, and the outputs go from {outputs[0]:.3g} to {outputs[1]:.3g}: they are logits",
            arithmetic="legal are 0 to 1"
            + (f"; {quote(last)} makes them, with no sigmoid after it" if last is not None else ""),
            repairs=working(*repairs),
            tensors=(found.input, found.target),
            raised_in=found.shown,
        )
    if labels is not None and not (labels[0] >= 0 and labels[1] <= 1):
        scale = lambda a, b: (a, (b - labels[0]) / (labels[1] - labels[0] or 1))  # noqa: E731
        title = (
            f"bring the targets to 0 and 1: targets / {labels[1]:g}"
            if labels[0] == 0
            else "bring the targets to 0 and 1"
        )
        return Verdict(
            diagnosis="label-range",
            message=f"{found.shown} wants targets between 0 and 1, and they go from {labels[0]:g} to {labels[1]:g}",
            repairs=working(repaired(found, name, title, scale)),
            tensors=(found.input, found.target),
            raised_in=found.shown,
        )
    return None


def _output_range(_crash: Crash, found: Loss, name: str) -> Verdict | None:
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
        repairs=working(
            repaired(
                changed,
                name,
                "pass F.softplus(var), or the exponential of a log-variance",
                lambda a, b: (a, b),
            )
        ),
        tensors=(found.input, found.target, var),
        raised_in=found.shown,
    )


# -- anything else -----------------------------------------------------------------------------------------------------------


def _devices(_crash: Crash, found: Loss, name: str) -> Verdict | None:
    x, target = found.input, found.target
    if x.device == target.device:
        return None
    title = f"move the targets: targets.to({str(x.device)!r})"
    return Verdict(
        diagnosis="device-mismatch",
        message=f"{found.shown} was given an output on {x.device} and targets on {target.device}",
        arithmetic=f"output {tuple(x.shape)} on {x.device}, targets {tuple(target.shape)} on {target.device}",
        repairs=working(
            repaired(
                found, name, title, lambda a, b: (a, _on_device_of(a, b)), code=".to(output.device)"
            )
        ),
        tensors=(x, target),
        raised_in=found.shown,
    )


def _on_device_of(x: Tensor, target: Tensor) -> Tensor:
    return (
        torch.zeros(target.shape, dtype=target.dtype, device=x.device)
        if target.is_meta
        else target.to(x.device)
    )


def _merged_batch(crash: Crash, found: Loss, _name: str) -> Verdict | None:
    """The model has lost or multiplied the batch on the way."""
    case = crash if crash.trace.calls else None
    x, target = found.input, found.target
    if (
        case is None
        or case.batch is None
        or not target.dim()
        or target.shape[0] != case.batch
        or (x.dim() and x.shape[0] == case.batch)
    ):
        return None
    for call in case.trace.calls:
        name = call.kind.rpartition(".")[2]
        if (
            not call.inputs
            or not call.outputs
            or name
            not in ("view", "reshape", "flatten", "squeeze", "Flatten", "permute", "transpose")
        ):
            continue
        before, after = call.inputs[0].shape, call.outputs[0].shape
        if before[:1] == (case.batch,) and after[:1] != (case.batch,):
            squeezed = name == "squeeze"
            owner = call.fqn if call.fqn is not None else case.find_module_above(call.parent)
            return Verdict(
                diagnosis="squeeze-batch" if squeezed else "batch-merge-view",
                module=owner,
                message=f"{case.describe_call(call)} does not keep one row for each sample: {before} became {after}",
                arithmetic=f"{case.batch} samples went in, the output is {tuple(x.shape)}, the targets {tuple(target.shape)}",
                repairs=flattened_instead(crash, case, call, found),
                tensors=(x, target),
                raised_in=found.shown,
            )
    return None


def _shapes(found: Loss) -> Verdict:
    tensors = tuple(v for v in found.arguments.values() if isinstance(v, Tensor))
    shapes = ", ".join(
        f"{name} {tuple(v.shape)} {v.dtype}"
        for name, v in found.arguments.items()
        if isinstance(v, Tensor)
    )
    return Verdict(
        diagnosis="shape-mismatch",
        message=f"the cause is not known; {found.shown} raised when it was given {shapes}",
        tensors=tensors,
        raised_in=found.shown,
    )


def _unknown(crash: Crash) -> Verdict:
    values = {
        name: v
        for name, v in read_locals(crash.error).items()
        if any(isinstance(t, Tensor) for t in tree_leaves(v))
    }
    tensors = [(name, v) for name, v in values.items() if isinstance(v, Tensor)][:6]
    shapes = ", ".join(
        f"{name} {tuple(v.shape)} {str(v.dtype).removeprefix('torch.')}" for name, v in tensors
    )
    return Verdict(
        diagnosis="unknown",
        message="the cause is not known; the tensors at hand were " + (shapes or "none"),
        tensors=tuple(v for _, v in tensors),
    )
