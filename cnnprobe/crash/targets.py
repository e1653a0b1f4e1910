"""Class indices that a loss refuses: their dtype, their shape, their range; outputs and targets swapped."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe.crash.facts.words import quote
from cnnprobe.crash.loss_trials import repaired, working
from cnnprobe.crash.training import Crash, Loss, Verdict, range_of


def swapped(_crash: Crash, found: Loss, name: str) -> Verdict | None:
    """The arguments of the loss in the wrong order."""
    x, target = found.input, found.target
    if x.is_floating_point() or not target.is_floating_point() or target.dim() < x.dim():
        return None
    return Verdict(
        diagnosis="target-dtype",
        message=f"the arguments of {found.shown} are swapped: the output comes first, then the targets",
        arithmetic=f"first {tuple(x.shape)} {x.dtype}, second {tuple(target.shape)} {target.dtype}",
        repairs=working(
            repaired(found, name, "call it as loss(output, targets)", lambda a, b: (b, a))
        ),
        tensors=(x, target),
        raised_in=found.shown,
    )


def class_dtype(_crash: Crash, found: Loss, name: str) -> Verdict | None:
    """Class indices that are no whole numbers of 64 bits."""
    x, target = found.input, found.target
    if target.dtype is torch.long or (
        target.is_floating_point() and target.shape == x.shape and name == "cross_entropy"
    ):
        return None
    shape = "" if target.dim() != x.dim() or x.dim() < 2 else " (N, 1)"
    repairs = [
        repaired(found, name, "pass targets.long()", lambda a, b: (a, b.long()), code="{x}.long()")
    ]
    if target.dim() == x.dim() and target.shape != x.shape:
        repairs.append(
            repaired(
                found, name, "pass targets.squeeze(1).long()", lambda a, b: (a, b.squeeze(1).long())
            )
        )
    if target.shape == x.shape:
        repairs.append(
            repaired(
                found,
                name,
                "pass targets.float(), as class probabilities",
                lambda a, b: (a, b.to(a.dtype)),
            )
        )
        repairs.append(
            repaired(found, name, "pass targets.argmax(1)", lambda a, b: (a, b.argmax(1)))
        )
    return Verdict(
        diagnosis="target-dtype",
        message=f"{found.shown} wants class indices of dtype int64, and the targets are {str(target.dtype).removeprefix('torch.')}{shape}",
        arithmetic=f"output {tuple(x.shape)}, targets {tuple(target.shape)} {target.dtype}",
        repairs=working(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def class_shape(crash: Crash, found: Loss, name: str) -> Verdict | None:
    """Class indices of another shape than the output asks for."""
    x, target = found.input, found.target
    wanted = (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()
    if tuple(target.shape) == tuple(wanted) or (
        target.is_floating_point() and target.shape == x.shape
    ):
        return None
    repairs = []
    if target.dim() == x.dim() and target.shape[1:2] == (1,):
        repairs.append(
            repaired(
                found,
                name,
                "pass targets.squeeze(1)",
                lambda a, b: (a, b.squeeze(1)),
                code="{x}.squeeze(1)",
            )
        )
    if target.shape == x.shape:
        repairs.append(
            repaired(
                found,
                name,
                "pass targets.argmax(1): class indices, not one-hot",
                lambda a, b: (a, b.argmax(1)),
            )
        )
        repairs.append(
            repaired(
                found,
                name,
                "pass targets.float(), as class probabilities",
                lambda a, b: (a, b.to(a.dtype)),
            )
        )
    if x.dim() > 2 and target.dim() == 1 and x.shape[2:].numel() == 1:
        repairs.append(
            repaired(
                found,
                name,
                "flatten the output: torch.flatten(output, 1)",
                lambda a, b: (a.flatten(1), b),
            )
        )
    elif x.dim() > 2 and target.dim() == 1:
        repairs.append(
            repaired(
                found,
                name,
                "pool the output: output.mean((-2, -1))",
                lambda a, b: (a.flatten(2).mean(-1), b),
            )
        )
    if x.dim() == 1 and target.dim() == 1:
        repairs.append(
            repaired(
                found,
                name,
                "give the output its batch axis back: output.unsqueeze(0)",
                lambda a, b: (a[None], b),
            )
        )
    if x.dim() == 3 and target.dim() == 2 and x.shape[:2] == target.shape:
        repairs.append(
            repaired(
                found,
                name,
                "pass output.transpose(1, 2): the classes on axis 1",
                lambda a, b: (a.transpose(1, 2), b),
            )
        )
    if x.dim() == target.dim() + 1 and x.dim() > 3:
        resize = lambda a, b: (F.interpolate(a, size=tuple(b.shape[1:])), b)  # noqa: E731
        repairs.append(
            repaired(
                found,
                name,
                "bring the output to the targets' size: F.interpolate(output, size=...)",
                resize,
            )
        )
    return Verdict(
        diagnosis="target-shape",
        message=f"{found.shown} wants targets of shape {tuple(wanted)} for an output of {tuple(x.shape)}, and they are {tuple(target.shape)}",
        arithmetic=f"output {tuple(x.shape)}, targets {tuple(target.shape)}",
        repairs=working(*repairs),
        module=crash.find_last_layer() if x.dim() > 2 and target.dim() == 1 else None,
        tensors=(x, target),
        raised_in=found.shown,
    )


def label_range(crash: Crash, found: Loss, name: str) -> Verdict | None:
    """Class indices that the output has no class for."""
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
    last = crash.find_last_layer()
    head = crash.modules.get(last) if last is not None else None
    if low == 1 and high == classes:
        repairs.append(
            repaired(
                found,
                name,
                "start the labels at 0: targets - 1",
                lambda a, b: (a, b - 1),
                code="{x} - 1",
            )
        )
    if low >= 0 and isinstance(head, nn.Linear | nn.Conv2d):
        argument = "out_features" if isinstance(head, nn.Linear) else "out_channels"
        title = f"set {argument}={high + 1} in {quote(last or '')} (now {classes})"
        widen = (  # noqa: E731
            lambda a, b: (
                torch.cat([a, a.new_zeros((a.shape[0], high + 1 - classes, *a.shape[2:]))], 1),
                b,
            )
        )
        repairs.append(repaired(found, name, title, widen, code=f"{argument}={high + 1}"))
    strange = counted[counted >= classes].unique()
    present = counted.unique()
    others = int(
        (present < classes).sum()
    )  # of the labels that are there, how many could be right as they are
    if low >= 0 and present.numel() == classes > 1 >= others and not (low == 1 and high == classes):
        values = ", ".join(map(str, present.tolist()[:8])) + (", ..." if classes > 8 else "")
        title = f"number the labels {values} from 0 to {classes - 1}" + (
            f": targets // {high}" if classes == 2 and low == 0 else ""
        )
        repairs.insert(
            0,
            repaired(
                found,
                name,
                title,
                lambda a, b: (a, torch.searchsorted(present, b)),
                code=f"{{x}} // {high}" if classes == 2 else "",
            ),
        )
    elif strange.numel() == 1 and low >= 0 and high > classes:
        title = (
            f"leave label {high} out, if it marks what is not to be counted: ignore_index={high}"
        )
        kept = lambda a, b: (a, b.masked_fill(b == high, int(ignored)))  # noqa: E731
        repairs.insert(0, repaired(found, name, title, kept, code=f"ignore_index={high}"))
    if low < 0:
        title = f"leave these labels out: ignore_index={low}"
        repairs.append(
            repaired(
                found,
                name,
                title,
                lambda a, b: (a, b.masked_fill(b < 0, -100)),
                code=f"ignore_index={low}",
            )
        )
    outside = int(((counted < 0) | (counted >= classes)).sum())
    return Verdict(
        diagnosis="label-range",
        module=last if low == 0 and not (strange.numel() == 1 and high > classes) else None,
        message=f"labels go from {low} to {high}, and the output has {classes} classes: legal are 0 to {classes - 1}",
        arithmetic=f"{outside} of {counted.numel()} labels are outside"
        + (f"; the classes come from {quote(last)}" if last is not None else ""),
        repairs=working(*repairs),
        tensors=(x, target),
        raised_in=found.shown,
    )


def class_weights(_crash: Crash, found: Loss, _name: str) -> Verdict | None:
    """A weight for another number of classes."""
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
