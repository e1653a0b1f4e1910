"""An initialisation that leaves the weights as they are."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import classifying


def _net(in_place: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))
            self.apply(self.draw)

        def draw(self, module: Any) -> None:
            if isinstance(module, nn.Linear):
                weight = module.weight.data
                (weight if in_place else weight.clone()).normal_(0, 0.2)

        def forward(self, x: Any) -> Any:
            return self.body(x)

    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """It draws into a copy of each weight."""
    return _net(in_place=False)


def healthy() -> Mapping[str, Any]:
    """It draws into the weight itself."""
    return _net(in_place=True)


@rule(
    code="CP214",
    name="init-ineffective",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "vanishing-activation",
        "vanishing-gradient",
        "constant-output",
        "cannot-overfit",
        "loss-not-decreasing",
        "bad-init",
        "missing-nonlinearity",
    ),
)
def init_ineffective(evidence: Evidence) -> Iterator[Finding]:
    """A function that draws weights is applied to the model, and changes none of them.

    Why it matters: the layers keep torch's own initialisation, with which deep networks without
    normalisation lose their signal.
    What to do: write to the weight itself, nn.init.kaiming_normal_(m.weight) or
    m.weight.data.normal_(0, std), and ask for the classes that the model has.
    Known exceptions: functions that draw nothing; functions that cannot be run on a copy of the
    model; a model beside the one that is asked about.
    Source: torch.nn.Module.apply, which drops what the function returns; torch.nn.init, whose
    functions write to the tensor that they are given.
    """
    for slip in evidence.texts.slips:
        if slip.kind == "init-of-copies":
            yield Finding(
                module="",
                message=(
                    f"`{slip.text}` changes no weight of the model: what {slip.name} draws goes to "
                    "copies, and apply() drops what it returns"
                ),
                fix=(
                    f"write to the weight itself in {slip.name}: "
                    "nn.init.kaiming_normal_(m.weight), or m.weight.data.normal_(0, std)"
                ),
                source=slip.value,
                kind=slip.kind,
                subject=slip.name,
            )
        elif slip.kind == "init-of-others":
            yield Finding(
                module="",
                message=(
                    f"`{slip.text}` changes no weight of the model: {slip.name} asks for "
                    f"{slip.value}, and the model has none"
                ),
                fix=f"ask in {slip.name} for the classes of the model's layers",
                source=slip.source,
                kind=slip.kind,
                subject=slip.name,
            )
