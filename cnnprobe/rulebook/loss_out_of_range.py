"""A loss of one's own that leaves its range."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.loss_terms import is_maximised
from cnnprobe.diagnosis.evidence.questions import input_stats, stat
from cnnprobe.diagnosis.evidence.scores import Score, ScoreKind, find_scores
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, images, layers

TOLERANCE = 1e-4  # rounding of values in [0, 1]
BOUNDED = frozenset({"softmax", "sigmoid", "hardsigmoid", "clamp"})


def _dice(bounded: bool) -> Mapping[str, Any]:
    from torch import nn

    def loss_fn(output: Any, masks: Any) -> Any:
        output = output.sigmoid() if bounded else output
        shared = (output * masks).sum((1, 2, 3))
        return 1 - ((2 * shared + 1) / (output.sum((1, 2, 3)) + masks.sum((1, 2, 3)) + 1)).mean()

    return classifying(
        layers(lambda: nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), lambda: nn.Conv2d(4, 1, 1)),
        targets=(images() > 0).float(),
        loss_fn=loss_fn,
    )


def sick() -> Mapping[str, Any]:
    """Dice of logits."""
    return _dice(bounded=False)


def healthy() -> Mapping[str, Any]:
    """Dice of probabilities."""
    return _dice(bounded=True)


@rule(
    code="CP418",
    name="loss-out-of-range",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "minimum-elsewhere",
        "divergence",
        "loss-not-decreasing",
        "cannot-overfit",
        "lr-too-high",
        "negative-loss",
        "exploding-gradient",
    ),
)
def loss_out_of_range(evidence: Evidence) -> Iterator[Finding]:
    """A loss is made of a score, dice, IoU, a focal weight or the output at the place of the label,
    and the score has the wrong sign or is of outputs without bounds.

    Why it matters: it can fall below 0 or rise above 1 without end, or the score itself is
    minimised; the number falls, and nothing is learned.
    What to do: give such a loss probabilities: sigmoid or softmax first; minimise 1 - score.
    Known exceptions: minus a score of probabilities, -dice, which is 1 - dice but for a constant;
    an optimizer with maximize=True; products with targets outside [0, 1] (Wasserstein losses,
    advantages of a policy).
    Source: Milletari et al. 2016, "V-Net", arXiv:1606.04797, section 3: the overlap is of
    probabilities in [0, 1]; Lin et al. 2017, "Focal loss", arXiv:1708.02002, section 3.
    """
    if is_maximised(evidence):
        return
    flow = Flow(evidence.trace)
    for score in find_scores(evidence, flow):
        found = _judge(evidence, flow, score)
        if found is not None:
            message, fix = found
            yield Finding(module=None, message=message, fix=fix, source=flow.line(score.index))
            return


def _judge(evidence: Evidence, flow: Flow, score: Score) -> tuple[str, str] | None:
    if score.kind is ScoreKind.FOCAL:
        return _judge_focal(flow, score)
    if score.kind is ScoreKind.OVERLAP:
        return _judge_overlap(evidence, flow, score)
    return _judge_picked(evidence, flow, score)


def _judge_focal(flow: Flow, score: Score) -> tuple[str, str] | None:
    low, high = _find_range(flow, score.prediction)
    if not (low < -TOLERANCE or high > 1 + TOLERANCE):
        return None
    return (
        f"the weight (1 - p) of a focal loss runs from {low:.3g} to {high:.3g} (outside [0, 1])",
        "make p a probability: p = torch.sigmoid(output), or torch.exp(-cross_entropy)",
    )


def _judge_overlap(evidence: Evidence, flow: Flow, score: Score) -> tuple[str, str] | None:
    low, high = _find_range(flow, score.prediction)
    if score.sign > 0:
        message = (
            f"the loss is the overlap with the targets itself ({_say(score)}), and the optimizer "
            "makes it smaller"
        )
        return message, "minimise what is left of 1: loss = 1 - score"
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        message = (
            f"the loss is made of the overlap of the targets with outputs from {low:.3g} to "
            f"{high:.3g} (outside [0, 1]), so it is not limited to [0, 1]: {_say_course(evidence)}"
        )
        return message, "give it probabilities: torch.sigmoid(output), or softmax over the classes"
    least, most = _find_target_range(evidence, flow, score)
    if most > 1 + TOLERANCE or least < -TOLERANCE:
        message = (
            f"the loss is the overlap with targets from {least:.3g} to {most:.3g} (outside [0, "
            f"1]), so it is not limited to [0, 1]: {_say_course(evidence)}"
        )
        return message, f"divide the targets by {most:.3g}"
    return None


def _judge_picked(evidence: Evidence, flow: Flow, score: Score) -> tuple[str, str] | None:
    target = score.target
    if target is None or flow.outer(target).source is not None:
        return None
    is_index = target.dtype.startswith("int")
    if not is_index and not _is_one_hot(evidence, flow, score):
        return None
    origin = flow.origin(score.prediction, FORWARDING)
    kind = "" if origin is None else operation(flow.calls[origin])
    if kind in BOUNDED and score.sign > 0:
        message = (
            f"the loss is the probability of the targets itself ({_say(score)}), and the optimizer "
            "makes it smaller"
        )
        return message, "minimise -log(probability): F.cross_entropy(output, targets)"
    if kind in PROJECTIONS and flow.owner(origin) is not None:
        message = (
            "the loss is the mean of raw outputs at the places of the targets "
            f"({_say(score)}): it has no lower bound"
        )
        return message, "use F.cross_entropy(output, targets), which sets it against the others"
    return None


def _say(score: Score) -> str:
    return "not one number" if score.loss.value is None else f"{score.loss.value:.3g}"


def _say_course(evidence: Evidence) -> str:
    values = [step.value for step in evidence.steps if step.value is not None]
    return f"{values[0]:.3g} at first, {values[-1]:.3g} after {len(values)} steps" if values else ""


def _find_range(flow: Flow, info: TensorInfo) -> tuple[float, float]:
    found = input_stats(flow, info)
    return stat(found, "min"), stat(found, "max")


def _find_target_range(evidence: Evidence, flow: Flow, score: Score) -> tuple[float, float]:
    """The least and the greatest target."""
    found = _find_target(evidence, flow, score)
    return stat(found, "min"), stat(found, "max")


def _find_target(evidence: Evidence, flow: Flow, score: Score) -> TensorInfo | None:
    """The target with its statistics; that of the batch, where it came from outside."""
    if score.target is None:
        return None
    found = input_stats(flow, score.target)
    if found.stats is not None:
        return found
    same = [t for t in evidence.targets if math.prod(t.shape) == math.prod(found.shape)]
    return same[0] if same else found


def _is_one_hot(evidence: Evidence, flow: Flow, score: Score) -> bool:
    """Whether the target has a single 1 for each sample: products with others weigh the outputs."""
    found = _find_target(evidence, flow, score)
    if found is None or len(found.shape) < 2 or found.shape != score.prediction.shape:
        return False
    low, high, mean = (stat(found, name) for name in ("min", "max", "mean"))
    is_binary = mean - (stat(found, "std") ** 2 + mean**2) < TOLERANCE
    return low >= 0 and high <= 1 and is_binary and abs(mean * found.shape[1] - 1) < TOLERANCE
