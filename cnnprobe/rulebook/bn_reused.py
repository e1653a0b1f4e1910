"""One BatchNorm at two places."""

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import input_stats, spoken, stat
from cnnprobe.rulebook.material import classifying

DIFFERENT = 1.5  # of the least standard deviation: running_var is then off by more than a half


def _net(reused: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.bn1, self.bn2 = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
            self.fc = nn.Linear(256, 4)
            if reused:
                self.bn2 = self.bn1

        def forward(self, x: Any) -> Any:
            x = self.bn1(self.conv1(x)).relu()
            x = self.bn2(self.conv2(x)).relu()
            return self.fc(x.flatten(1))

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """One layer after two convolutions."""
    return _net(reused=True)


def healthy() -> Mapping[str, Any]:
    """Two layers."""
    return _net(reused=False)


@rule(
    code="CP601",
    name="bn-reused",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("train-eval-gap", "shared-module"),
)
def bn_reused(evidence: Evidence) -> Iterator[Finding]:
    """One BatchNorm normalises the outputs of different layers, or those of one layer in several
    steps that build on each other and differ.

    Why it matters: its running statistics are a mixture of both, right for neither in eval mode.
    What to do: a BatchNorm for each place.
    Known exceptions: a shared encoder that is called on several inputs: the same layer comes before
    it each time, and no call builds on another; steps whose outputs have about the same size.
    Source: Ioffe and Szegedy 2015, arXiv:1502.03167, section 3.1.
    """
    flow = Flow(evidence.trace)
    before: dict[str, dict[str | None, None]] = {}
    for i in flow.primitives({"batch_norm"}):
        fqn = flow.calls[i].fqn
        if (
            fqn is None
            or not flow.calls[i].inputs
            or evidence.trace.module(fqn).config.get("track_running_stats") is not True
        ):
            continue
        origin = flow.origin(flow.calls[i].inputs[0])
        if origin is not None and flow.calls[origin].fqn is not None:
            before.setdefault(fqn, {})[flow.calls[origin].fqn] = None
    for fqn, layers_before in before.items():
        made = [f for f in layers_before if f is not None and f != fqn]
        if len(made) > 1:
            yield Finding(
                module=fqn,
                message=(
                    f"{spoken(evidence, fqn)} normalises the outputs of {len(made)} layers: "
                    f"{', '.join(made)}"
                ),
                fix="give each of them a BatchNorm of its own",
            )
        elif (sizes := _find_drift(flow, fqn)) is not None:
            yield Finding(
                module=fqn,
                message=(
                    f"{spoken(evidence, fqn)} normalises what each of {len(sizes)} steps makes of "
                    f"the step before, with a standard deviation from {min(sizes):.3g} to "
                    f"{max(sizes):.3g}: its running statistics fit none of them"
                ),
                fix="give each step a BatchNorm of its own; the other layers may be shared",
            )


def _find_drift(flow: Flow, fqn: str) -> list[float] | None:
    """The standard deviations of what a BatchNorm gets, where each call but the first builds on
    the one before and they differ.
    """
    calls = [i for i in flow.primitives({"batch_norm"}) if flow.calls[i].fqn == fqn]
    if len(calls) < 2 or any(a not in flow.before(b) for a, b in itertools.pairwise(calls)):
        return None
    sizes = [stat(input_stats(flow, flow.calls[i].inputs[0]), "std") for i in calls]
    known = all(math.isfinite(size) and size > 0 for size in sizes)
    return sizes if known and max(sizes) > DIFFERENT * min(sizes) else None
