"""A loss whose output and targets have changed places."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe
from cnnprobe.diagnosis.evidence.questions import loss_calls
from cnnprobe.rulebook.material import classifying, labels, perceptron

# Those that do something else with the targets than with the output; the Kullback-Leibler
# divergence is used in both directions on purpose.
SIDED = frozenset(
    {"cross_entropy", "nll_loss", "binary_cross_entropy", "binary_cross_entropy_with_logits"}
)


def _training(swapped: bool) -> Mapping[str, Any]:
    from torch import nn
    from torch.nn import functional

    def loss_fn(output: Any, targets: Any) -> Any:
        given = (targets, output.softmax(1)) if swapped else (output, targets)
        return nn.CrossEntropyLoss()(*given)

    return classifying(perceptron(), targets=functional.one_hot(labels()).float(), loss_fn=loss_fn)


def sick() -> Mapping[str, Any]:
    """The labels stand where the logits belong."""
    return _training(True)


def healthy() -> Mapping[str, Any]:
    """First the logits, then the labels."""
    return _training(False)


@rule(
    code="CP422",
    name="swapped-arguments",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=(
        "loss-not-decreasing",
        "cannot-overfit",
        "loss-activation-mismatch",
        "negative-loss",
        "zero-grad",
        "loss-at-init",
    ),
)
def swapped_arguments(evidence: Evidence) -> Iterator[Finding]:
    """A cross entropy gets the targets where it expects the output, and the output as its targets;
    or a call passes two variables under each other's names, or one in the place of another option.

    Why it matters: the loss is linear in the output then; its minimum is another one, or none.
    What to do: give the output first, then the targets: criterion(output, targets).
    Known exceptions: kl_div, of which both directions are in use, and losses that are the same both
    ways, such as mse_loss; a function that is called in both orders. Of one's own functions and of
    triplet losses the names of arguments and parameters are compared.
    Source: torch.nn.functional.cross_entropy(input, target).
    """
    for loss in loss_calls(evidence):
        target = loss.target
        if target is None or loss.operation not in SIDED:
            continue
        if target.requires_grad and not loss.prediction.requires_grad:
            yield Finding(
                module=loss.flow.owner(loss.index),
                message=(
                    f"{describe(loss.call)} gets the targets as its input, of shape "
                    f"{loss.prediction.shape}, and the model's output as its target"
                ),
                fix="give the output first, then the targets",
                source=loss.call.source,
                subject=describe(loss.call),
            )
    for slip in evidence.texts.slips:
        if slip.kind == "misplaced":
            option = slip.name.rpartition(".")[2]
            yield Finding(
                module=None,
                severity=Severity.WARNING,
                message=(
                    f"`{slip.text}` passes {slip.name} for {slip.value}, by its place, while the "
                    f"parameter {option} keeps its default"
                ),
                fix=f"pass it by name: {option}={slip.name}",
                source=slip.source,
                kind="place",
                subject=slip.text,
            )
        if slip.kind == "swapped":
            yield Finding(
                module=None,
                severity=Severity.WARNING,
                message=(
                    f"`{slip.text}` passes {slip.name} where the parameters are {slip.value}: they "
                    "have changed places"
                ),
                fix="pass them in the order of the parameters, or by name",
                source=slip.source,
                kind="names",
                subject=slip.text,
            )
