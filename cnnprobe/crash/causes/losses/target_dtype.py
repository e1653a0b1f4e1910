from dataclasses import replace

import torch
from torch import Tensor

from cnnprobe.crash.cause import Crash, Example, Suspect, Suspects, cause, propose
from cnnprobe.crash.facts.losses import FailingLoss, list_comparisons, suspect_loss
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
      labels = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0])
-     F.cross_entropy(model(torch.randn(5, 6)), labels).backward()
+     F.cross_entropy(model(torch.randn(5, 6)), labels.long()).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="pass targets.long()")


@cause("CP072", "target-dtype", EXAMPLE, stage=("loss", "backward"), prior=750)
def target_dtype(crash: Crash) -> Suspects:
    """The targets have another dtype than the loss expects.

    Why it happens: class indices must be int64, but numpy or a table made them float or int32;
    the targets of a loss that compares values must have the dtype of the output.
    What to do: convert the targets with .long() or .float(). The output is the first argument.
    Known exceptions: cross_entropy takes floating targets of the output's shape as probabilities.
    Source: torch.nn.CrossEntropyLoss and torch.nn.BCELoss, "Shape".
    """
    for found, x, target in list_comparisons(crash):
        if not x.is_floating_point() and not target.is_floating_point() and not found.is_own:
            text = f"expects the output of the model, but got {_show(x)}: integers, as of argmax"
            advice = ("pass the output itself to the loss, not its argmax",)
            yield suspect_loss(found, f"{found.shown} {text}", advice=advice)
        elif _is_swapped(found):
            yield _suspect_order(found)
        elif found.takes_classes:
            yield from _judge_classes(found)
        elif (found.is_elementwise and not found.needs_one_shape) or found.is_own:
            yield from _judge_values(found)


def _is_swapped(found: FailingLoss) -> bool:
    x, target = found.input, found.target
    if found.takes_classes:
        is_integer = not x.is_floating_point() and target.is_floating_point()
        return bool(is_integer and target.dim() >= x.dim())
    is_data = found.is_elementwise and not x.requires_grad
    return bool(is_data and target.grad_fn is not None and x.shape == target.shape)


def _suspect_order(found: FailingLoss) -> Suspect:
    text = f"the arguments of {found.shown} are swapped: the output comes first, then the targets"
    arithmetic = f"first {_show(found.input)}, second {_show(found.target)}"
    give = found.give("", title="call it as loss(output, targets)")
    swap = replace(give, function=lambda x, target: (target, x))
    return suspect_loss(found, text, [propose(swap)], arithmetic=arithmetic)


def _show(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {_name(tensor.dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _judge_classes(found: FailingLoss) -> Suspects:
    x, target = found.input, found.target
    is_index = target.dtype in (torch.long, torch.uint8)
    are_probabilities = target.is_floating_point() and target.shape == x.shape
    if is_index or (are_probabilities and found.name == "cross_entropy"):
        return
    text = f"class indices of dtype int64, but the targets are {_show(target)}"
    candidates = [propose(found.give("targets.long()"), weight=STRONG)]
    if target.shape == x.shape:
        title = "pass targets.float(), as class probabilities"
        candidates.append(propose(found.give("targets.float()", title=title)))
        candidates.append(propose(found.give("targets.argmax(1)")))
    elif target.dim() == x.dim() > 1:
        candidates.append(propose(found.give("targets.squeeze(1).long()")))
    yield suspect_loss(found, f"{found.shown} expects {text}", candidates)


def _judge_values(found: FailingLoss) -> Suspects:
    """Targets of the output's dtype, or class indices where an own loss looks up with them."""
    x, target = found.input, found.target
    if not x.is_floating_point() or (x.dtype == target.dtype and not found.is_own):
        return
    is_float = x.dtype is torch.float32
    code, expected = "targets.float()" if is_float else f"targets.to({x.dtype})", _name(x.dtype)
    if found.name == "multilabel_margin_loss" or (found.is_own and target.is_floating_point()):
        code, expected = "targets.long()", "int64"
    yield suspect_loss(
        found,
        f"{found.shown} expects targets of dtype {expected}, but they are {_name(target.dtype)}",
        [propose(found.give(code), weight=POSSIBLE if found.is_own else USUAL)],
        arithmetic=f"output {_show(x)}, targets {_show(target)}",
        weight=USUAL if found.is_own else STRONG,
        needs_proof=True,
    )
