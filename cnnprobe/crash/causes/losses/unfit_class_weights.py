from typing import Any

import torch
from torch import Tensor

from cnnprobe.crash.cause import STRONG, USUAL, Candidates, Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.heads import refit_head
from cnnprobe.crash.facts.losses import (
    FailingLoss,
    is_broadcast,
    list_losses,
    range_of,
    suspect_loss,
)

_PROGRAM = """
  model = nn.Linear(6, 4)
  def run(model):
-     loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 2.0]))
+     loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 2.0, 1.0]))
      loss(model(torch.randn(5, 6)), torch.tensor([0, 1, 2, 3, 1])).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="give weight 4 entries, one for each class (now 3)")


@cause("CP076", "unfit-class-weights", EXAMPLE, stage="loss", family="shape-mismatch", prior=700)
def unfit_class_weights(crash: Crash) -> Suspects:
    """The class weights of a loss do not fit its output in number, dtype or device.

    Why it happens: they were computed for another number of classes, by numpy in float64, or
    stayed on the CPU when the model was moved.
    What to do: give one weight a class, in the output's dtype: weight.float().to(device).
    Known exceptions: the weights of binary losses broadcast over the output.
    Source: torch.nn.CrossEntropyLoss, weight; torch.nn.BCEWithLogitsLoss, pos_weight.
    """
    for found in list_losses(crash):
        x = found.input
        if not isinstance(x, Tensor) or not x.dim():
            continue
        is_known = found.takes_classes or found.is_elementwise
        own = [name for name in found.arguments if name.startswith("self.")]
        for name in ("weight", "pos_weight") if is_known else own:
            weight = found.arguments.get(name)
            if isinstance(weight, Tensor):
                yield from _judge(crash, found, name, weight)


def _judge(crash: Crash, found: FailingLoss, name: str, weight: Tensor) -> Suspects:
    x = found.input
    classes = x.shape[1] if x.dim() > 1 else x.shape[0]
    is_vector = found.takes_classes or found.is_own
    is_odd = weight.numel() != classes if is_vector else not _fits(weight, x)
    candidates: Candidates = iter(())
    if is_odd:
        text = f"has {weight.numel()} entries, but the output has {classes} classes"
        if not is_vector:
            text = f"{tuple(weight.shape)} does not broadcast over the output {tuple(x.shape)}"
        candidates = _recount(crash, found, name, weight, classes)
    elif weight.device != x.device:
        text = f"is on {weight.device}, but the output on {x.device}"
        candidates = _convert(found, name, f"to({str(x.device)!r})", device=x.device)
    elif weight.dtype != x.dtype:
        text = f"is {weight.dtype}, but the output {x.dtype}".replace("torch.", "")
        how = "float()" if x.dtype is torch.float32 else f"to({x.dtype})"
        candidates = _convert(found, name, how, dtype=x.dtype)
    else:
        return
    yield suspect_loss(
        found,
        f"{name} of {found.shown} {text}",
        candidates,
        arithmetic=f"{name} {tuple(weight.shape)}, output {tuple(x.shape)}",
        needs_proof=found.is_own or not is_odd,
        tensors=(x, weight),
    )


def _fits(weight: Tensor, x: Tensor) -> bool:
    return weight.dim() <= x.dim() and is_broadcast(weight.shape, x.shape)


def _convert(found: FailingLoss, name: str, how: str, **to: Any) -> Candidates:
    moved = found.arguments[name].detach()
    moved = torch.ones_like(moved, **to) if moved.is_meta else moved.to(**to)
    yield propose(found.give(f"{name}.{how}", options={name: moved}))


def _recount(
    crash: Crash, found: FailingLoss, name: str, weight: Tensor, classes: int
) -> Candidates:
    """As many weights as classes, or a head with as many classes as weights."""
    entries, ones = weight.detach().flatten(), weight.new_ones(classes)
    if entries.numel() == classes:  # of maps: they belong to dim 1
        size = (classes, *[1] * (found.input.dim() - 2))
        code = f"{name}.view{size}"
        yield propose(found.give(code, options={name: entries.reshape(size)}), weight=STRONG)
        return
    fitted = torch.cat([entries, ones])[:classes]
    if found.is_elementwise and found.input.dim() > 2:
        fitted = fitted.reshape(classes, *[1] * (found.input.dim() - 2))
    title = f"give {name} {classes} entries, one for each class (now {weight.numel()})"
    labels = range_of(found.target)
    is_head = labels is not None and found.takes_classes and labels[1] >= classes
    yield propose(found.give("", title=title, options={name: fitted}), weight=USUAL)
    head = refit_head(crash, found, weight.numel()) if found.takes_classes else []
    if head and weight.numel() > 1:
        yield propose(*head, weight=STRONG if is_head else USUAL)
