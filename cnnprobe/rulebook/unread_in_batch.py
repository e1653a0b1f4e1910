"""A part of the batch that the step takes apart and never reads."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import labels, perceptron, stepping

# What changes a loss wherever it is given: where an episode ends, what is padding, what counts.
NEEDED = re.compile(
    r"(^|_)(is_)?(dones?|terminals?|terminated|not_dones?|masks?|padding|valid|lengths?|lens"
    r"|weights?|importance)(_|$|\d)",
    re.IGNORECASE,
)


def _loop(masked: bool) -> Mapping[str, Any]:
    import torch
    from torch.nn import functional

    def loop(model: Any, inputs: Any, batch: Any, optimizer: Any, _loss_fn: Any) -> None:
        targets, mask = batch
        error = functional.cross_entropy(model(inputs), targets, reduction="none")
        optimizer.zero_grad()
        loss: Any = (error * mask).sum() / mask.sum() if masked else error.mean()
        loss.backward()
        optimizer.step()

    def ignoring(model: Any, inputs: Any, batch: Any, optimizer: Any, _loss_fn: Any) -> None:
        targets, mask = batch  # noqa: RUF059 (the fault itself)
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()

    mask = torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 0])
    return stepping(perceptron(), loop if masked else ignoring, targets=(labels(), mask))


def sick() -> Mapping[str, Any]:
    """A mask that is unpacked and not used."""
    return _loop(masked=False)


def healthy() -> Mapping[str, Any]:
    """It weighs the errors."""
    return _loop(masked=True)


@rule(code="CP454", name="unread-in-batch", severity=Severity.INFO, examples=(sick, healthy))
def unread_in_batch(evidence: Evidence) -> Iterator[Finding]:
    """A name that the step unpacks from the batch is never read.

    Why it matters: without the flags of the last step of an episode the values never end; without
    its mask the padding is trained.
    What to do: use it in the loss, or name it _ if it is not meant to be used.
    Known exceptions: names that begin with _; any other name than that of a mask, a length, a
    weight or the end of an episode is information, and as an argument no finding.
    Source: the text of the functions that the step is made of; Mnih et al. 2015, "Human-level
    control", algorithm 1: the target of a terminal step is its reward alone.
    """
    for unread in evidence.code.unread:
        is_needed = bool(NEEDED.search(unread.name))
        if unread.is_argument and not is_needed:
            continue
        how = "takes" if unread.is_argument else "unpacks"
        yield Finding(
            module=None,
            severity=Severity.WARNING if is_needed else Severity.INFO,
            message=f"{unread.function} {how} {unread.name} and never reads it",
            fix=f"use {unread.name} in the loss; name it _{unread.name} if that is not meant",
            source=unread.source,
            subject=unread.name,
        )
