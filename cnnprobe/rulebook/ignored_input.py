"""An input that makes no difference."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, PROJECTIONS, Evidence, Flow
from cnnprobe.diagnosis.evidence.questions import trainable, variable
from cnnprobe.rulebook.material import classifying, images

IMAGE = 2  # dims that images have more than
BOUNDING = frozenset({"sigmoid", "tanh", "clamp", "add", "sub", "div", "mul"})  # to pixels


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
    are probed after a few steps; a parameter of the input's shape that the layers read in its
    place, as the image that a style transfer optimises.
    Source: two forward passes in eval mode.
    """
    values = [evidence.values[name] for name in trainable(evidence) if name in evidence.values]
    if len(evidence.steps) < 2 and (
        evidence.probes.spread_after == 0.0 or any(v.norm == 0 and len(v.shape) > 1 for v in values)
    ):
        return
    if _learns_image(evidence):
        return
    for path in evidence.probes.ignored:
        name = path or "its input"
        yield Finding(
            module="",
            message=f"noise in place of {name} changes the output by 0",
            fix=f"see where {variable(evidence, 'model')}.forward drops or overwrites {name}",
        )


def _learns_image(evidence: Evidence) -> bool:
    """Whether layers are given a parameter as their data that has the shape of an input's sample:
    it is the image that is optimised.
    """
    known, flow = trainable(evidence), Flow(evidence.trace)
    shapes = {info.shape[1:] for info in evidence.inputs if len(info.shape) > IMAGE}
    data = [flow.data(i) for i in flow.primitives(PROJECTIONS)]
    starts = [flow.outer(info, ARRANGING | BOUNDING) for info in data if info is not None]
    return any(
        info.source in known and known[info.source].shape[1:] in shapes
        for info in starts
        if isinstance(info.source, str)
    )
