"""Outputs of a teacher that belong to other samples."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, operation
from cnnprobe.rulebook.material import classifying, images, perceptron

READING = frozenset({"softmax", "log_softmax", "kl_div", "cross_entropy"})


def _distilling(shuffled: bool) -> Mapping[str, Any]:
    import torch
    import torch.nn.functional as F

    def loss_fn(output: Any, targets: Any) -> Any:
        labels, scores = targets
        soft = F.kl_div(output.log_softmax(1), scores.softmax(1), reduction="batchmean")
        return soft + 0.1 * F.cross_entropy(output, labels)

    torch.manual_seed(0)
    given = images().repeat(4, 1, 1, 1)
    labels = torch.arange(len(given)) % 4
    scores = 6.0 * F.one_hot(labels, 4) + torch.randn(len(given), 4)
    scores = scores[torch.randperm(len(given))] if shuffled else scores
    return classifying(perceptron(), inputs=given, targets=(labels, scores), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """They were collected from a loader that shuffles."""
    return _distilling(shuffled=True)


def healthy() -> Mapping[str, Any]:
    """They are those of the samples."""
    return _distilling(shuffled=False)


@rule(
    code="CP483",
    name="teacher-of-others",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing"),
)
def teacher_of_others(evidence: Evidence) -> Iterator[Finding]:
    """The targets hold labels and the outputs of a teacher that is sure of other classes, as often
    as chance has it.

    Why it matters: each sample is taught the answer of another one, and the student learns how
    often each class occurs.
    What to do: compute teacher(x) within the step, or store its outputs by the index of the sample;
    a loader that shuffles gives another order each time.
    Known exceptions: fewer than 16 samples; outputs that are not sure, with a mean probability of
    about a half or less; outputs that no softmax and no loss reads.
    Source: Hinton et al. 2015, arXiv:1503.02531, section 2: soft targets of the same sample.
    """
    teacher = evidence.batch.teacher
    if (
        teacher is None
        or not teacher.is_astray
        or any("teacher" in broken.formula for broken in evidence.code.broken)
    ):
        return
    flow, shape = Flow(evidence.trace), (teacher.samples, teacher.classes)
    for i in flow.primitives(READING):
        given = [flow.outer(t, ("div", "mul")) for t in flow.calls[i].inputs]
        if any(t.source is None and t.shape == shape for t in given):
            yield Finding(
                module=None,
                message=(
                    f"{teacher.name} gives the label of {teacher.labels} the greatest value in "
                    f"{teacher.agreement:.0%} of the {teacher.samples} samples, as chance does "
                    f"({teacher.chance:.0%}), though its mean probability is {teacher.surety:.2f}: "
                    "these are the outputs for other samples, or of other classes"
                ),
                fix=(
                    "give each sample the teacher's outputs of itself: teacher(x) within the step, "
                    "or stored by the index of the sample and not in the order of a loader that "
                    "shuffles"
                ),
                source=flow.line(i),
                subject=operation(flow.calls[i]),
            )
            return
