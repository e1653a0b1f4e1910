"""Samples of the output that the loss never reads."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.rulebook.batch_leak import joins_rows
from cnnprobe.rulebook.material import perceptron, stepping

MOST = 0.5  # of the samples; half of a batch may be for another loss, as without labels


def _loop(first: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> None:
        optimizer.zero_grad()
        errors = [loss_fn(o[None], t[None]) for o, t in zip(model(inputs), targets, strict=True)]
        loss: Any = errors[0] if first else sum(errors)
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop)


def sick() -> Mapping[str, Any]:
    """The error of the first sample."""
    return _loop(first=True)


def healthy() -> Mapping[str, Any]:
    """The sum of all."""
    return _loop(first=False)


@rule(code="CP452", name="samples-left-out", severity=Severity.WARNING, examples=(sick, healthy))
def samples_left_out(evidence: Evidence) -> Iterator[Finding]:
    """The loss reads some samples of the output by their number, and leaves out more than half.

    Why it matters: the forward pass of the others is for nothing, and the model learns from a part
    of its data.
    What to do: see what indexes the output, and whether a loop ends after its first sample.
    Known exceptions: torch's own loss without a train_step, which reads all; samples that their
    targets or values leave out (ignored labels, hard examples); up to half of the batch; nodes of a
    graph. It is info where the samples stand here and there, as those that have labels.
    Source: the gradient of the loss by the output, for three outputs and the batch in two orders.
    """
    free = evidence.code.free
    if free is None or len(free.unread) <= MOST * free.samples or joins_rows(evidence):
        return
    read = [i for i in range(free.samples) if i not in free.unread]
    named, is_regular = _describe_read(read)
    losses = evidence.steps[0].losses if evidence.steps else ()
    rows = [loss.call for loss in losses if loss.call is not None]
    yield Finding(
        module=None,
        severity=None if is_regular else Severity.INFO,
        message=(
            f"of {free.samples} samples of the output, the loss reads {named}; the gradient of the "
            "others is 0, whatever the output is"
        ),
        fix="see what indexes the output or its errors by a number, such as [0] or [:1]",
        source=Flow(evidence.steps[0].trace).line(rows[0]) if rows else "",
    )


def _describe_read(read: list[int]) -> tuple[str, bool]:
    """The samples in words, and whether they stand at equal distances, as slices choose them."""
    if len(read) == 1:
        return f"number {read[0]} alone", True
    steps = {b - a for a, b in itertools.pairwise(read)}
    if len(steps) > 1:
        return f"{len(read)}, the first of them numbers {read[0]}, {read[1]} and {read[2]}", False
    step = steps.pop()
    return f"{len(read)} from {read[0]} on" + (f", each {step}th" if step > 1 else ""), True
