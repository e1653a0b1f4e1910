"""Prediction and target of different shapes, made to fit by broadcasting."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls, variable
from cnnprobe.records.trace import ModuleCall
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, labels, layers

ELEMENTWISE = (
    "mse_loss",
    "l1_loss",
    "smooth_l1_loss",
    "huber_loss",
    "kl_div",
    "binary_cross_entropy_with_logits",
)


# What makes one value of each row.
REDUCING = frozenset({"max", "amax", "min", "amin", "sum", "mean", "logsumexp", "norm", "std"})


def _regression(targets: Any) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(nn.Flatten(), lambda: nn.Linear(64, 16), nn.ReLU(), lambda: nn.Linear(16, 1)),
        targets=targets,
        loss_fn=nn.MSELoss(),
    )


def sick() -> Mapping[str, Any]:
    """(8, 1) against (8,): 64 differences instead of 8."""
    return _regression(labels().float())


def healthy() -> Mapping[str, Any]:
    """The target has the same axis of one."""
    return _regression(labels().float().unsqueeze(1))


@rule(
    code="CP407",
    name="loss-broadcast",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("loss-not-decreasing", "cannot-overfit", "constant-output"),
)
def loss_broadcast(evidence: Evidence) -> Iterator[Finding]:
    """The loss compares every prediction with every target.

    Why it matters: (N, 1) against (N,) is broadcast to (N, N); the best that the model can then do
    is to predict the mean of all targets. Of weights of the samples only their mean counts.
    What to do: give both the same shape: target.unsqueeze(1), or prediction.squeeze(1);
    keepdim=True for what each row of a square is reduced to.
    Known exceptions: pairwise losses that expand both sides on purpose are not reported.
    Source: torch.nn.functional.mse_loss warns "Using a target size that is different to the input
    size".
    """
    yield from _join(
        [*_by_function(evidence), *_by_hand(evidence), *_over_the_batch(evidence)],
    )
    yield from _along_another_dim(evidence)
    yield from _by_weights(evidence)


def _by_weights(evidence: Evidence) -> Iterator[Finding]:
    """(N, 1) times (N,), of which the mean or sum is taken: the product of two means or sums."""
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    for i in flow.primitives({"mul"}):
        call = flow.calls[i]
        shapes = [info.shape for info in call.inputs]
        learned = [info.requires_grad for info in call.inputs]
        size = max((shape[0] for shape in shapes if shape), default=0)
        readers = [flow.calls[j] for j in flow.readers.get(i, ())]
        is_pair = sorted(shapes, key=len) == [(size,), (size, 1)] and size > 1
        if not is_pair or sum(learned) != 1 or flow.owner(i) is not None or len(readers) != 1:
            continue
        if operation(readers[0]) in ("mean", "sum") and readers[0].outputs[0].shape == ():
            error, weights = shapes if learned[0] else shapes[::-1]
            yield Finding(
                module=None,
                message=(
                    f"{describe(call)} multiplies errors of shape {error} by weights of shape "
                    f"{weights}: each error by the weights of all samples, ({size}, {size}), so "
                    "that the weights have no effect but their mean"
                ),
                fix="give both the same shape: weights.view_as(errors)",
                source=flow.line(i),
                kind="weights",
                subject=describe(call),
            )
            return


def _along_another_dim(evidence: Evidence) -> Iterator[Finding]:
    """From a square (N, N), or divided by, what was reduced over its last dim and has lost it:
    (N, N) - (N,) goes along that dim again.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"sub", "div"}):
        call, made = flow.calls[i], _find_reduced(flow, i)
        if made is None:
            continue
        shape, reduced = call.inputs[0].shape, describe(flow.calls[made])
        yield Finding(
            module=flow.owner(i),
            severity=Severity.WARNING,
            message=(
                f"{reduced} reduces {shape} over dim 1 to {shape[:1]}, and {describe(call)} lines "
                "that up with dim 1 again: each row gets the values of all rows, and not its own"
            ),
            fix=f"keepdim=True in {reduced}, or unsqueeze(1) of its result",
            source=flow.line(i),
            kind="lost-dim",
            subject=describe(call),
        )


