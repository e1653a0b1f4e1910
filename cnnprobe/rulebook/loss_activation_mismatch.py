"""A head whose values cannot be what the loss needs."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import FORWARDING, Evidence, Flow, describe, operation, option
from cnnprobe.diagnosis.evidence.bounds import find_bounds
from cnnprobe.diagnosis.evidence.questions import (
    LossCall,
    are_probabilities,
    given_values,
    input_stats,
    loss_calls,
    spoken,
    stat,
)
from cnnprobe.records.trace import TensorInfo
from cnnprobe.rulebook.material import classifying, images, layers

TINY = 1e-4  # what rounding adds to a log-probability of 0
FAR = 0.5  # of the targets' standard deviation; a few may lie a little outside
MARGIN = 0.05  # of the range: rounding and augmentation may leave a bounded target a little outside
RANGES = {
    "sigmoid": (0.0, 1.0), "hardsigmoid": (0.0, 1.0), "softmax": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "hardtanh": (-1.0, 1.0), "softsign": (-1.0, 1.0), "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf), "relu6": (0.0, 6.0), "log_softmax": (-math.inf, 0.0),
}  # fmt: skip
Problem = tuple[str, str, str]  # what is wrong, what to do, and which kind it is
COMPARING = frozenset({"cdist", "matmul", "cosine_similarity", "pairwise_distance"})
REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")


def sick() -> Mapping[str, Any]:
    """A sigmoid that has to reproduce standardised pixels."""
    import torch
    from torch import nn

    model = layers(
        nn.Flatten(), lambda: nn.Linear(64, 16), nn.ReLU(), lambda: nn.Linear(16, 64), nn.Sigmoid()
    )
    return classifying(
        model,
        targets=images().flatten(1),
        loss_fn=nn.MSELoss(),
        optimizer=torch.optim.Adam(model.parameters()),
    )


def healthy() -> Mapping[str, Any]:
    """The same with pixels in [0, 1]."""
    return {**sick(), "targets": images().flatten(1).sigmoid()}


@rule(
    code="CP406",
    name="loss-activation-mismatch",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "loss-not-decreasing",
        "cannot-overfit",
        "dead-relu",
        "loss-at-init",
        "constant-output",
        "zero-grad",
        "negative-loss",
        "nan-forward",
        "nan-backward",
    ),
)
def loss_activation_mismatch(evidence: Evidence) -> Iterator[Finding]:
    """The last activation cannot give what the loss or the targets need.

    Why it matters: a sigmoid never reaches a target of 3, a ReLU never one of -1, the state of an
    LSTM never one of 2; a softmax over a
    single value is always 1, and none reaches two labels at once; nll_loss of raw scores has no
    lower bound; cross entropy of distances prefers the class that is farthest away.
    What to do: match the last layer to the loss: nothing for regression and logits, log_softmax for
    nll_loss and kl_div, BCEWithLogitsLoss for several labels a sample, minus the distance for
    prototypes.
    Known exceptions: targets that leave the range by less than 5%.
    Source: Goodfellow, Bengio, Courville 2016, "Deep Learning", section 6.2.2.
    """
    yield from _judge_ctc(evidence)
    for loss in loss_calls(evidence):
        given = input_stats(loss.flow, loss.prediction)
        problem = _problem(evidence, loss, given)
        if problem is not None:
            what, fix, kind = problem
            place = loss.origin if loss.origin is not None else loss.flow.producer(loss.prediction)
            yield Finding(
                module=loss.flow.owner(place),
                message=what,
                fix=fix,
                source=loss.flow.line(place),
                kind=kind,
            )


def _judge_ctc(evidence: Evidence) -> Iterator[Finding]:
    """ctc_loss takes log-probabilities, and gets positive values."""
    flow = Flow(evidence.trace)
    for i in flow.primitives({"ctc_loss"}):
        call = flow.calls[i]
        high = stat(input_stats(flow, call.inputs[0]), "max") if call.inputs else 0.0
        if high > TINY:
            yield Finding(
                module=flow.owner(flow.origin(call.inputs[0])),
                message=(
                    "ctc_loss takes log-probabilities, which are at most 0, but gets values up to "
                    f"{high:.3g}"
                ),
                fix="apply log_softmax(x, dim=-1) first",
                source=call.source,
                kind="ctc",
            )


def _problem(evidence: Evidence, loss: LossCall, given: TensorInfo) -> Problem | None:
    """What is wrong with the values that the loss gets."""
    found = _single_class(loss, given) or _no_logarithm(loss, given)
    found = found or _smooths_all(evidence, loss) or _distances_as_scores(loss)
    found = found or _several_labels(evidence, loss) or _logarithms_as_targets(evidence, loss)
    if found is not None:
        return found
    kind = loss.origin_operation
    if loss.operation in REGRESSION and kind in RANGES and loss.target is not None:
        return _out_of_reach(evidence, loss, kind)
    if loss.operation in REGRESSION and kind == "rnn" and loss.target is not None:
        return _out_of_state(evidence, loss)
    if loss.operation in REGRESSION and loss.target is not None:
        return _out_of_bounds(evidence, loss)
    return None


def _smooths_all(evidence: Evidence, loss: LossCall) -> Problem | None:
    """label_smoothing so large that the label itself gets no more than the other classes."""
    smoothing = option(evidence.trace, loss.call, "label_smoothing", 0.0)
    shape = loss.prediction.shape
    if not isinstance(smoothing, float | int) or len(shape) < 2 or smoothing < 1:
        return None
    return (
        f"label_smoothing={smoothing:g} gives each of {shape[1]} classes the same target",
        "label_smoothing=0.1",
        "smoothing",
    )


def _single_class(loss: LossCall, given: TensorInfo) -> Problem | None:
    """A probability over one class is always 1."""
    shape = loss.prediction.shape
    if loss.operation == "cross_entropy" and len(shape) > 1 and shape[1] == 1:
        what = f"cross entropy over a single class, of shape {shape}, is always 0"
        if _counts_by_batch(loss):
            return (
                f"{what}: the model has no such output, so the batch holds a single class",
                "give each batch samples of several classes: see what the sampler chooses",
                "single-class-batch",
            )
        return (
            what,
            (
                "use BCEWithLogitsLoss for one output, or give the model as many outputs as there "
                "are classes"
            ),
            "single-class",
        )
    if loss.origin_operation != "softmax" or loss.origin is None:
        return None
    call = loss.flow.calls[loss.origin]
    made = call.outputs[0].shape if call.outputs else ()
    dim = option(loss.flow.trace, call, "dim", -1)
    is_single = isinstance(dim, int) and -len(made) <= dim < len(made) and made[dim] == 1
    if is_single and stat(given, "min") == stat(given, "max") == 1.0:
        return (
            f"a softmax over a single value, of shape {shape}, is always 1",
            "use a sigmoid for one output",
            "single-class",
        )
    return None


def _distances_as_scores(loss: LossCall) -> Problem | None:
    """A softmax over distances, of which the largest gets the highest probability."""
    made = loss.flow.producer(loss.prediction)
    if made is not None and operation(loss.flow.calls[made]) == "log_softmax":
        made = loss.flow.producer(loss.flow.data(made))
    is_softmax = loss.operation in ("cross_entropy", "nll_loss")
    far = _find_distance(loss.flow, made) if is_softmax else None
    shape = loss.prediction.shape
    if far is None or len(shape) < 2 or shape[1] < 2:
        return None
    source = describe(loss.flow.calls[far])
    return (
        (
            "cross entropy takes scores, of which the right class has the greatest, but gets "
            f"distances, by {source}: the class that is farthest away wins"
        ),
        "put a minus before the distances",
        "distances",
    )


def _find_distance(flow: Flow, row: int | None) -> int | None:
    """The row that computes the distances which a row hands on, but for a positive factor."""
    while row is not None:
        call, kind = flow.calls[row], operation(flow.calls[row])
        if kind == "cdist" or (kind == "norm" and _is_difference(flow, row)):
            return row
        if kind == "sum":
            before = flow.producer(flow.data(row))
            is_square = before is not None and operation(flow.calls[before]) in ("pow", "square")
            return (
                row if is_square and before is not None and _is_difference(flow, before) else None
            )
        numbers = [v for v in call.arguments.values() if isinstance(v, int | float)]
        is_scaled = kind in ("mul", "div") and len(call.inputs) == 1 and min(numbers, default=0) > 0
        if not is_scaled and kind not in FORWARDING | {"sqrt", "pow", "square"}:
            return None
        row = flow.producer(flow.data(row))
    return None


def _is_difference(flow: Flow, row: int) -> bool:
    """Whether a row measures the difference of two tensors that were brought to one shape."""
    made = flow.producer(flow.data(row))
    if made is None or operation(flow.calls[made]) != "sub" or len(flow.calls[made].inputs) < 2:
        return False
    one, other = (info.shape for info in flow.calls[made].inputs[:2])
    return one != other and len(one) == len(other)


def _counts_by_batch(loss: LossCall) -> bool:
    """Whether the number of classes is that of what the loop itself compares: distances to
    prototypes, likenesses to the classes of a batch.
    """
    made = loss.flow.producer(loss.prediction)
    while made is not None and loss.flow.owner(made) is None:
        if operation(loss.flow.calls[made]) in COMPARING:
            return True
        given = loss.flow.data(made)
        made = loss.flow.producer(given) if given is not None else None
    return False


def _no_logarithm(loss: LossCall, given: TensorInfo) -> Problem | None:
    """A loss of log-probabilities gets other values."""
    kind, high = loss.origin_operation, stat(given, "max")
    if not high > TINY:
        return None
    if (
        loss.operation == "nll_loss"
        and kind not in ("softmax", "sigmoid")
        and not are_probabilities(given)
    ):
        return (
            (
                "nll_loss takes log-probabilities, which are at most 0, but gets values up to "
                f"{high:.3g}"
            ),
            "apply log_softmax(x, dim=1) first, or use CrossEntropyLoss",
            "no-logarithm",
        )
    if loss.operation == "kl_div" and kind not in ("log_softmax", "logsigmoid"):
        return (
            (
                "kl_div takes log-probabilities as its input, which are at most 0, but gets values "
                f"up to {high:.3g}"
            ),
            "apply log_softmax(x, dim=1) to its first argument",
            "no-logarithm",
        )
    return None


def _logarithms_as_targets(evidence: Evidence, loss: LossCall) -> Problem | None:
    """kl_div takes the logarithm of its targets, and gets negative ones."""
    if loss.operation != "kl_div" or option(evidence.trace, loss.call, "log_target", False):
        return None
    values = given_values(evidence, loss)
    low, high = stat(values, "min"), stat(values, "max")
    if not low < -TINY:
        return None
    return (
        f"kl_div takes probabilities as its targets, but they run from {low:.3g} to {high:.3g}",
        "log_target=True for log-probabilities"
        if high <= TINY
        else "apply softmax(x, dim=1) to its second argument",
        "logarithms-as-targets" if high <= TINY else "raw-targets",
    )


def _several_labels(evidence: Evidence, loss: LossCall) -> Problem | None:
    """A softmax, whose values add up to 1, for targets that add up to more."""
    shape = loss.prediction.shape
    inside = loss.operation == "cross_entropy"
    if (
        loss.target is None
        or loss.target.shape != shape
        or len(shape) < 2
        or not loss.target.dtype.startswith(("float", "bfloat"))
    ):
        return None
    if not inside and (
        loss.origin_operation != "softmax"
        or loss.operation not in (*REGRESSION, "binary_cross_entropy")
    ):
        return None
    target = given_values(evidence, loss)
    total = stat(target, "mean") * shape[1]
    if not (stat(target, "min") >= 0 and total > 1 + MARGIN):
        return None
    return (
        (
            f"{'the softmax inside cross entropy' if inside else 'a softmax'} gives each sample "
            f"values that add up to 1, but the targets of a sample add up to {total:.3g} on average"
        ),
        "labels that do not exclude each other need BCEWithLogitsLoss"
        + ("" if inside else ", and no softmax"),
        "several-labels",
    )


def _out_of_reach(evidence: Evidence, loss: LossCall, kind: str) -> Problem | None:
    low, high = RANGES[kind]
    target = given_values(evidence, loss)
    least, greatest = stat(target, "min"), stat(target, "max")
    if least < low - MARGIN or greatest > high + MARGIN:
        return (
            (
                f"a {kind} gives values from {low:g} to {high:g}, but the targets run from "
                f"{least:.3g} to {greatest:.3g}"
            ),
            f"remove the {kind} after the last layer, or scale the targets to its range",
            "out-of-reach",
        )
    return None


def _out_of_bounds(evidence: Evidence, loss: LossCall) -> Problem | None:
    """What makes the output keeps it above or below a number, and the targets go beyond it."""
    buffers = {p.fqn for p in evidence.trace.parameters if p.kind == "buffer"}
    known = {n: (v.low, v.high) for n, v in evidence.values.items() if n in buffers}
    low, high = find_bounds(loss.flow, loss.origin, known=known)
    target = given_values(evidence, loss)
    least, greatest = stat(target, "min"), stat(target, "max")
    beyond = max(MARGIN, FAR * stat(target, "std"))
    if loss.origin is None or not (least < low - beyond or greatest > high + beyond):
        return None
    reach = f"{low:g} or more" if high == math.inf else f"at most {high:g}"
    reach = f"between {low:g} and {high:g}" if math.inf > high and low > -math.inf else reach
    return (
        (
            f"the output is {reach}, by the way {describe(loss.flow.calls[loss.origin])} is "
            f"computed, but the targets run from {least:.3g} to {greatest:.3g}"
        ),
        "let the output reach all targets: see the values that it is made of, or scale the targets",
        "out-of-bounds",
    )


def _out_of_state(evidence: Evidence, loss: LossCall) -> Problem | None:
    """A recurrent layer puts out its state, which a tanh bounds, and the targets are larger."""
    assert loss.origin is not None  # noqa: S101  (its operation is known)
    call = loss.flow.calls[loss.origin]
    config = {} if call.fqn is None else evidence.trace.module(call.fqn).config
    is_bounded = not config.get("proj_size") and config.get("nonlinearity", "tanh") == "tanh"
    if call.fqn is None or not is_bounded or len(call.inputs) != 1:  # a state may be given
        return None
    target = given_values(evidence, loss)
    least, greatest = stat(target, "min"), stat(target, "max")
    if not (least < -1 - MARGIN or greatest > 1 + MARGIN):
        return None
    return (
        (
            f"{describe(call)} puts out its state, which a tanh keeps between -1 and 1, but the "
            f"targets run from {least:.3g} to {greatest:.3g}"
        ),
        f"add a Linear after {spoken(evidence, call.fqn)}, or scale the targets to its range",
        "state-as-output",
    )
