"""Targets of a language model that are its inputs."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.data.facts import Data
from cnnprobe.data.rule import data_rule
from cnnprobe.data.rules.material import sentences
from cnnprobe.diagnosis import Finding, Severity


def _paired(shift: int) -> Mapping[str, Any]:
    from torch import nn

    rows = [ids[:, : ids.shape[1] - shift] for ids in sentences()]
    targets = [ids[:, shift:] for ids in sentences()]
    return {
        "loader": list(zip(rows, targets, strict=True)),
        "loss_fn": nn.CrossEntropyLoss(ignore_index=0),
    }


def sick() -> Mapping[str, Any]:
    """Each token is to be told from itself."""
    return _paired(0)


def healthy() -> Mapping[str, Any]:
    """From the tokens before it."""
    return _paired(1)


@data_rule(
    code="CP873", name="unshifted-targets", severity=Severity.WARNING, examples=(sick, healthy)
)
def unshifted_targets(data: Data) -> Iterator[Finding]:
    """The tokens to be predicted are the tokens that the model gets, at the same places.

    Why it matters: the model learns to copy, the loss falls to zero at once, and it writes nothing
    of its own.
    What to do: inputs tokens[:, :-1], targets tokens[:, 1:].
    Known exceptions: reported only where the loss is cross entropy; "labels" beside "input_ids" are
    let pass, as Hugging Face's models shift them in their forward. An autoencoder of texts is
    reported too.
    Source: Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
    equation 1; transformers, "labels are shifted inside the model".
    """
    if not data.expected.of_classes:
        return
    for split in data.splits:
        texts = split.clues.texts
        if texts is None or not texts.targets or not texts.equal or "label" in texts.targets:
            continue
        yield Finding(
            message=(
                f"the targets {texts.targets} of the {split.name} data are the tokens {texts.path} "
                "themselves, and not those that follow"
            ),
            fix="inputs tokens[:, :-1], targets tokens[:, 1:]",
        )
