"""Labels that the output has no class for, and binary targets outside of 0 to 1."""

from collections.abc import Iterator

import torch
from torch import Tensor

from cnnprobe.crash.cause import Example, cause
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.losses import Loss, list_losses, range_of, refit_head
from cnnprobe.crash.facts.words import count_of, quote
from cnnprobe.crash.suspect import STRONG, USUAL, Candidate, Suspect, propose

_MOST_SHOWN = 8  # labels

EXAMPLE = Example(
    """
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))


    def run(model):
        labels = torch.tensor([0, 1, 2, 3, 4])
        nn.CrossEntropyLoss()(model(torch.randn(5, 6)), labels).backward()
    """,
    old="nn.Linear(8, 4)",
    new="nn.Linear(8, 5)",
    blames="2",
    repair="set out_features=5 in '2'",
)


@cause(code="CP070", name="label-range", stage="loss", prior=710, examples=EXAMPLE)
def label_range(crash: Crash) -> Iterator[Suspect]:
    """A label is not one of the output's classes.

    Why it happens: C outputs have the labels 0 to C - 1. Labels that start at 1, a background
    class that was not counted, 255 for pixels to ignore, or grey values of a mask are outside.
    What to do: widen the last layer, renumber the labels, or name the label to ignore.
    Known exceptions: labels equal to ignore_index are not counted.
    Source: torch.nn.CrossEntropyLoss, "Shape" and ignore_index.
    """
    for found in list_losses(crash):
        x, target = found.input, found.target
        if not isinstance(x, Tensor) or not isinstance(target, Tensor) or not x.dim():
            continue
        is_probability = found.name.startswith("binary_cross_entropy")
        if is_probability and (bounds := range_of(target)) is not None:
            yield from _judge_probabilities(found, *bounds)
        elif _are_indices(found):
            yield from _judge_classes(crash, found)


def _are_indices(found: Loss) -> bool:
    x, target = found.input, found.target
    wanted = (x.shape[0], *x.shape[2:]) if x.dim() > 1 else ()
    is_index = (found.takes_classes or found.is_own) and not target.is_floating_point()
    return is_index and tuple(target.shape) == wanted


def _judge_probabilities(found: Loss, low: float, high: float) -> Iterator[Suspect]:
    if low >= 0 and high <= 1:
        return
    title = "bring the targets to 0 and 1" + (f": targets / {high:g}" if low == 0 else "")
    code = f"targets / {high:g}" if low == 0 else "(targets - low) / (high - low)"
    scale = found.change(code, lambda x, t: (x, (t - low) / (high - low or 1)), title=title)
    yield Suspect(
        module=None,
        message=f"{found.shown} expects targets between 0 and 1, but they range from {low:g} to {high:g}",
        candidates=(propose(scale),),
        weight=STRONG,
        tensors=(found.input, found.target),
        raised_in=found.shown,
    )


def _judge_classes(crash: Crash, found: Loss) -> Iterator[Suspect]:
    x, target = found.input, found.target
    classes = x.shape[1] if x.dim() > 1 else x.shape[0]
    ignored = found.arguments.get("ignore_index", -100)
    counted = target[target != ignored]
    bounds = range_of(counted)
    if bounds is None or (bounds[0] >= 0 and bounds[1] < classes):
        return
    low, high = map(int, bounds)
    head = refit_head(crash, found, high + 1) if low >= 0 else []
    maker = head[0].module if head else crash.find_last_layer()
    is_void = not found.is_own and _is_void(counted, classes)
    valid = "the only valid label is 0" if classes == 1 else f"valid labels are 0 to {classes - 1}"
    outside = int(((counted < 0) | (counted >= classes)).sum())
    yield Suspect(
        module=maker if low == 0 and not is_void else None,
        message=f"labels range from {low} to {high}, but the output has"
        f" {classes} {'class' if classes == 1 else 'classes'}: {valid}",
        arithmetic=f"{outside} of {count_of(counted.numel(), 'label')} outside"
        + (f"; the classes come from {quote(maker)}" if maker is not None else ""),
        candidates=(
            *_renumber(found, counted, classes, low, high),
            *((propose(*head, weight=USUAL),) if head else ()),
        ),
        advice=tuple(edit.title for edit in head[:1]),
        weight=STRONG,
        needs_proof=found.is_own,
        tensors=(x, target),
        raised_in=found.shown,
    )


def _is_void(counted: Tensor, classes: int) -> bool:
    """Whether one number far from the classes marks what is not to be counted: 255."""
    strange = set(counted[counted >= classes].flatten().tolist())
    return len(strange) == 1 and max(strange) >= 2 * classes


def _renumber(
    found: Loss, counted: Tensor, classes: int, low: int, high: int
) -> Iterator[Candidate]:
    """Other numbers for the labels, or labels that are left out."""
    present = sorted(set(counted.flatten().tolist()))
    if low < 0 and not found.is_own:
        yield _ignore(found, low, "leave these labels out")
    elif low == 1 and high == classes:
        start = "start the labels at 0: targets - 1"
        change = found.change("targets - 1", lambda x, t: (x, t - 1), title=start)
        yield propose(change, weight=STRONG)
    elif len(present) == classes > 1 >= sum(n < classes for n in present):
        values = ", ".join(map(str, present[:_MOST_SHOWN]))
        values += ", ..." if classes > _MOST_SHOWN else ""
        code = f"targets // {high}" if classes == 2 and low == 0 else ""
        title = f"number the labels {values} from 0 to {classes - 1}" + (code and f": {code}")
        change = found.change(
            code, lambda x, t: (x, torch.searchsorted(t.new_tensor(present), t)), title=title
        )
        yield propose(change, weight=STRONG)
    elif not found.is_own and _is_void(counted, classes):
        yield _ignore(found, high, f"leave label {high} out, if it marks what is not to be counted")


def _ignore(found: Loss, label: int, why: str) -> Candidate:
    code = f"ignore_index={label}"
    change = found.change(
        code, lambda x, t: (x, t), title=f"{why}: {code}", options={"ignore_index": label}
    )
    return propose(change, weight=STRONG)
