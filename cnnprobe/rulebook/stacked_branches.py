"""Branches that are joined along the height or the width in the place of the channels."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import (
    NONLINEAR,
    NORMALISING,
    Evidence,
    Flow,
    describe,
    operation,
    option,
)
from cnnprobe.diagnosis.evidence.questions import complete
from cnnprobe.records.words import format_counted
from cnnprobe.rulebook.material import classifying, images

MAP = 4  # dims
_BEHIND = NONLINEAR | NORMALISING | {"dropout"}


def _net(dim: int) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.narrow, self.wide = nn.Conv2d(1, 8, 1), nn.Conv2d(1, 8, 3, padding=1)
            self.fc = nn.Linear(16 if dim == 1 else 8, 4)

        def forward(self, x: Any) -> Any:
            x = torch.cat([self.narrow(x), self.wide(x)], dim=dim).relu()
            return self.fc(x.mean((2, 3)))

    torch.manual_seed(0)
    return classifying(Net(), inputs=images())


def sick() -> Mapping[str, Any]:
    """Along dim 2."""
    return _net(2)


def healthy() -> Mapping[str, Any]:
    """Along dim 1, the channels."""
    return _net(1)


@rule(code="CP326", name="stacked-branches", severity=Severity.WARNING, examples=(sick, healthy))
def stacked_branches(evidence: Evidence) -> Iterator[Finding]:
    """Maps that different layers make of the same tensor are concatenated along height or width.

    Why it matters: what the branches found at one place lies far apart; no kernel sees both, and
    one kernel is used for the features of all.
    What to do: torch.cat(..., dim=1).
    Known exceptions: maps of one row or column, as in coordinate attention; tiles and halves of an
    image, which do not come from the same tensor.
    Source: Szegedy et al. 2015, "Going deeper with convolutions", arXiv:1409.4842, section 4: the
    outputs of the branches are one vector of channels.
    """
    if not complete(evidence):
        return
    flow = Flow(evidence.trace)
    for i in flow.primitives(("cat",)):
        call = flow.calls[i]
        dim = option(evidence.trace, call, "dim", 0)
        shapes = {t.shape for t in call.inputs}
        if len(shapes) != 1 or not isinstance(dim, int) or len(call.inputs) <= 1:
            continue
        shape = next(iter(shapes))
        if len(shape) != MAP or dim % MAP not in (2, 3) or 1 in shape[2:]:
            continue
        made = [flow.origin(t, _BEHIND) for t in call.inputs]
        if any(m is None or operation(flow.calls[m]) != "conv" for m in made) or len(
            set(made)
        ) < len(made):
            continue
        given = {_read_given(flow, m) for m in made if m is not None}
        if len(given) == 1:
            side = "height" if dim % MAP == 2 else "width"
            count = format_counted(len(made), "branch", "branches")
            yield Finding(
                module=flow.owner(i),
                message=(
                    f"torch.cat puts the maps of {count} one behind the other along dim {dim}, "
                    f"{side}: {shape} becomes {call.outputs[0].shape} (the first is of "
                    f"{describe(flow.calls[made[0] or 0])})"
                ),
                fix="torch.cat(..., dim=1), with as many in_channels in the layer behind it",
                source=call.source,
            )


def _read_given(flow: Flow, index: int) -> object:
    """What the branch of a convolution begins with: the tensor before its first layer."""
    given = flow.data(index)
    source = None if given is None else given.source
    return source if source is not None else (given.shape if given is not None else None)
