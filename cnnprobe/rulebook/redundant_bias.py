"""A bias that BatchNorm cancels."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers


def _net(bias: bool) -> Mapping[str, Any]:
    from torch import nn

    return classifying(
        layers(
            lambda: nn.Conv2d(1, 4, 3, padding=1, bias=bias),
            lambda: nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            lambda: nn.Linear(256, 4),
        )
    )


def sick() -> Mapping[str, Any]:
    """A convolution with a bias before BatchNorm."""
    return _net(bias=True)


def healthy() -> Mapping[str, Any]:
    """Without."""
    return _net(bias=False)


@rule(code="CP604", name="redundant-bias", severity=Severity.INFO, examples=(sick, healthy))
def redundant_bias(evidence: Evidence) -> Iterator[Finding]:
    """A layer with a bias feeds straight into a BatchNorm.

    Why it matters: BatchNorm subtracts the mean, and the bias with it; harmless, but memory and
    time for nothing.
    What to do: bias=False in the layer before a BatchNorm.
    Known exceptions: torchvision's vgg_bn does it too; a BatchNorm in eval mode within a model that
    trains subtracts a constant, so the bias counts.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.2.
    """
    found = find_redundant(evidence)
    if found:
        first = found[0]
        yield Finding(
            module=first,
            message=(
                f"{format_counted(len(found), 'layer')} "
                f"{'has' if len(found) == 1 else 'have'} a bias that the following BatchNorm "
                f"cancels (the first is {spoken(evidence, first)})"
            ),
            fix="bias=False there",
        )


def find_redundant(evidence: Evidence) -> list[str]:
    """The layers whose bias a BatchNorm cancels."""
    flow = Flow(evidence.trace)
    found: dict[str, None] = {}
    for i in flow.primitives({"batch_norm"}):
        source = flow.producer(flow.data(i))
        fqn = flow.calls[source].fqn if source is not None else None
        if (
            source is None
            or fqn is None
            or operation(flow.calls[source]) not in PROJECTIONS
            or flow.readers.get(source) != [i]
            or _is_kept_still(evidence, flow.calls[i].fqn)
        ):
            continue
        if evidence.trace.module(fqn).config.get("bias") is True:
            found.setdefault(fqn)
    return list(found)


def _is_kept_still(evidence: Evidence, fqn: str | None) -> bool:
    """Whether a norm is in eval mode while the model trains: what it subtracts is a constant."""
    if fqn is None:
        return False
    return evidence.trace.module("").training and not evidence.trace.module(fqn).training
