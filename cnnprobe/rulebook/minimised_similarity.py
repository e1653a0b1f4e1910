"""A similarity that is minimised."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.loss_terms import TermKind, find_loss_terms, is_maximised
from cnnprobe.rulebook.material import images, perceptron, stepping


def _loop(distance: bool) -> Mapping[str, Any]:
    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        from torch.nn import functional

        optimizer.zero_grad()
        similarity = functional.cosine_similarity(model(inputs), targets).mean()
        loss: Any = 1 - similarity if distance else similarity
        loss.backward()
        optimizer.step()

    return stepping(perceptron(), loop, targets=images()[:, 0, 0, :4].clone())


def sick() -> Mapping[str, Any]:
    """The cosine itself."""
    return _loop(distance=False)


def healthy() -> Mapping[str, Any]:
    """1 - the cosine."""
    return _loop(distance=True)


@rule(
    code="CP415",
    name="minimised-similarity",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="loss-sign",
    explains=("minimum-elsewhere", "negative-loss"),
)
def minimised_similarity(evidence: Evidence) -> Iterator[Finding]:
    """The loss is the cosine similarity between the output and the targets, and the optimizer makes
    it smaller.

    Why it matters: the outputs learn to point away from their targets, while the loss falls as if
    all were well.
    What to do: minimise the distance, loss = 1 - similarity.
    Known exceptions: an optimizer with maximize=True; similarities between two outputs (negative
    pairs of a contrastive loss) are not judged.
    Source: torch.nn.CosineEmbeddingLoss, whose loss is 1 - cos(x1, x2) for pairs that belong
    together.
    """
    flow = Flow(evidence.trace)
    for each in find_loss_terms(evidence, flow):
        if each.term is TermKind.SIMILARITY and each.is_negated == is_maximised(evidence):
            value = "" if each.loss.value is None else f" ({each.loss.value:.3g})"
            yield Finding(
                module=None,
                message=(
                    f"the loss is the similarity to the targets{value}, and the optimizer makes "
                    "it smaller"
                ),
                fix="minimise its distance from 1: loss = 1 - similarity",
                source=flow.line(each.index),
            )
