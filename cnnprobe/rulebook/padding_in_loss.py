"""Padding that counts in the loss."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, option
from cnnprobe.diagnosis.evidence.questions import given_values, loss_calls, modules_of, stat
from cnnprobe.rulebook.material import classifying

MOST = 0.3  # of the targets: a word of the vocabulary is never that frequent


def _training(ignored: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    words = torch.randint(1, 20, (8, 12)) * (torch.arange(12) < 4)
    model = nn.Sequential(nn.Embedding(20, 16, padding_idx=0), nn.Linear(16, 20))
    loss = nn.CrossEntropyLoss(ignore_index=ignored)
    return classifying(
        model, inputs=words, targets=words, loss_fn=lambda o, y: loss(o.transpose(1, 2), y)
    )


def sick() -> Mapping[str, Any]:
    """Two thirds of the targets are padding, and count."""
    return _training(-100)


def healthy() -> Mapping[str, Any]:
    """They are ignored."""
    return _training(0)


@rule(code="CP426", name="padding-in-loss", severity=Severity.WARNING, examples=(sick, healthy))
def padding_in_loss(evidence: Evidence) -> Iterator[Finding]:
    """Most targets are the padding index of the model's own embedding, and the loss counts them.

    Why it matters: the model learns to say padding; the loss is low while no word is right.
    What to do: give the loss ignore_index, the padding_idx of the embedding.
    Known exceptions: classes that are not the words of the embedding; a padding index other than 0.
    Source: torch.nn.CrossEntropyLoss, "ignore_index ... does not contribute to the input gradient".
    """
    padded = [
        module.config.get("num_embeddings")
        for module in modules_of(evidence, "embedding")
        if module.config.get("padding_idx") == 0
    ]
    for loss in loss_calls(evidence):
        shape, call = loss.prediction.shape, loss.call
        if loss.operation not in ("cross_entropy", "nll_loss") or len(shape) < 2:
            continue
        values = given_values(evidence, loss)
        count = stat(values, "count")
        share = stat(values, "zeros") / count if count else 0.0
        if (
            shape[1] in padded
            and share > MOST
            and option(evidence.trace, call, "ignore_index", -100) != 0
        ):
            yield Finding(
                module=loss.flow.owner(loss.index),
                message=(
                    f"{share:.0%} of the targets are 0, the padding_idx of the embedding (more "
                    f"than {MOST:.0%}), and count in the loss"
                ),
                fix="ignore_index=0 in the loss",
                source=call.source,
            )
            return
