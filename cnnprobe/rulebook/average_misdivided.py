"""An average over an epoch that is none."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import perceptron, stepping


def _loop(by_samples: bool) -> Mapping[str, Any]:
    def wrong(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        correct: Any = 0
        loader = list(zip(inputs.split(4), targets.split(4), strict=True))
        for images, labels in loader:
            output = model(images)
            optimizer.zero_grad()
            loss_fn(output, labels).backward()
            optimizer.step()
            correct += (output.argmax(1) == labels).sum().item()
        return correct / len(loader)

    def right(model: Any, inputs: Any, targets: Any, optimizer: Any, loss_fn: Any) -> Any:
        correct: Any = 0
        loader = list(zip(inputs.split(4), targets.split(4), strict=True))
        for images, labels in loader:
            output = model(images)
            optimizer.zero_grad()
            loss_fn(output, labels).backward()
            optimizer.step()
            correct += (output.argmax(1) == labels).sum().item()
        return correct / len(targets)

    return stepping(perceptron(), right if by_samples else wrong)


def sick() -> Mapping[str, Any]:
    """Right answers over batches."""
    return _loop(by_samples=False)


def healthy() -> Mapping[str, Any]:
    """Right answers over samples."""
    return _loop(by_samples=True)


@rule(code="CP566", name="average-misdivided", severity=Severity.WARNING, examples=(sick, healthy))
def average_misdivided(evidence: Evidence) -> Iterator[Finding]:
    """An average counts samples and is divided by batches, or the other way round, or adds up all
    epochs and is divided by one.

    Why it matters: the training is right, and the number that is logged, compared and stopped by is
    not.
    What to do: divide a count of samples by len(loader.dataset), and a sum of mean losses by
    len(loader); set the sum to 0 at the beginning of each epoch, and call reset() of a metric.
    Known exceptions: losses are taken for means only where the file asks for no other reduction;
    divisors that the loop counts itself; only the text of the user's files is read.
    Source: torch.nn.CrossEntropyLoss, reduction="mean" is the default; len of a DataLoader is the
    number of its batches.
    """
    for slip in evidence.texts.slips:
        if slip.kind in _SAID:
            said, fix = _SAID[slip.kind]
            yield Finding(
                module=None,
                message=f"`{slip.text}`: {said.format(slip=slip)}",
                fix=fix.format(slip=slip),
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )


_SAID = {
    "never-reset": (
        "{slip.name} adds up all epochs, as it is never set back, and {slip.value} is of one",
        "{slip.name} = 0 at the beginning of each epoch",
    ),
    "never-cleared": (
        "{slip.name} takes in all epochs, as nothing sets it back, and is read as that of one",
        "{slip.name}.reset(), or a new one, at the beginning of each epoch",
    ),
    "by-batches": (
        "{slip.name} counts samples, and {slip.value} is the number of batches",
        "divide by the number of samples, such as the sum of labels.size(0)",
    ),
    "by-samples": (
        "{slip.name} adds up the means of batches, and {slip.value} is the number of samples",
        "divide by the number of batches, or add up loss.item() * labels.size(0)",
    ),
}
