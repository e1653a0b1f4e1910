import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from cnnprobe.crash.cause import STRONG, USUAL, Candidates, Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.losses import FailingLoss, list_comparisons, suspect_loss
from cnnprobe.crash.facts.words import count_of

_PROGRAM = """
  model = nn.Linear(6, 1)
  def run(model):
      labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
-     nn.BCEWithLogitsLoss()(model(torch.randn(5, 6)), labels).backward()
+     nn.BCEWithLogitsLoss()(model(torch.randn(5, 6)), labels.unsqueeze(1)).backward()
"""
EXAMPLE = Example(_PROGRAM, repair="pass targets.unsqueeze(1)")


@cause("CP073", "target-shape", EXAMPLE, stage=("loss", "backward"), prior=730)
def target_shape(crash: Crash) -> Suspects:
    """The targets have another shape than the loss expects for this output.

    Why it happens: a loss of classes expects one index for each sample or pixel, without a dim
    of channels or one-hot rows; a loss that compares values expects the shape of the output.
    What to do: squeeze, unsqueeze or transpose the targets, or flatten the output.
    Known exceptions: mse_loss and its like broadcast, with a warning, where they can.
    Source: torch.nn.CrossEntropyLoss and torch.nn.BCEWithLogitsLoss, "Shape".
    """
    for found, x, target in list_comparisons(crash):
        if not x.is_floating_point():  # see target-dtype
            continue
        if found.compared:
            yield from _judge_pairs(found)
        elif found.takes_classes:
            yield from _judge_classes(crash, found)
        elif found.is_own and x.shape != target.shape:
            text = f"the targets {tuple(target.shape)} do not fit the output {tuple(x.shape)}"
            candidates = (*_fit_values(found), *_encode(found))
            yield suspect_loss(found, f"{text} in {found.shown}", candidates, weight=USUAL)
        elif found.needs_one_shape:
            text = f"targets of the output's shape {tuple(x.shape)}, but got {tuple(target.shape)}"
            candidates = (*_fit_values(found), *_encode(found))
            yield suspect_loss(found, f"{found.shown} expects {text}", candidates)


def _judge_classes(crash: Crash, found: FailingLoss) -> Suspects:
    x, target, wanted = found.input, found.target, found.class_shape
    if target.dtype not in (torch.long, torch.uint8) or tuple(target.shape) == wanted:
        return
    text = f"targets of shape {wanted} for an output of shape {tuple(x.shape)}"
    if target.dim() == 1 == len(wanted):
        text = f"{count_of(x.shape[0], 'target')}, one for each sample"
    is_colour = x.dim() == 4 == target.dim() and 3 in target.shape[1:]
    message = f"{found.shown} expects {text}, but got {tuple(target.shape)}"
    module = crash.find_last_layer() if x.dim() > 2 and target.dim() == 1 else None
    advice = ("map each colour of the mask to the index of its class",) if is_colour else ()
    yield suspect_loss(found, message, _fit_classes(crash, found), module=module, advice=advice)


def _fit_classes(crash: Crash, found: FailingLoss) -> Candidates:
    """One class index for each sample or pixel."""
    x, target = found.input, found.target
    for dim in (d for d in range(target.dim()) if target.shape[d] == 1 and x.dim() > 1):
        if (*target.shape[:dim], *target.shape[dim + 1 :]) == found.class_shape:
            yield propose(found.give(f"targets.squeeze({dim})"))
            return
    if x.dim() == 2 and target.dim() > 1 and target.numel() == x.shape[0]:
        yield propose(found.give("targets.flatten()"))
    if target.shape == x.shape:
        title = "pass targets.argmax(1): class indices, not one-hot"
        yield propose(found.give("targets.argmax(1)", title=title), weight=STRONG)
        title = "pass targets.float(), as class probabilities"
        yield propose(found.give("targets.float()", title=title))
    for title, code in _turn_output(crash, x, target):
        yield propose(found.give(code, title=title.format(code)))
    views = x.shape[0] // max(target.shape[0], 1) if x.dim() == 2 and target.dim() == 1 else 0
    if views > 1 and views * target.shape[0] == x.shape[0] == crash.batch:
        code = f"targets.repeat({views})"
        title = f"pass {code}: the model was given {views} rows for each target, one after another"
        yield propose(found.give(code, title=title))
    if x.dim() == 1 and target.dim() == 1:
        title = "give the output its batch dim back: output.unsqueeze(0)"
        yield propose(found.give("output.unsqueeze(0)", title=title), weight=STRONG)


