"""A draw from a learned distribution that no gradient goes through."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.rulebook.material import classifying


def _net(reparametrised: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.spread, self.fc = (nn.Linear(*n) for n in ((64, 8), (64, 8), (8, 4)))

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            drawn: Any = torch.distributions.Normal(self.mean(x), self.spread(x).exp())
            return self.fc(drawn.rsample() if reparametrised else drawn.sample())

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """sample() of a normal distribution whose mean and deviation are learned."""
    return _net(False)


def healthy() -> Mapping[str, Any]:
    """rsample()."""
    return _net(True)


@rule(
    code="CP213",
    name="sample-without-gradient",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("no-grad-path", "no-grad-params", "eval-nondeterminism"),
)
def sample_without_gradient(evidence: Evidence) -> Iterator[Finding]:
    """A layer gets a draw from a normal distribution whose mean is learned, made without gradient.

    Why it matters: what is behind the draw never tells the layers before it how to be better.
    What to do: rsample() in place of sample(), or mean + std * torch.randn_like(std).
    Known exceptions: draws that go to no layer, such as the actions of a policy.
    Source: Kingma & Welling 2014, "Auto-Encoding Variational Bayes", section 2.4;
    torch.distributions, "rsample()".
    """
    if not evidence.steps:
        return
    flow = Flow(evidence.steps[0].trace)
    for i in flow.primitives({"normal"}):
        call = flow.calls[i]
        if not call.outputs or call.outputs[0].requires_grad or flow.owner(i) is None:
            continue
        learned = any(
            operation(flow.calls[j]) in PROJECTIONS and flow.calls[j].outputs[0].requires_grad
            for j in flow.before(i)
        )
        if learned and any(operation(flow.calls[j]) in PROJECTIONS for j in flow.after(i)):
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"{describe(call)} draws by a mean or deviation that is learned, and no "
                    "gradient goes back through what it gives"
                ),
                fix="rsample() in place of sample(), or mean + std * torch.randn_like(std)",
                source=flow.line(i),
                subject=describe(call),
            )
            return
