"""A setting of the constructor's that the use of the object overwrites."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Overwritten
from cnnprobe.diagnosis.evidence.questions import spoken
from cnnprobe.rulebook.material import classifying


def _train(keep: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Weighted(nn.Module):
        def __init__(self, alpha: Any) -> None:
            super().__init__()
            self.alpha = torch.tensor(alpha)

        def forward(self, scores: Any, labels: Any) -> Any:
            if keep:
                alpha = self.alpha.gather(0, labels)
            else:
                self.alpha = alpha = self.alpha.gather(0, labels)
            return (alpha * nn.functional.cross_entropy(scores, labels, reduction="none")).mean()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))
    return {**classifying(model), "loss_fn": Weighted([0.5, 1.0, 1.0, 1.0])}


def sick() -> Mapping[str, Any]:
    """The weights of the samples replace those of the classes."""
    return _train(keep=False)


def healthy() -> Mapping[str, Any]:
    """They are a local variable."""
    return _train(keep=True)


@rule(code="CP541", name="setting-overwritten", severity=Severity.WARNING, examples=(sick, healthy))
def setting_overwritten(evidence: Evidence) -> Iterator[Finding]:
    """A method overwrites a setting that its object was constructed with, so that the next call
    computes something else.

    Why it matters: from the second call on, a loss has other weights, an average another decay, a
    layer another dropout, than the code says.
    What to do: put the value into a local variable.
    Known exceptions: a setting that several statements write to, as a switch; one that is
    multiplied or counted on, as a schedule; a running mean; a conversion of its dtype or device.
    Source: the text of the class, and the attribute before and after the observed steps;
    Megatron-LM #411, diffusers #1864 and Focal-Loss-Pytorch #9 are such cases.
    """
    for found in evidence.overwritten:
        place = spoken(evidence, found.owner) if found.module else found.owner
        yield Finding(
            module=found.owner if found.module else None,
            message=_say(place, found),
            fix=_repair(found),
            source=found.source,
            kind=found.kind,
            subject=f"{place}.{found.attribute}",
        )


def _say(place: str, found: Overwritten) -> str:
    where = f"{found.type}.{found.method}"
    if found.kind == "evaluation":
        before = found.before
        now = "as it does now" if before == found.after else f"in place of {before}"
        return (
            f"{where} sets self.{found.attribute} = {found.after} for evaluation and nothing sets "
            f"it back: after the first evaluation {place} trains with {found.after}, {now}"
        )
    made = "a part of itself" if found.kind == "selection" else "a value made of it"
    return (
        f"{where} overwrites self.{found.attribute} of {place} with {made} in each call: it was "
        f"{found.before} before the observed steps and is {found.after} after them"
    )


def _repair(found: Overwritten) -> str:
    name = found.attribute
    if found.kind == "evaluation":
        return f"use a local variable: {name} = self.{name} if self.training else {found.after}"
    return f"use a local variable: {found.text.removeprefix('self.')}"
