"""A function that is named like a known formula and computes something else."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.rulebook.material import images, layers


def _training(power: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    def focal_loss(output: Any, targets: Any, gamma: float = 2.0) -> Any:
        p = output.sigmoid()
        mine = torch.where(targets > 0, p, 1 - p)
        weight = (1 - mine) ** gamma if power else (1 - mine) * gamma
        return -(weight * mine.log()).mean()

    model = layers(nn.Flatten(), lambda: nn.Linear(64, 32), nn.ReLU(), lambda: nn.Linear(32, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = images()
    targets = (given[:, :, 0, 0] > 0).float()
    return {
        "model": model, "inputs": given, "targets": targets, "loss_fn": focal_loss,
        "optimizer": optimizer,
    }  # fmt: skip


def sick() -> Mapping[str, Any]:
    """A focal loss that multiplies by gamma."""
    return _training(power=False)


def healthy() -> Mapping[str, Any]:
    """It is the exponent."""
    return _training(power=True)


@rule(code="CP453", name="broken-formula", severity=Severity.WARNING, examples=(sick, healthy))
def broken_formula(evidence: Evidence) -> Iterator[Finding]:
    """A function or module of a known name does not have a property of its formula.

    Why it matters: the loss falls all the same, and what is learned is something else.
    What to do: compare it with the formula that the finding names, at the inputs that it names.
    Known exceptions: only functions of the user's own files with a name that says the formula
    (focal, dice, iou, kl, reparameterize, mixup, label smoothing, attention, total variation, gram,
    ssim, triplet, info_nce, drop_path, layer norm, huber and others); variants whose names say so
    are left out.
    Source: that of each formula stands in its finding; the functions are called once more, on
    inputs whose answer is known.
    """
    for broken in evidence.code.broken:
        yield Finding(
            module=None,
            message=(
                f"{broken.name} is no {broken.formula}: expected {broken.expected}, got "
                f"{broken.found}"
            ),
            fix=f"{broken.fix} ({broken.reference})",
            source=broken.source,
            subject=broken.name,
        )
