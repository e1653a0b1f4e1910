"""A residual that a ReLU or another bounded layer keeps on one side."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, describe, operation
from cnnprobe.diagnosis.evidence.bounds import find_bounds
from cnnprobe.diagnosis.evidence.questions import LossCall, loss_calls
from cnnprobe.rulebook.material import classifying, images

REGRESSION = ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")
MANY = 0.25  # of the elements of the targets, on the side that cannot be reached


def _denoising(rectified: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Denoiser(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
            self.net.extend([nn.Conv2d(8, 1, 3, padding=1), *([nn.ReLU()] if rectified else [])])

        def forward(self, x: Any) -> Any:
            return x - self.net(x)

    torch.manual_seed(0)
    clean = images()
    noisy = clean + 0.3 * torch.randn(clean.shape)
    return classifying(Denoiser(), inputs=noisy, targets=clean, loss_fn=nn.MSELoss())


def sick() -> Mapping[str, Any]:
    """A denoiser that can only take away."""
    return _denoising(rectified=True)


def healthy() -> Mapping[str, Any]:
    """It adds and takes away."""
    return _denoising(rectified=False)


@rule(
    code="CP482",
    name="one-sided-residual",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    explains=("dead-relu", "loss-not-decreasing", "cannot-overfit", "zero-grad"),
)
def one_sided_residual(evidence: Evidence) -> Iterator[Finding]:
    """The output is the input plus or minus something that is never below 0, and the targets lie on
    both sides of the input.

    Why it matters: where the target is on the other side, the best answer is to change nothing: the
    last layer goes to 0, and the model hands on its input.
    What to do: no ReLU, sigmoid or softplus after the last layer of a residual.
    Known exceptions: less than a quarter of the targets on the other side.
    Source: Zhang et al. 2017, "Beyond a Gaussian Denoiser", arXiv:1608.03981, section III: the last
    layer of the residual is a convolution alone.
    """
    if evidence.batch.offsets is None:
        return
    for loss in loss_calls(evidence):
        found = _find_side(loss) if loss.operation in REGRESSION else None
        if found is None:
            continue
        row, is_above = found
        share = evidence.batch.offsets[0 if is_above else 1]
        if share >= MANY:
            call = loss.flow.calls[row]
            yield Finding(
                module=loss.flow.owner(row),
                message=(
                    f"the output is never {'above' if is_above else 'below'} the input, by the way "
                    f"{describe(call)} is computed, but {share:.0%} of the targets are"
                ),
                fix=f"remove {describe(call)} after the last layer: a residual has both signs",
                source=loss.flow.line(row),
                subject=describe(call),
            )
            return


def _find_side(loss: LossCall) -> tuple[int, bool] | None:
    """The row of a residual of one sign, and whether no output is above the input; None where the
    output is no such sum.
    """
    flow, origin = loss.flow, loss.origin
    kind = loss.origin_operation
    inputs = flow.calls[origin].inputs if origin is not None else ()
    if origin is None or kind not in ("add", "sub") or len(inputs) != 2:
        return None
    for mine, other in ((0, 1), (1, 0)):
        row = flow.origin(inputs[other])
        outer = flow.outer(inputs[mine])
        if outer.source is not None or row is None or not inputs[other].requires_grad:
            continue
        low, high = find_bounds(flow, row)
        if low < 0 < high or (low, high) == (-math.inf, math.inf) or (kind == "sub" and mine):
            continue
        if operation(flow.calls[row]) in ("add", "sub"):
            continue
        return row, (low >= 0) == (kind == "sub")
    return None
