"""Targets of another shape than the loss expects for its output."""

import functools
import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.losses import Loss, list_losses
from cnnprobe.crash.facts.words import count_of
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose

EXAMPLE = Example(
    """
    model = nn.Linear(6, 1)


    def run(model):
        labels = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0])
        nn.BCEWithLogitsLoss()(model(torch.randn(5, 6)), labels).backward()
    """,
    old="torch.randn(5, 6)), labels)",
    new="torch.randn(5, 6)), labels.unsqueeze(1))",
    repair="pass targets.unsqueeze(1)",
)


@cause(code="CP073", name="target-shape", stage=("loss", "backward"), prior=730, examples=EXAMPLE)
def target_shape(crash: Crash) -> Iterator[Suspect]:
    """The targets have another shape than the loss expects for this output.

    Why it happens: a loss of classes expects one index for each sample or pixel, without a dim
    of channels or one-hot rows; a loss that compares values expects the shape of the output.
    What to do: squeeze, unsqueeze or transpose the targets, or flatten the output.
    Known exceptions: mse_loss and its like broadcast, with a warning, where they can.
    Source: torch.nn.CrossEntropyLoss and torch.nn.BCEWithLogitsLoss, "Shape".
    """
    for found in list_losses(crash):
        x, target = found.input, found.target
        if not isinstance(x, Tensor) or not isinstance(target, Tensor):
            continue
        if not x.is_floating_point():  # see target-dtype
            continue
        if found.compared:
            yield from _judge_pairs(found)
        elif found.takes_classes and not _are_classes(found):
            wanted = (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()
            text = f"targets of shape {wanted} for an output of shape {tuple(x.shape)}"
            if target.dim() == 1 == len(wanted):
                text = f"{count_of(x.shape[0], 'target')}, one for each sample"
            pixels = x.dim() > 2 and target.dim() == 1
            last = crash.find_last_layer() if pixels else None
            yield _suspect(found, text, tuple(_fit_classes(crash, found)), last)
        elif found.needs_one_shape or (found.is_own and x.shape != target.shape):
            text = f"targets of the output's shape {tuple(x.shape)}"
            candidates = (*_fit_values(found), *_encode(found))
            yield _suspect(found, text, candidates, None)


def _are_classes(found: Loss) -> bool:
    x, target = found.input, found.target
    if target.dtype not in (torch.long, torch.uint8):  # see target-dtype
        return True
    return tuple(target.shape) == ((x.shape[0], *x.shape[2:]) if x.dim() > 1 else ())


def _suspect(
    found: Loss, text: str, candidates: tuple[Candidate, ...], module: str | None
) -> Suspect:
    x, target = found.input, found.target
    return Suspect(
        module=module,
        message=f"{found.shown} expects {text}, but got {tuple(target.shape)}"
        if not found.is_own
        else f"the targets {tuple(target.shape)} do not fit the output {tuple(x.shape)}"
        f" in {found.shown}",
        arithmetic=f"output {tuple(x.shape)}, targets {tuple(target.shape)}",
        candidates=candidates,
        advice=_advise(found),
        weight=USUAL if found.is_own else STRONG,
        needs_proof=found.is_own,
        tensors=(x, target),
        raised_in=found.shown,
    )


def _advise(found: Loss) -> tuple[str, ...]:
    x, target = found.input, found.target
    is_colour = found.takes_classes and x.dim() == 4 == target.dim() and 3 in target.shape[1:]
    return ("map each colour of the mask to the index of its class",) if is_colour else ()


def _fit_classes(crash: Crash, found: Loss) -> Iterator[Candidate]:
    """One class index for each sample or pixel."""
    x, target = found.input, found.target
    wanted = [x.shape[0], *x.shape[2:]] if x.dim() > 1 else []
    for dim in (d for d in range(target.dim()) if target.shape[d] == 1):
        if [*target.shape[:dim], *target.shape[dim + 1 :]] == wanted != []:
            code = f"targets.squeeze({dim})"
            yield propose(found.change(code, functools.partial(_squeeze, dim)))
            break
    if x.dim() == 2 and target.dim() > 1 and target.numel() == x.shape[0]:
        yield propose(found.change("targets.flatten()", lambda a, b: (a, b.flatten())))
    if target.shape == x.shape:
        title = "pass targets.argmax(1): class indices, not one-hot"
        yield propose(
            found.change("targets.argmax(1)", lambda a, b: (a, b.argmax(1)), title=title),
            weight=STRONG,
        )
        title = "pass targets.float(), as class probabilities"
        yield propose(found.change("targets.float()", lambda a, b: (a, b.to(a.dtype)), title=title))
    if x.dim() > 2 and target.dim() == 1 and x.shape[2:].numel() == 1:
        code = "torch.flatten(output, 1)"
        title = f"flatten the output: {code}"
        yield propose(found.change(code, lambda a, b: (a.flatten(1), b), title=title))
    elif x.dim() == 3 and x.shape[:2] == target.shape:
        code = "output.transpose(1, 2)"
        title = f"pass {code}: the classes on dim 1"
        yield propose(found.change(code, lambda a, b: (a.transpose(1, 2), b), title=title))
    elif x.dim() == 3 and target.dim() == 1 and _ends_in_linear(crash, x.shape[-1]):
        for code, take in (("output[:, -1]", _take_last), ("output.mean(1)", _take_mean)):
            title = f"pass {code}: one row for each sample"
            yield propose(found.change(code, take, title=title))
    elif x.dim() > 2 and target.dim() == 1:
        code = "output.flatten(2).mean(-1)"
        title = f"pool the output: {code}"
        yield propose(found.change(code, lambda a, b: (a.flatten(2).mean(-1), b), title=title))
    elif x.dim() > 3 and x.shape[:-1] == target.shape:
        code = "output.movedim(-1, 1)"
        title = f"pass {code}: the classes on dim 1"
        yield propose(found.change(code, lambda a, b: (a.movedim(-1, 1), b), title=title))
    if x.dim() == 1 and target.dim() == 1:
        code = "output.unsqueeze(0)"
        title = f"give the output its batch dim back: {code}"
        change = found.change(code, lambda a, b: (a[None], b), title=title)
        yield propose(change, weight=STRONG)


def _ends_in_linear(crash: Crash, features: int) -> bool:
    last = crash.modules.get(crash.find_last_layer() or "")
    return isinstance(last, nn.Linear) and last.out_features == features


def _squeeze(dim: int, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return x, target.squeeze(dim)


def _take_last(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return x[:, -1], target


def _take_mean(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(1), target


def _fit_values(found: Loss) -> Iterator[Candidate]:
    """The same values in another shape: a dim of 1 more or less, or dims in another order."""
    x, target = found.input, found.target
    if x.numel() != target.numel():
        return
    more = "" if target.is_floating_point() else ".float()"
    if [n for n in x.shape if n != 1] == [n for n in target.shape if n != 1]:
        how = {1: "unsqueeze(1)", -1: "squeeze(1)"}.get(x.dim() - target.dim(), "")
        code = f"targets.{how or f'reshape({tuple(x.shape)})'}{more}"
        yield propose(found.change(code, lambda a, b: (a, b.reshape(a.shape).to(a.dtype))))
        return
    if x.shape[0] != target.shape[0]:
        return
    orders = [
        (0, *order)
        for order in itertools.permutations(range(1, target.dim()))
        if tuple(target.shape[i] for i in order) == tuple(x.shape[1:])
    ]
    if orders:
        code = f"targets.permute({', '.join(map(str, orders[0]))}){more}"
        title = f"pass {code}: the dims of the output are in another order"
        permute = found.change(
            code, lambda a, b: (a, b.permute(orders[0]).to(a.dtype)), title=title
        )
        yield propose(permute)
    elif target.dim() == 2:
        code = "torch.flatten(output, 1)"
        yield propose(found.change(code, lambda a, b: (a.flatten(1), b.to(a.dtype))))
    elif x.dim() == 2:
        code = f"torch.flatten(targets, 1){more}"
        yield propose(found.change(code, lambda a, b: (a, b.flatten(1).to(a.dtype))))


def _encode(found: Loss) -> Iterator[Candidate]:
    """Class indices as one-hot rows or maps."""
    x, target = found.input, found.target
    is_index = not target.is_floating_point() and x.dim() > 1
    if not is_index or tuple(target.shape) != (x.shape[0], *x.shape[2:]):
        return
    turned = ".movedim(-1, 1)" if x.dim() > 2 else ""
    code = f"F.one_hot(targets, {x.shape[1]}){turned}.float()"

    def encode(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return a, F.one_hot(b.long(), a.shape[1]).movedim(-1, 1).to(a.dtype)

    yield propose(found.change(code, encode))
    if not found.is_own:
        use = found.change(
            "nn.CrossEntropyLoss()", lambda a, b: (a, b.long()),
            title="use nn.CrossEntropyLoss for class indices", other="cross_entropy",
        )  # fmt: skip
        yield propose(use)


def _judge_pairs(found: Loss) -> Iterator[Suspect]:
    """A label for each pair, or for each value of two outputs."""
    outputs, target = found.compared, found.target
    shapes = {tuple(t.shape) for t in outputs}
    if len(shapes) > 1 or target is None:
        return
    shape = shapes.pop()
    wanted = shape[:-1] if found.name == "cosine_embedding_loss" else shape
    if tuple(target.shape) == wanted:
        return
    candidates = []
    if target.numel() == outputs[0][..., 0].numel() if wanted != shape else outputs[0].numel():
        is_column = target.dim() == len(wanted) + 1 and target.shape[1] == 1
        more = {-1: "unsqueeze(1)"}.get(target.dim() - len(wanted), f"reshape({wanted})")
        code = f"targets.{'squeeze(1)' if is_column else more}"
        candidates.append(propose(found.change(code, lambda a, b: (a, b.reshape(wanted)))))
    each = "pair" if len(wanted) < len(shape) else "value"
    text = f"one label for each {each}, of shape {wanted}"
    yield _suspect(found, text, tuple(candidates), None)
