from torch import Tensor

from cnnprobe.crash.cause import STRONG, Candidates, Crash, Example, Suspects, cause, propose
from cnnprobe.crash.facts.heads import refit_head
from cnnprobe.crash.facts.losses import FailingLoss, list_comparisons, range_of, suspect_loss
from cnnprobe.crash.facts.words import count_of, quote

_MOST_SHOWN = 8  # labels

_PROGRAM = """
- model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4))
+ model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5))
  def run(model):
      labels = torch.tensor([0, 1, 2, 3, 4])
      nn.CrossEntropyLoss()(model(torch.randn(5, 6)), labels).backward()
"""
EXAMPLE = Example(_PROGRAM, blames="2", repair="set out_features=5 in '2'")


@cause("CP070", "label-range", EXAMPLE, stage="loss", prior=710)
def label_range(crash: Crash) -> Suspects:
    """A label is not one of the output's classes.

    Why it happens: C outputs have the labels 0 to C - 1. Labels that start at 1, a background
    class that was not counted, 255 for pixels to ignore, or grey values of a mask are outside.
    What to do: widen the last layer, renumber the labels, or name the label to ignore.
    Known exceptions: labels equal to ignore_index are not counted.
    Source: torch.nn.CrossEntropyLoss, "Shape" and ignore_index.
    """
    for found, _, target in list_comparisons(crash):
        bounds = range_of(target)
        if found.name.startswith("binary_cross_entropy") and bounds is not None:
            yield from _judge_probabilities(found, *bounds)
        is_index = (found.takes_classes or found.is_own) and not target.is_floating_point()
        if is_index and tuple(target.shape) == found.class_shape:
            yield from _judge_classes(crash, found)


def _judge_probabilities(found: FailingLoss, low: float, high: float) -> Suspects:
    if low >= 0 and high <= 1:
        return
    code = f"targets / {high:g}" if low == 0 else f"(targets - {low:g}) / {high - low or 1:g}"
    scale = found.give(code, title=f"bring the targets to 0 and 1: {code}")
    message = f"expects targets between 0 and 1, but they range from {low:g} to {high:g}"
    yield suspect_loss(found, f"{found.shown} {message}", [propose(scale)])


def _judge_classes(crash: Crash, found: FailingLoss) -> Suspects:
    x, target = found.input, found.target
    classes = x.shape[1] if x.dim() > 1 else x.shape[0]
    counted = target[target != found.arguments.get("ignore_index", -100)]
    if (bounds := range_of(counted)) is None or (bounds[0] >= 0 and bounds[1] < classes):
        return
    low, high = map(int, bounds)
    head = refit_head(crash, found, high + 1) if low >= 0 else []
    maker = head[0].module if head else crash.find_last_layer()
    valid = "the only valid label is 0" if classes == 1 else f"valid labels are 0 to {classes - 1}"
    outside = int(((counted < 0) | (counted >= classes)).sum())
    is_head = low == 0 and (found.is_own or not _is_void(counted, classes))
    candidates = [*_renumber(found, counted, classes, low, high)]
    yield suspect_loss(
        found,
        f"labels range from {low} to {high}, but the output has"
        f" {classes} {'class' if classes == 1 else 'classes'}: {valid}",
        [*candidates, propose(*head)] if head else candidates,
        module=maker if is_head else None,
        arithmetic=f"{outside} of {count_of(counted.numel(), 'label')} outside"
        + (f"; the classes come from {quote(maker)}" if maker is not None else ""),
    )


def _is_void(counted: Tensor, classes: int) -> bool:
    """Whether one number far from the classes marks what is not to be counted: 255."""
    strange = set(counted[counted >= classes].flatten().tolist())
    return len(strange) == 1 and max(strange) >= 2 * classes


def _renumber(found: FailingLoss, counted: Tensor, classes: int, low: int, high: int) -> Candidates:
    """Other numbers for the labels, or labels that are left out."""
    present = sorted(set(counted.flatten().tolist()))
    if low < 0:
        yield from _ignore(found, low, "leave these labels out")
    elif low == 1 and high == classes:
        start = found.give("targets - 1", title="start the labels at 0: targets - 1")
        yield propose(start, weight=STRONG)
    elif len(present) == classes > 1 >= sum(n < classes for n in present):
        values = ", ".join(map(str, present[:_MOST_SHOWN]))
        values += ", ..." if classes > _MOST_SHOWN else ""
        is_pair = classes == 2 and low == 0
        code = f"targets // {high}" if is_pair else f"torch.tensor({present}).searchsorted(targets)"
        title = f"number the labels {values} from 0 to {classes - 1}: {code}"
        yield propose(found.give(code, title=title), weight=STRONG)
    elif _is_void(counted, classes):
        why = f"leave label {high} out, if it marks what is not to be counted"
        yield from _ignore(found, high, why)


def _ignore(found: FailingLoss, label: int, why: str) -> Candidates:
    if not found.is_own:
        code = f"ignore_index={label}"
        ignore = found.give(code, title=f"{why}: {code}", options={"ignore_index": label})
        yield propose(ignore, weight=STRONG)
