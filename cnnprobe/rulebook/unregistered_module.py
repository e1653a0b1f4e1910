"""Layers in a plain Python list."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.evidence import Evidence, Hidden
from cnnprobe.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying


def _net(registered: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            blocks = [nn.Linear(64, 32), nn.Linear(32, 32)]
            self.blocks = nn.ModuleList(blocks) if registered else blocks
            self.head = nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            for block in self.blocks:
                x = torch.relu(block(x))
            return self.head(x)

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """`self.blocks = [Linear, Linear]`."""
    return _net(registered=False)


def healthy() -> Mapping[str, Any]:
    """`self.blocks = nn.ModuleList([Linear, Linear])`."""
    return _net(registered=True)


@rule(
    code="CP301",
    name="unregistered-module",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("unregistered-parameter", "unoptimized-params", "cannot-overfit"),
)
def unregistered_module(evidence: Evidence) -> Iterator[Finding]:
    """The forward uses a layer that the model does not know: it sits in a list, tuple or dict.

    Why it matters: its parameters are not in parameters() and are never trained; .to(device), .eval() and state_dict() pass it by.
    What to do: use nn.ModuleList or nn.ModuleDict.
    Known exceptions: a hidden module whose parameters are all frozen (a perceptual loss, a teacher) may be hidden on purpose.
    Source: torch.nn.ModuleList, "modules it contains are properly registered, and will be visible by all Module methods".
    """
    groups: dict[tuple[str, str], list[Hidden]] = {}
    for hidden in evidence.hidden:
        if hidden.kind == "module" and hidden.used and hidden.trainable:
            groups.setdefault((hidden.owner, hidden.name.partition("[")[0]), []).append(hidden)
    for (place, attribute), members in groups.items():
        kinds = ", ".join(dict.fromkeys(m.type for m in members))
        name = f"{spoken(evidence, place)}.{attribute}"
        yield Finding(
            module=place,
            message=f"{name} holds {len(members)} trainable modules ({kinds}) in a plain container: 0 of them are registered",
            fix=f"make it nn.ModuleList(...) where {attribute} is set (nn.ModuleDict for a dict)",
        )
