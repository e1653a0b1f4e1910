"""Padding that takes part in the loss."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import sentences
from cnnprobe.diagnosis import Finding, Severity

LEAST = 0.02  # of the tokens


def _labelled(ignored: int) -> Mapping[str, Any]:
    from torch import nn

    batches = [
        {"input_ids": ids, "labels": ids.masked_fill(ids == 0, ignored)} for ids in sentences()
    ]
    return {"loader": batches, "loss_fn": nn.CrossEntropyLoss()}


def sick() -> Mapping[str, Any]:
    """The labels are a copy of the tokens."""
    return _labelled(0)


def healthy() -> Mapping[str, Any]:
    """With -100, which the loss leaves out, at the padding."""
    return _labelled(-100)


@data_rule(code="CP871", name="padded-targets", severity=Severity.WARNING, examples=(sick, healthy))
def padded_targets(data: Data) -> Iterator[Finding]:
    """The targets at the padding of the tokens are one number, which the loss does not leave out.

    Why it matters: the model learns to give padding, which is easy, and the mean over all places
    makes the loss of the words look small.
    What to do: CrossEntropyLoss(ignore_index=...), or labels of -100 there.
    Known exceptions: reported only where the loss is cross entropy with a mean or a sum; nothing of
    less than 2% of padding, nor where it stands at the beginning of the rows.
    Source: torch.nn.CrossEntropyLoss, "ignore_index (int, optional): specifies a target value that
    is ignored".
    """
    expected = data.expected
    if not expected.of_classes or expected.unreduced:
        return
    for split in data.splits:
        texts = split.clues.texts
        if texts is None or texts.fill is None or texts.padded < LEAST:
            continue
        if texts.fill != expected.ignored:
            yield Finding(
                message=(
                    f"{texts.padded:.0%} of the tokens {texts.path} of the {split.name} data are "
                    f"padding ({texts.pad}), where the targets {texts.targets} are {texts.fill}; "
                    f"the loss leaves out {expected.ignored} alone"
                ),
                fix=f"labels[input_ids == {texts.pad}] = {expected.ignored}"
                if texts.fill == texts.pad
                else f"CrossEntropyLoss(ignore_index={texts.fill})",
            )
