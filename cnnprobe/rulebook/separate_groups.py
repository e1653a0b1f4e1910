"""Groups of channels that no layer ever mixes."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    NONLINEAR,
    NORMALISING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
    option,
)
from cnnprobe.diagnosis.evidence.questions import complete, spoken
from cnnprobe.rulebook.material import classifying, images

LEAST = 2  # layers one behind the other, with a nonlinearity between
# what leaves every channel where it is
_KEEPING = (NONLINEAR - {"softmax", "log_softmax", "glu"}) | NORMALISING | {
    "dropout", "avg_pool", "max_pool", "interpolate", "pad", "contiguous", "clone",
}  # fmt: skip


def _net(groups: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    return classifying(
        nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
            nn.Conv2d(8, 8, 1, groups=groups), nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
        ),
        inputs=images(),
    )  # fmt: skip


def sick() -> Mapping[str, Any]:
    """Three depthwise convolutions, and nothing of 1 x 1 that mixes the channels."""
    return _net(8)


def healthy() -> Mapping[str, Any]:
    """A pointwise convolution between them."""
    return _net(1)


@rule(code="CP325", name="separate-groups", severity=Severity.WARNING, examples=(sick, healthy))
def separate_groups(evidence: Evidence) -> Iterator[Finding]:
    """Convolutions with groups follow each other, and the channels of their groups meet nowhere
    before the head.

    Why it matters: each group is a small network of its own; a filter of one cannot use what
    another has found.
    What to do: a 1 x 1 convolution, or a channel shuffle, between them.
    Known exceptions: two of them without an activation between (a large kernel in two parts); a
    convolution over all channels that follows.
    Source: Zhang et al. 2018, "ShuffleNet", arXiv:1707.01083, section 3.1; Howard et al. 2017,
    "MobileNets", arXiv:1704.04861, section 3.1: depthwise needs pointwise.
    """
    if not complete(evidence):
        return
    flow = Flow(evidence.trace)
    grouped = {i: g for i in flow.primitives(("conv",)) if (g := _count_groups(evidence, flow, i))}
    seen: set[int] = set()
    for i, groups in grouped.items():
        chain = [] if i in seen else _follow(flow, i, grouped)
        seen |= set(chain)
        if len(chain) <= LEAST - 1 or not _ends_in_head(flow, chain[-1]):
            continue
        first = flow.calls[i]
        yield Finding(
            module=first.fqn if first.fqn is not None else flow.owner(i),
            message=(
                f"{describe(first)} and {len(chain) - 1} more convolutions up to "
                f"{describe(flow.calls[chain[-1]])} have {groups} groups, and no layer between "
                "them or behind them mixes the channels of the groups"
            ),
            fix=(
                "put nn.Conv2d(channels, channels, 1) behind "
                f"{spoken(evidence, flow.owner(i))}, shuffle the channels, or set groups=1"
            ),
            source=first.source,
        )


def _count_groups(evidence: Evidence, flow: Flow, index: int) -> int:
    """The groups of a convolution; 0 for a single one, or where it is not known."""
    groups = option(evidence.trace, flow.calls[index], "groups", 1)
    return groups if isinstance(groups, int) and groups > 1 else 0


def _follow(flow: Flow, index: int, grouped: Mapping[int, int]) -> list[int]:
    """The convolutions of as many groups behind it, each behind an activation."""
    chain = [index]
    while True:
        following, bends = _step(flow, chain[-1])
        same = [r for r in following if grouped.get(r) == grouped[index]]
        if not bends or len(same) != 1 or len(following) != 1:
            return chain
        chain += same


def _step(flow: Flow, index: int) -> tuple[list[int], bool]:
    """The rows behind those that keep every channel in its place, and whether one of these is an
    activation.
    """
    found, bends = [], False
    stack = list(flow.readers.get(index, ()))
    while stack:
        reader = stack.pop()
        kind = operation(flow.calls[reader])
        if kind in _KEEPING:
            bends = bends or kind in NONLINEAR
            stack.extend(flow.readers.get(reader, ()))
        else:
            found.append(reader)
    return sorted(set(found)), bends


def _ends_in_head(flow: Flow, index: int) -> bool:
    """Whether what follows is pooled or flattened for a linear layer, and convolved no more."""
    after = {operation(flow.calls[r]) for r in flow.after(index)}
    return "conv" not in after and bool(after & PROJECTIONS) and "attention" not in after
