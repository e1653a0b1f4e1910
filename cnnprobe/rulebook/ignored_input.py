"""An input that makes no difference."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.diagnosis.evidence.questions import trainable, variable
from cnnprobe.rulebook.material import classifying, images


def _net(used: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.side = nn.Linear(64, 4), nn.Linear(3, 4)

        def forward(self, x: Any, extra: Any) -> Any:
            x = self.body(x.flatten(1))
            return x + self.side(extra if used else torch.zeros_like(extra))

    torch.manual_seed(0)
    return classifying(Net(), inputs=(images(), images()[:, 0, 0, :3].clone()))


def sick() -> Mapping[str, Any]:
    """The second input is replaced by zeros."""
    return _net(used=False)


def healthy() -> Mapping[str, Any]:
    """It is used."""
    return _net(used=True)


@rule(
    code="CP702",
    name="ignored-input",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit",),
)
def ignored_input(evidence: Evidence) -> Iterator[Finding]:
    """Noise in place of an input gives exactly the same output.

    Why it matters: the model does not look at it.
    What to do: see where it is dropped, overwritten, or multiplied by zero.
    Known exceptions: masks and lengths (tensors that are not floating); heads that start at zero
    are probed after a few steps.
    Source: two forward passes in eval mode.
    """
    values = [evidence.values[name] for name in trainable(evidence) if name in evidence.values]
    if len(evidence.steps) < 2 and (
        evidence.probes.spread_after == 0.0 or any(v.norm == 0 and len(v.shape) > 1 for v in values)
    ):
        return
    for path in evidence.probes.ignored:
        name = path or "its input"
        yield Finding(
            module="",
            message=f"noise in place of {name} changes the output by 0",
            fix=f"see where {variable(evidence, 'model')}.forward drops or overwrites {name}",
        )
