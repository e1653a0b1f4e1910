"""A trainable tensor that is not a parameter of the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying


def _net(registered: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 4)
            scale = torch.ones(4)
            self.scale = nn.Parameter(scale) if registered else scale.requires_grad_()

        def forward(self, x: Any) -> Any:
            return self.body(x.flatten(1)) * self.scale

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`torch.ones(4, requires_grad=True)`."""
    return _net(registered=False)


def healthy() -> Mapping[str, Any]:
    """`nn.Parameter(torch.ones(4))`."""
    return _net(registered=True)


@rule(
    code="CP302", name="unregistered-parameter", severity=Severity.ERROR, examples=(sick, healthy)
)
def unregistered_parameter(evidence: Evidence) -> Iterator[Finding]:
    """The forward uses a tensor that requires grad but is no parameter of the model.

    Why it matters: it gets gradients, but no optimizer built from parameters() ever changes it, and
    it is not saved.
    What to do: `self.x = nn.Parameter(...)`, as the last thing done to it:
    nn.Parameter(...).to(device) or * 0.01 gives a plain tensor again.
    Known exceptions: none.
    Source: torch.nn.parameter.Parameter, "when they're assigned as Module attributes they are
    automatically added to the list of its parameters".
    """
    for hidden in evidence.hidden:
        if hidden.kind == "parameter" and hidden.used:
            name = f"{spoken(evidence, hidden.owner)}.{hidden.name}"
            base = hidden.name.partition("[")[0]
            yield Finding(
                module=hidden.owner,
                message=(
                    f"{name}, of shape {hidden.shape}, requires grad and is used, but is not "
                    "among the model's parameters"
                ),
                fix=f"self.{base} = nn.ParameterList(...)"
                if "[" in hidden.name
                else f"self.{base} = nn.Parameter(...)",
            )
