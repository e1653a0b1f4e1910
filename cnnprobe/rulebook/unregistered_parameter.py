"""A trainable tensor that is not a parameter of the model."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Hidden
from cnnprobe.diagnosis.evidence.containers import write_container
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
    groups: dict[tuple[str, str], list[Hidden]] = {}
    for hidden in evidence.hidden:
        if hidden.kind == "parameter" and hidden.used:
            base = hidden.name.partition("[")[0]
            groups.setdefault((hidden.owner, base), []).append(hidden)
    for (place, base), members in groups.items():
        yield _describe(spoken(evidence, place), base, members)


def _describe(place: str, base: str, members: list[Hidden]) -> Finding:
    """One finding of an attribute, however many tensors it holds."""
    first = members[0]
    if len(members) == 1:
        what = (
            f"{place}.{first.name}, of shape {first.shape}, requires grad and is used, but is not"
        )
    else:
        what = (
            f"{place}.{base} holds {len(members)} tensors (the first, {first.name}, of shape "
            f"{first.shape}) that require grad and are used, but are not"
        )
    fix = write_container(base, first.containers, "Parameter")
    return Finding(
        module=first.owner, message=f"{what} among the model's parameters", fix=fix, subject=base
    )
