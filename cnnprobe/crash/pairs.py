"""Losses that compare two or three outputs with each other: outputs of different sizes, labels of another shape than one a pair."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from cnnprobe.crash.head_trials import of_one_size
from cnnprobe.crash.loss_trials import working
from cnnprobe.crash.training import Crash, Loss, Verdict
from cnnprobe.explanation import Repair

_COMPARED = (
    ("input1", "input2"),
    ("x1", "x2"),
    ("anchor", "positive", "negative"),
)  # as torch names them


def compared(found: Loss) -> list[Tensor]:
    """The outputs that a loss compares with each other; none where it is no such loss."""
    given = [
        [found.arguments.get(name) for name in names]
        for names in _COMPARED
        if names[0] in found.arguments
    ]
    tensors = [t for t in given[0] if isinstance(t, Tensor)] if given else []
    return tensors if given and len(tensors) == len(given[0]) else []


def explain_pairs(crash: Crash, found: Loss, name: str) -> Verdict | None:
    """What is wrong with the arguments of such a loss; None where it is another one, or nothing is."""
    outputs = compared(found)
    if not outputs:
        return None
    shapes = [tuple(t.shape) for t in outputs]
    if len(set(shapes)) > 1:
        repairs = tuple(of_one_size(crash, Counter(shapes).most_common(1)[0][0]))
        return Verdict(
            diagnosis="shape-mismatch",
            module=repairs[0].module if repairs else None,
            repairs=repairs,
            message=f"{found.shown} compares outputs of one shape, and they are {' and '.join(map(str, dict.fromkeys(shapes)))}",
            arithmetic="; ".join(map(str, shapes)),
            tensors=tuple(outputs),
            raised_in=found.shown,
        )
    wanted, target = shapes[0][:-1] if "cosine" in name.lower() else shapes[0], found.target
    if not isinstance(target, Tensor) or tuple(target.shape) == wanted:
        return None
    relabelled = []
    if target.numel() == torch.Size(wanted).numel():
        how = {1: "squeeze(1)", -1: "unsqueeze(1)"}.get(
            target.dim() - len(wanted), f"reshape({wanted})"
        )
        how = how if how != "squeeze(1)" or target.shape[1] == 1 else f"reshape({wanted})"
        relabelled.append(_tried(found, name, outputs, target.reshape(wanted), how))
    each = "one label for each pair" if len(wanted) < len(shapes[0]) else "one label for each value"
    return Verdict(
        diagnosis="target-shape",
        message=f"{found.shown} wants {each}, of shape {wanted}, and the targets are {tuple(target.shape)}",
        arithmetic=f"outputs {shapes[0]}, targets {tuple(target.shape)}",
        repairs=working(*relabelled),
        tensors=(*outputs, target),
        raised_in=found.shown,
    )


def _tried(found: Loss, name: str, outputs: list[Tensor], target: Tensor, how: str) -> Repair:
    loss = found.module if found.module is not None else getattr(F, name)
    title, code = f"pass targets.{how}", f".{how}"
    try:
        with torch.no_grad():
            value = loss(*(t.detach() for t in outputs), target)
    except (RuntimeError, ValueError, TypeError) as error:
        return Repair(title=title, code=code, tried=f"tried: {type(error).__name__} is raised then")
    shown = (
        f" {float(value):.4g}"
        if value.numel() == 1 and not value.is_meta
        else f" of shape {tuple(value.shape)}"
    )
    return Repair(
        title=title,
        code=code,
        works=True,
        plausible=True,
        tried=f"tried: the loss passes and gives{shown}",
    )
