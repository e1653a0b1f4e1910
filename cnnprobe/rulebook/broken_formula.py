"""A function that is named like a known formula and computes something else."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow
from cnnprobe.diagnosis.evidence.divergences import find_divergences
from cnnprobe.diagnosis.evidence.softmaxes import find_scaled_up
from cnnprobe.rulebook.material import images, layers

FAR = 0.05  # of the spread at which a divergence is smallest: the step of the search


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
    yield from _list_scores(evidence)
    if evidence.steps:
        yield from _list_in_place(Flow(evidence.steps[0].trace))


def _list_scores(evidence: Evidence) -> Iterator[Finding]:
    """Scores of an attention that are multiplied by what they are to be divided by."""
    flow = Flow(evidence.trace)
    for index, size, factor in find_scaled_up(evidence, flow):
        yield Finding(
            module=flow.owner(index),
            message=(
                f"the scores of the attention are multiplied by {factor:.3g}: expected a division "
                f"by {size**0.5:.3g}, the square root of the {size} features that a query and a "
                "key have"
            ),
            fix=(
                "softmax(query @ key.transpose(-2, -1) / sqrt(features)) "
                "(Vaswani et al. 2017, arXiv:1706.03762, equation 1)"
            ),
            source=flow.line(index),
            kind="scores",
        )


def _list_in_place(flow: Flow) -> Iterator[Finding]:
    """Divergences that are no function, and draws that do not fit to them."""
    for found in find_divergences(flow):
        if not found.is_right:
            apart = abs(found.smallest - found.standard) > FAR
            where = (
                f"it is smallest at a spread of {found.smallest:g}"
                if apart
                else "the square of the mean does not count as the spread does"
            )
            yield Finding(
                module=flow.owner(found.index),
                message=(
                    "a term is no divergence from the standard normal distribution: expected the "
                    f"least value at a mean of 0 and a spread of {found.standard:g}, by its "
                    f"formula; {where}"
                ),
                fix=(
                    "-0.5 * (1 + logvar - mean ** 2 - exp(logvar)) of a log-variance; of the "
                    "logarithm of the deviation, logvar is twice that, in both places"
                ),
                source=flow.line(found.index),
                kind="divergence",
            )
        elif found.draw is not None:
            row, actual, wanted = found.draw
            yield Finding(
                module=flow.owner(row),
                message=(
                    f"noise is multiplied by {actual:.3g} for a spread of 0.8, and the divergence "
                    f"in the loss takes that spread for a deviation of {wanted:.3g}"
                ),
                fix="std = exp(0.5 * logvar) of a log-variance, exp(logstd) of that of a deviation",
                source=flow.line(row),
                kind="draw",
            )
