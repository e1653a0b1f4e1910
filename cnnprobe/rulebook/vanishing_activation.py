"""Activations that shrink from layer to layer."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    FORWARDING,
    NORMALISING,
    PROJECTIONS,
    Evidence,
    Flow,
    describe,
    operation,
)
from cnnprobe.diagnosis.evidence.questions import rms, stat
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, layers

SMALL = 1e-4  # root mean square of a layer's output, relative to that of the model's input
LEAST = 2  # layers of weights before it: a single small one is `bad-init`
JOINING = frozenset({"add", "sub", "cat", "mul"})  # beside something that has kept its size
# What differs between samples, relative to a layer's output. Ten default convolutions with ReLU
# leave 1e-4; every one of them takes about half.
ALIKE, ALL_ALIKE = 1e-2, 1e-4  # where the loss was seen to stay; and where it was not watched
DEEP = 5  # layers that each take a part
ROUNDING = 1e-6  # of float32: below it nothing is known
TAKEN = 20.0  # times; a layer that takes more at once is to blame by itself
WATCHED, FALL = 20, 0.1  # steps, and by how much the loss falls where a net learns more than shares


def _net(std: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    model = layers(
        nn.Flatten(),
        *[part for _ in range(6) for part in ((lambda: nn.Linear(64, 64)), nn.ReLU())],
        lambda: nn.Linear(64, 4),
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            torch.nn.init.normal_(layer.weight, std=std)
            torch.nn.init.zeros_(layer.bias)
    return classifying(model)


def sick() -> Mapping[str, Any]:
    """N(0, 0.01) in each of seven layers: each gives a twentieth of what it gets."""
    return _net(0.01)


def healthy() -> Mapping[str, Any]:
    """N(0, 0.17), which keeps the size."""
    return _net(0.17)


@rule(
    code="CP108",
    name="vanishing-activation",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "vanishing-gradient",
        "constant-output",
        "lr-too-low",
        "loss-not-decreasing",
        "cannot-overfit",
    ),
)
def vanishing_activation(evidence: Evidence) -> Iterator[Finding]:
    """Within a few layers the activations shrink to almost nothing, compared with the input; or
    from layer to layer less of them differs between the samples, until they are all alike.

    Why it matters: the outputs hardly depend on the input, and the gradient shrinks by the same
    factor on its way back.
    What to do: initialise by fan-in (Kaiming), or put a normalisation between the layers.
    Known exceptions: the last layer, which may start small; layers in front of a normalisation;
    branches that are added to something of the usual size; layers behind a BatchNorm in eval mode,
    whose running statistics may be those of its initialisation. Samples that are alike count where
    five layers or more have each taken a part, and where the loss has fallen by less than a tenth
    in 20 steps or more; of fewer steps, where a ten-thousandth is left.
    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv:1502.01852, section 2.2: a net of
    30 layers with a standard deviation of 0.01 does not learn.
    """
    flow = Flow(evidence.trace)
    sizes = [rms(info) for info in evidence.inputs if info.dtype.startswith(("float", "bfloat"))]
    given = max([s for s in sizes if math.isfinite(s)], default=1.0)
    idle = {m.fqn for m in evidence.trace.modules if "BatchNorm" in m.kind and not m.training}
    rows = [i for i in flow.primitives(PROJECTIONS) if flow.owner(i) is not None]
    for i in rows[:-1]:
        call = flow.calls[i]
        size = rms(call.outputs[0] if call.outputs else None)
        before = [j for j in rows if j in flow.before(i)]
        if len(before) < LEAST or not 0 < size < SMALL * given:
            continue
        following = flow.passes_on(i, FORWARDING)
        is_normed = any(operation(flow.calls[j]) in NORMALISING for j in following)
        is_idle = any(flow.owner(j) in idle for j in flow.before(i))
        is_joined = any(operation(flow.calls[j]) in JOINING for j in flow.after(i))
        if not is_normed and not is_joined and not is_idle:
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"the output of {describe(call)}, behind "
                    f"{format_counted(len(before), 'layer')} of weights, has "
                    f"a root mean square of {size:.2g}; the model's input has {given:.2g} (more "
                    f"than {1 / SMALL:g} times as much)"
                ),
                fix="initialise the layers up to it by fan-in: nn.init.kaiming_normal_(weight)",
                source=call.source,
            )
            return
    yield from _find_alike(evidence, flow, rows[:-1])


def _find_alike(evidence: Evidence, flow: Flow, rows: Sequence[int]) -> Iterator[Finding]:
    """The layer at which the samples have become alike, where many have taken a part of what
    differs between them.
    """
    shares = {i: _read_share(flow, i) for i in rows}
    end = min((i for i in rows if shares[i] >= 0), key=lambda i: (shares[i], i), default=None)
    losses = [step.value for step in evidence.steps if step.value is not None]
    is_watched = len(losses) >= WATCHED
    if end is None or shares[end] >= (ALIKE if is_watched else ALL_ALIKE):
        return
    if is_watched and losses[-1] < losses[0] - FALL * abs(losses[0]):
        return
    behind = flow.before(end)
    chain = [i for i in rows if (i in behind or i == end) and shares[i] > ROUNDING]
    if sum(shares[b] < shares[a] for a, b in pairwise(chain)) < DEEP or any(
        shares[a] > TAKEN * shares[b] for a, b in pairwise(chain)
    ):
        return
    lost = next(i for i in chain if shares[i] < ALIKE)
    depth = sum(i in behind or i == end for i in rows)
    stays = f"; the loss went from {losses[0]:.4g} to {losses[-1]:.4g}" if len(losses) > 1 else ""
    yield Finding(
        module=flow.owner(lost),
        message=(
            f"{depth} layers in a row each take a part of what differs between the samples: it is "
            f"{shares[chain[0]]:.0%} of the output of {describe(flow.calls[chain[0]])}, "
            f"{shares[lost]:.2%} of that of {describe(flow.calls[lost])} (less than {ALIKE:.0%}), "
            f"and {shares[end]:.1e} of that of {describe(flow.calls[end])}{stays}"
        ),
        fix=(
            "initialise the layers by fan-in, as torch's default does not: "
            "nn.init.kaiming_normal_(weight), nn.init.zeros_(bias); or put a normalisation or skip "
            "connections between them"
        ),
        source=flow.line(lost),
        kind="alike",
    )


def _read_share(flow: Flow, index: int) -> float:
    """How far the samples are apart in a layer's output; -1 where that is not known."""
    outputs = flow.calls[index].outputs
    share = stat(outputs[0] if outputs else None, "apart")
    return share if math.isfinite(share) else -1.0
