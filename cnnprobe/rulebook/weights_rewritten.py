"""Weights that the forward draws anew."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import owner, spoken
from cnnprobe.rulebook.material import classifying

DIFFERENT = 1e-4  # of the output's size, between two passes with different seeds


def _net(redrawn: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(64, 32), nn.Linear(32, 4)

        def forward(self, x: Any) -> Any:
            if redrawn:
                nn.init.xavier_uniform_(self.body.weight)
            return self.head(self.body(x.flatten(1)).relu())

    torch.manual_seed(0)
    return classifying(Net())


def sick() -> Mapping[str, Any]:
    """An initialisation in the forward."""
    return _net(redrawn=True)


def healthy() -> Mapping[str, Any]:
    """None."""
    return _net(redrawn=False)


@rule(
    code="CP319",
    name="weights-rewritten",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("eval-nondeterminism", "loss-not-decreasing", "cannot-overfit", "update-undone"),
)
def weights_rewritten(evidence: Evidence) -> Iterator[Finding]:
    """The forward writes new random values to a trainable weight.

    Why it matters: what the optimizer has changed is overwritten before it is used.
    What to do: initialise in __init__, not in forward.
    Known exceptions: weights that the forward only normalises, as an Embedding with max_norm does.
    Source: the versions of the parameters before and after a pass in eval mode, and two passes with
    different seeds.
    """
    gap = evidence.probes.repeat
    if gap is None or gap < DIFFERENT:
        return
    for name in evidence.probes.rewritten:
        yield Finding(
            module=owner(name),
            message=(
                f"a forward pass in eval mode writes to {spoken(evidence, owner(name))}."
                f"{name.rpartition('.')[2]}, and two passes differ by {gap:.1e} of the output's "
                "size"
            ),
            fix="initialise it in __init__, and not in forward",
        )
