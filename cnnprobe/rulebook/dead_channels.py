"""A layer of which most channels are dead, though not all."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import NORMALISING, RECTIFIERS, Evidence, Flow, operation
from cnnprobe.diagnosis.evidence.questions import spoken, stat
from cnnprobe.rulebook.material import classifying, layers

# share of the channels; a ReLU behind a symmetric initialisation shuts half of them where all
# samples are alike (He et al. 2015), and "as much as 40%" of a network dies of a high learning rate
# (Karpathy, CS231n)
DEAD = 0.75
DEVIATIONS = 2.5  # of a count of fair coins, beyond which it is no chance
LEAST = 4  # samples or positions that each channel is seen at


def _net(dead: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        lambda: nn.Conv2d(1, 20, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        lambda: nn.Linear(80, 4),
    )
    with torch.no_grad():
        model[0].bias[:dead] = -10.0
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """A bias of -10 in 16 of 20 filters."""
    return _net(16)


def healthy() -> Mapping[str, Any]:
    """In 14 of 20."""
    return _net(14)


@rule(
    code="CP107",
    name="dead-channels",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("vanishing-gradient", "cannot-overfit", "loss-not-decreasing"),
)
def dead_channels(evidence: Evidence) -> Iterator[Finding]:
    """Most channels of a layer, though not all, are zero behind their ReLU and get no gradient.

    Why it matters: the layer is as wide as its few channels that live; the others never learn.
    What to do: look at bias and initialisation of the layer, lower the learning rate, or use
    LeakyReLU.
    Known exceptions: half of the channels, which one batch of samples that are alike shuts by
    chance; a layer whose channels are all dead is dead-relu.
    Source: Lu et al. 2019, "Dying ReLU and Initialization", arXiv:1903.06733; the bound: He et al.
    2015, arXiv:1502.01852, section 2.2, half of the responses are positive.
    """
    silent = evidence.steps[-1].silent if evidence.steps else {}
    flow = Flow(evidence.trace)
    found: set[str] = set()
    for i in flow.primitives(RECTIFIERS):
        made, name, layer = flow.calls[i].outputs[:1], *_find_weight(flow, i)
        dead, value = silent.get(name, 0), evidence.values.get(name)
        if not made or value is None or name in found:
            continue
        count, width = stat(made[0], "count"), value.shape[0]
        share = stat(made[0], "zeros") / count if count else 0.0
        if count < LEAST * width or not _is_most(dead, width) or share < dead / width - 1e-9:
            continue
        found.add(name)
        place = spoken(evidence, layer)
        yield Finding(
            module=layer,
            message=(
                f"{dead} of {width} channels of {place} are zero behind its ReLU and get no "
                f"gradient in {len(evidence.steps)} of {len(evidence.steps)} steps (more than "
                f"{DEAD:.0%})"
            ),
            fix=(
                f"check the bias and the initialisation of {place}, lower the learning rate, or "
                "use LeakyReLU"
            ),
            source=flow.line(i),
        )


def _is_most(dead: int, width: int) -> bool:
    """Whether so many are dead beyond chance, and not all of them."""
    chance = width / 2 + DEVIATIONS * math.sqrt(width) / 2
    return max(DEAD * width, chance) <= dead < width


def _find_weight(flow: Flow, index: int) -> tuple[str, str | None]:
    """The weight whose rows are the channels of a ReLU, and the module to blame: a normalisation
    between them, else the layer.
    """
    before = _find_origin(flow, index)
    blamed = flow.owner(before)
    if before is not None and operation(flow.calls[before]) in NORMALISING:
        before = _find_origin(flow, before)
    if before is None or operation(flow.calls[before]) not in ("conv", "linear"):
        return "", None
    call = flow.calls[before]
    if call.fqn is not None:
        return (f"{call.fqn}.weight" if call.fqn else "weight"), blamed
    names = [t.source for t in call.inputs[1:2] if isinstance(t.source, str)]
    return (names[0] if names else ""), blamed


def _find_origin(flow: Flow, index: int) -> int | None:
    given = flow.data(index)
    return None if given is None else flow.origin(given)