def _turn_output(crash: Crash, x: Tensor, target: Tensor) -> Iterator[tuple[str, str]]:
    """The output with its classes on dim 1, or with one row for each sample."""
    if x.dim() > 2 and x.shape[:-1] == target.shape:
        code = "output.transpose(1, 2)" if x.dim() == 3 else "output.movedim(-1, 1)"
        yield "pass {}: the classes on dim 1", code
    if x.dim() < 3 or target.dim() != 1:
        return
    last = crash.modules.get(crash.find_last_layer() or "")
    if x.shape[2:].numel() == 1:
        yield "flatten the output: {}", "torch.flatten(output, 1)"
    elif isinstance(last, nn.Linear) and last.out_features == x.shape[-1] and x.dim() == 3:
        yield "pass {}: one row for each sample", "output[:, -1]"
        yield "pass {}: one row for each sample", "output.mean(1)"
    else:
        yield "pool the output: {}", "output.flatten(2).mean(-1)"


def _fit_values(found: FailingLoss) -> Candidates:
    """The same values in another shape: a dim of 1 more or less, or dims in another order."""
    x, target = found.input, found.target
    more = "" if target.is_floating_point() else ".float()"
    if x.numel() != target.numel():
        return
    if [n for n in x.shape if n != 1] == [n for n in target.shape if n != 1]:
        how = {1: "unsqueeze(1)", -1: "squeeze(1)"}.get(x.dim() - target.dim(), "")
        if how.startswith("squeeze") and target.shape[1] != 1:
            how = ""
        yield propose(found.give(f"targets.{how or f'reshape({tuple(x.shape)})'}{more}"))
    elif x.shape[0] == target.shape[0]:
        orders = [
            (0, *order)
            for order in itertools.permutations(range(1, target.dim()))
            if tuple(target.shape[i] for i in order) == tuple(x.shape[1:])
        ]
        if orders:
            code = f"targets.permute{orders[0]}{more}"
            title = f"pass {code}: the dims of the output are in another order"
            yield propose(found.give(code, title=title))
        elif target.dim() == 2:
            yield propose(found.give("torch.flatten(output, 1)"))
        elif x.dim() == 2:
            yield propose(found.give(f"torch.flatten(targets, 1){more}"))


def _encode(found: FailingLoss) -> Candidates:
    """Class indices as one-hot rows or maps."""
    x, target = found.input, found.target
    if x.dim() < 2 or tuple(target.shape) != found.class_shape or not _is_index(x, target):
        return
    turned = ".movedim(-1, 1)" if x.dim() > 2 else ""
    long = ".long()" if target.is_floating_point() else ""
    yield propose(found.give(f"F.one_hot(targets{long}, {x.shape[1]}){turned}.float()"))
    if found.is_own:
        return
    title = "use nn.CrossEntropyLoss for class indices"
    if found.name == "binary_cross_entropy":
        title += ", without the sigmoid or softmax before it"
    if long:
        title += ", and pass targets.long() to it"
        yield propose(found.give("targets.long()", title=title, other="cross_entropy"))
        return
    yield propose(found.give("nn.CrossEntropyLoss()", title=title, other="cross_entropy"))


def _is_index(x: Tensor, target: Tensor) -> bool:
    """Whether targets are class numbers: whole, and below the number of classes."""
    if not target.is_floating_point():
        return True
    if target.is_meta or not target.numel():
        return False
    is_whole = bool((target == target.round()).all())
    return is_whole and float(target.min()) >= 0 and float(target.max()) < x.shape[1]


def _judge_pairs(found: FailingLoss) -> Suspects:
    """A label for each pair, or for each value of two outputs."""
    target, shapes = found.target, {tuple(t.shape) for t in found.compared}
    if len(shapes) > 1:
        return
    shape = shapes.pop()
    is_pair = found.name == "cosine_embedding_loss"
    wanted = shape[:-1] if is_pair else shape
    if tuple(target.shape) == wanted:
        return
    is_column = target.dim() == len(wanted) + 1 and target.shape[1] == 1
    usual = "unsqueeze(1)" if target.dim() == len(wanted) - 1 else f"reshape({wanted})"
    how = "squeeze(1)" if is_column else usual
    fits = target.numel() == math.prod(wanted)
    candidates = [propose(found.give(f"targets.{how}"))] if fits else []
    each = "pair" if is_pair else "value"
    text = f"one label for each {each}, of shape {wanted}, but got {tuple(target.shape)}"
    yield suspect_loss(found, f"{found.shown} expects {text}", candidates)