def _find_reduced(flow: Flow, index: int) -> int | None:
    """The row that reduced the first operand over dim 1, and whose result is the second."""
    given = flow.calls[index].inputs
    if len(given) != 2 or not given[0].requires_grad or len(given[0].shape) != 2:
        return None
    made, size = flow.origin(given[1]), given[0].shape[0]
    if made is None or size < 2 or given[0].shape != (size, size) or given[1].shape != (size,):
        return None
    reduced = flow.calls[made]
    is_same = bool(reduced.inputs) and reduced.inputs[0].source == given[0].source
    is_last = argument(reduced, "dim") in (1, -1, (1,), (-1,))
    return made if is_same and is_last and operation(reduced) in REDUCING else None


def _join(found: list[Finding]) -> Iterator[Finding]:
    """Each pair of shapes once, with the number of the other places."""
    places = {(f.message, f.source): f for f in found}
    counts = Counter(message for message, _ in places)
    for message, count in counts.items():
        first = next(f for f in found if f.message == message)
        lines = f"; {format_counted(count - 1, 'other line')} of the loss too" if count > 1 else ""
        yield replace(first, message=message + lines)


def _by_function(evidence: Evidence) -> Iterator[Finding]:
    """The calls of the losses of torch's that compare element by element."""
    for loss in loss_calls(evidence):
        if (
            loss.operation in ELEMENTWISE
            and loss.target is not None
            and loss.target.shape != loss.prediction.shape
        ):
            yield _finding(evidence, loss.prediction.shape, loss.target.shape, loss.call.source)


def _over_the_batch(evidence: Evidence) -> Iterator[Finding]:
    """(N, 1, ...) and (N, ...) in an operation of the loss: each sample with each other's
    targets.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"mul", "add", "sub", "rsub", "div"}):
        call = flow.calls[i]
        if flow.owner(i) is not None or len(call.inputs) != 2 or not _is_differentiated(call):
            continue
        for target, prediction in (call.inputs, call.inputs[::-1]):
            if prediction.requires_grad and is_crossed(prediction.shape, target.shape):
                yield _finding(evidence, prediction.shape, target.shape, call.source)
                return


def _is_differentiated(call: ModuleCall) -> bool:
    """Whether a row has a graph: without one, it belongs to a metric."""
    return any(made.requires_grad for made in call.outputs)


def is_crossed(prediction: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether the batch of one meets an axis of one of the other.

    >>> is_crossed((8, 1, 6, 6), (8, 6, 6)), is_crossed((8, 1, 6, 6), (6, 6)), is_crossed((8, 1), (8, 8))
    (True, False, False)
    """  # noqa: E501
    rest = prediction[:1] + prediction[2:]
    return len(prediction) > 2 and prediction[0] > 1 == prediction[1] and rest == target


def _by_hand(evidence: Evidence) -> Iterator[Finding]:
    """A subtraction in the loss between the model's output and a target as it came, with more
    results than either has values.
    """
    flow = Flow(evidence.trace)
    targets = {info.shape for info in evidence.targets}
    for i in flow.primitives({"sub", "rsub"}):
        call = flow.calls[i]
        if flow.owner(i) is not None or len(call.inputs) != 2 or not _is_differentiated(call):
            continue
        for target, prediction in (call.inputs, call.inputs[::-1]):
            first = flow.outer(target)
            outside = (
                first.source is None
                and first.shape in targets
                and not target.requires_grad
                and prediction.requires_grad
            )
            size = max(math.prod(target.shape), math.prod(prediction.shape))
            if (
                outside
                and target.shape != prediction.shape
                and math.prod(target.shape) > 1
                and math.prod(call.outputs[0].shape) > size
            ):
                yield _finding(evidence, prediction.shape, target.shape, call.source)
                break


def _finding(
    evidence: Evidence, prediction: tuple[int, ...], target: tuple[int, ...], source: str
) -> Finding:
    rank = max(len(prediction), len(target))
    pairs = zip(
        (1,) * (rank - len(prediction)) + prediction,
        (1,) * (rank - len(target)) + target,
        strict=True,
    )
    together = tuple(max(a, b) for a, b in pairs)
    is_given = any(info.shape == target for info in evidence.targets)
    name = variable(evidence, "targets") if is_given else "target"
    fix = (
        f"{name}.unsqueeze(1)" if len(prediction) == len(target) + 1 else f"{name}.view_as(output)"
    )
    return Finding(
        module=None,
        message=(
            f"the loss compares a prediction of shape {prediction} with a target of shape "
            f"{target}: {math.prod(together)} pairs, broadcast to {together}, instead of "
            f"{max(math.prod(prediction), math.prod(target))}"
        ),
        fix=f"give both the same shape: {fix}",
        source=source,
        kind="" if is_given else "made-target",
    )
