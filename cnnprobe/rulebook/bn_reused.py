"""One BatchNorm at two places."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying


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
    """One BatchNorm normalises the outputs of different layers.

    Why it matters: its running statistics are a mixture of both, right for neither in eval mode.
    What to do: a BatchNorm for each place.
    Known exceptions: a shared encoder that is called on several inputs: the same layer comes before
    it each time.
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
