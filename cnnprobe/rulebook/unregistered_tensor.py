"""A tensor that the model uses and nobody moves or saves."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence
from cnnprobe.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying


def _net(registered: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 4)
            if registered:
                self.register_buffer("mean", torch.full((64,), 0.1))
            else:
                self.mean = torch.full((64,), 0.1)

        def forward(self, x: Any) -> Any:
            return self.body(x.flatten(1) - self.mean)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`self.mean = torch.full(...)`."""
    return _net(registered=False)


def healthy() -> Mapping[str, Any]:
    """`self.register_buffer("mean", torch.full(...))`."""
    return _net(registered=True)


@rule(code="CP303", name="unregistered-tensor", severity=Severity.WARNING, examples=(sick, healthy))
def unregistered_tensor(evidence: Evidence) -> Iterator[Finding]:
    """The forward uses a tensor attribute that is neither parameter nor buffer.

    Why it matters: .to(device) and .half() leave it where it is, and state_dict() does not save it.
    What to do: self.register_buffer(name, tensor).
    Known exceptions: a tensor that the forward itself replaces (a state, a cache).
    Source: torch.nn.Module.register_buffer.
    """
    for hidden in evidence.hidden:
        if hidden.kind == "tensor" and hidden.used and hidden.stable:
            base = hidden.name.partition("[")[0]
            yield Finding(
                module=hidden.owner,
                message=f"{spoken(evidence, hidden.owner)}.{hidden.name}, of shape {hidden.shape}, is used but is neither a parameter nor a buffer",
                fix=f'self.register_buffer("{base}", ...) in place of self.{base} = ...',
            )
