"""Targets of another dtype than the loss expects, and arguments in the wrong order."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.losses import Loss, list_losses
from cnnprobe.crash.suspect import POSSIBLE, STRONG, USUAL, Candidate, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 4)


    def run(model):
        labels = torch.tensor([0.0, 1.0, 2.0, 3.0, 1.0])
        F.cross_entropy(model(torch.randn(5, 6)), labels).backward()
    """,
    old="torch.randn(5, 6)), labels)",
    new="torch.randn(5, 6)), labels.long())",
    repair="pass targets.long()",
)


@cause(code="CP072", name="target-dtype", stage=("loss", "backward"), prior=750, examples=EXAMPLE)
def target_dtype(crash: Crash) -> Iterator[Suspect]:
    """The targets have another dtype than the loss expects.

    Why it happens: class indices must be int64, but numpy or a table made them float or int32;
    the targets of a loss that compares values must have the dtype of the output.
    What to do: convert the targets with .long() or .float(). The output is the first argument.
    Known exceptions: cross_entropy takes floating targets of the output's shape as probabilities.
    Source: torch.nn.CrossEntropyLoss and torch.nn.BCELoss, "Shape".
    """
    for found in list_losses(crash):
        x, target = found.input, found.target
        if not isinstance(x, Tensor) or not isinstance(target, Tensor):
            continue
        if not x.is_floating_point() and not target.is_floating_point() and not found.is_own:
            yield _suspect_indices(found)
        elif _is_swapped(found):
            yield _suspect_order(found)
        elif found.takes_classes:
            yield from _judge_classes(found)
        elif (found.is_elementwise and not found.needs_one_shape) or found.is_own:
            yield from _judge_values(found)


def _is_swapped(found: Loss) -> bool:
    x, target = found.input, found.target
    if found.takes_classes:
        is_integer = not x.is_floating_point() and target.is_floating_point()
        return bool(is_integer and target.dim() >= x.dim())
    is_data = found.is_elementwise and not x.requires_grad
    return bool(is_data and target.grad_fn is not None and x.shape == target.shape)


def _suspect_indices(found: Loss) -> Suspect:
    return Suspect(
        module=None,
        message=f"{found.shown} expects the output of the model, but got {_show(found.input)}:"
        " integers, as argmax gives them",
        arithmetic=f"first {_show(found.input)}, second {_show(found.target)}",
        advice=("pass the output itself to the loss, not its argmax",),
        weight=STRONG,
        tensors=(found.input, found.target),
        raised_in=found.shown,
    )


def _suspect_order(found: Loss) -> Suspect:
    x, target = found.input, found.target
    swap = found.change(
        "", lambda a, b: (b, a.to(b.dtype) if found.is_elementwise else a.long()),
        title="call it as loss(output, targets)",
    )  # fmt: skip
    return Suspect(
        module=None,
        message=f"the arguments of {found.shown} are swapped: the output comes first, then the targets",
        arithmetic=f"first {_show(x)}, second {_show(target)}",
        candidates=(propose(swap),),
        weight=STRONG,
        tensors=(x, target),
        raised_in=found.shown,
    )


def _show(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {_name(tensor.dtype)}"


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _judge_classes(found: Loss) -> Iterator[Suspect]:
    x, target = found.input, found.target
    is_index = target.dtype in (torch.long, torch.uint8)
    are_probabilities = target.is_floating_point() and target.shape == x.shape
    if is_index or (are_probabilities and found.name == "cross_entropy"):
        return
    is_column = target.dim() == x.dim() > 1 and target.shape != x.shape
    yield Suspect(
        module=None,
        message=f"{found.shown} expects class indices of dtype int64, but the targets are"
        f" {_name(target.dtype)}" + (f" {tuple(target.shape)}" if is_column else ""),
        arithmetic=f"output {tuple(x.shape)}, targets {_show(target)}",
        candidates=tuple(_index(found, is_column=is_column)),
        weight=STRONG,
        tensors=(x, target),
        raised_in=found.shown,
    )


def _index(found: Loss, *, is_column: bool) -> Iterator[Candidate]:
    yield propose(found.change("targets.long()", lambda x, t: (x, t.long())), weight=STRONG)
    if is_column:
        squeeze = found.change("targets.squeeze(1).long()", lambda x, t: (x, t.squeeze(1).long()))
        yield propose(squeeze)
    if found.target.shape == found.input.shape:
        title = "pass targets.float(), as class probabilities"
        change = found.change("targets.float()", lambda x, t: (x, t.to(x.dtype)), title=title)
        yield propose(change)
        yield propose(found.change("targets.argmax(1)", lambda x, t: (x, t.argmax(1))))


def _judge_values(found: Loss) -> Iterator[Suspect]:
    """Targets of the output's dtype, or class indices where an own loss looks up with them."""
    x, target = found.input, found.target
    if not x.is_floating_point() or (x.dtype == target.dtype and not found.is_own):
        return
    code = "targets.float()" if x.dtype is torch.float32 else f"targets.to({x.dtype})"
    expected = _name(x.dtype)
    change = found.change(code, lambda a, b: (a, b.to(a.dtype)))
    if found.name == "multilabel_margin_loss" or (found.is_own and target.is_floating_point()):
        expected = "int64"
        change = found.change("targets.long()", lambda a, b: (a, b.long()))
    yield Suspect(
        module=None,
        message=f"{found.shown} expects targets of dtype {expected}, but they are {_name(target.dtype)}",
        arithmetic=f"output {_show(x)}, targets {_show(target)}",
        candidates=(propose(change, weight=POSSIBLE if found.is_own else USUAL),),
        weight=USUAL if found.is_own else STRONG,
        needs_proof=True,
        tensors=(x, target),
        raised_in=found.shown,
    )
