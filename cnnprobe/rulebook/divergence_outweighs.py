"""The mean error of a variational autoencoder beside the summed divergence of its code."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation, option
from cnnprobe.diagnosis.evidence.questions import stat
from cnnprobe.diagnosis.evidence.scores import read_number
from cnnprobe.diagnosis.evidence.sums import HANDING
from cnnprobe.rulebook.material import images

# times what a sum of both has; Higgins et al. 2017 go to 4 for most pictures
HEAVY = 25.0
COLLAPSING = 4.0  # the same, where the observed steps collapse the code; Higgins et al. as above
ENOUGH = 50  # steps, in which the code of a sound one holds several nats
FALLEN = 0.5  # of the divergence at first, which is that of fresh layers: near 0
ERRORS = frozenset(
    {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
        "binary_cross_entropy_with_logits"}
)  # fmt: skip
NOISE = frozenset({"randn", "randn_like", "normal"})
SQUARES = frozenset({"pow", "mul"})


def _encoding(reduction: str) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    class Coder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mean, self.spread, self.back = nn.Linear(64, 4), nn.Linear(64, 4), nn.Linear(4, 64)

        def forward(self, x: Any) -> Any:
            mean, spread = self.mean(x.flatten(1)), self.spread(x.flatten(1))
            code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
            return self.back(code), mean, spread

    def loss_fn(output: Any, targets: Any) -> Any:
        made, mean, spread = output
        error: Any = functional.mse_loss(made, targets.flatten(1), reduction=reduction)
        apart = -0.5 * (1 + spread - mean**2 - spread.exp()).sum(1).mean()
        return error / (len(made) if reduction == "sum" else 1) + apart

    torch.manual_seed(0)
    model, inputs = Coder(), images()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    return {
        "model": model, "inputs": inputs, "targets": inputs, "loss_fn": loss_fn,
        "optimizer": optimizer,
    }  # fmt: skip


def sick() -> Mapping[str, Any]:
    """The mean over the pixels beside the sum over the code."""
    return _encoding("mean")


def healthy() -> Mapping[str, Any]:
    """The sum over both."""
    return _encoding("sum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outweighed:
    """An error that is a mean, and a divergence that is a sum."""

    flow: Flow
    error: int  # its row
    values: int  # of one sample, of which the error is the mean
    ratio: float  # how much more the divergence counts than where both are sums
    collapse: tuple[float, float] | None = None  # the sum of the divergence at first and at last

    @property
    def factor(self) -> float | None:
        """What the logarithm of the error is multiplied by for each value: 0.5 of a normal
        distribution, 1 of Laplace's; None where the error is a likelihood already.
        """
        kind = operation(self.flow.calls[self.error])
        if kind.startswith("binary"):
            return None
        made = self.flow.producer(self.flow.calls[self.error].inputs[0])
        is_absolute = made is not None and operation(self.flow.calls[made]) == "abs"
        return 1.0 if kind == "l1_loss" or is_absolute else 0.5


@rule(
    code="CP459", name="divergence-outweighs", severity=Severity.WARNING, examples=(sick, healthy)
)
def divergence_outweighs(evidence: Evidence) -> Iterator[Finding]:
    """In the loss of a VAE the reconstruction error is a mean over all values, and the KL
    divergence is a sum over the dims of the code, which outweighs it.

    Why it matters: against a likelihood, which is a sum over the pixels, the divergence counts as
    many times too much as there are values. The code becomes the prior, and holds nothing of the
    input (posterior collapse).
    What to do: of a squared error, half its logarithm times the number of values, the likelihood
    with the best deviation for all; of a binary cross entropy, the sum over the values of each
    sample. A sum of squared errors alone stands for a deviation of 1, more than that of most data:
    the code may still collapse.
    Known exceptions: a divergence whose weight makes up for it; weights of up to 25, and of up to 4
    where 50 or more steps are observed and the divergence of the code falls to half of what fresh
    layers have.
    Source: Kingma & Welling 2014, arXiv:1312.6114, equation 10; Higgins et al. 2017, "beta-VAE",
    which normalises beta by the size of code and input; Rybkin et al. 2021, "Simple and Effective
    VAE Training with Calibrated Decoders", arXiv:2006.13202, equation 5.
    """
    for found in find_outweighed(evidence):
        name = describe(found.flow.calls[found.error])
        bound = HEAVY if found.collapse is None else COLLAPSING
        yield Finding(
            module=None,
            message=(
                f"{name} is the mean over the {found.values:,} values of a sample, but the "
                f"divergence of the code is a sum: it counts {found.ratio:,.0f} times as much as "
                f"where both are sums (more than {bound:g})"
            )
            + _say_collapse(evidence, found),
            fix=say_likelihood(found),
            source=found.flow.line(found.error),
            subject=name,
        )
        return


def _say_collapse(evidence: Evidence, found: Outweighed) -> str:
    if found.collapse is None:
        return ""
    first, last = found.collapse
    return (
        f", and in {len(evidence.steps)} steps it went from {first:.3g} to {last:.3g}: the code "
        "holds nothing of the input"
    )


def say_likelihood(found: Outweighed) -> str:
    """What makes the mean error of a row a likelihood of a whole sample."""
    name = describe(found.flow.calls[found.error])
    if found.factor is None:
        return f"{found.values} * {name}(...), the sum over the values of a sample"
    return (
        f"{found.factor * found.values:g} * {name}(...).log() in the place of {name}(...): the "
        "likelihood of a sample, with the deviation that fits the error"
    )


def find_outweighed(evidence: Evidence) -> Iterator[Outweighed]:
    """The pairs of both in the loss of the first step."""
    step = evidence.steps[0] if evidence.steps else None
    flow = Flow(step.trace) if step is not None else None
    for loss in step.losses if step is not None else ():
        if flow is None or loss.call is None:
            continue
        toward = flow.before(loss.call) | {loss.call}
        for row in sorted(toward):
            values = _count_values(evidence, flow, row)
            own = _weigh(flow, row, loss.call, toward) if values else 0.0
            other, end = _weigh_divergence(flow, row, loss.call, toward) if own else (0.0, row)
            ratio = other * values / own if own else 0.0
            collapse = _find_collapse(evidence, end) if COLLAPSING < ratio <= HEAVY else None
            if ratio > HEAVY or collapse is not None:
                yield Outweighed(
                    flow=flow, error=row, values=values, ratio=ratio, collapse=collapse
                )


def _find_collapse(evidence: Evidence, row: int) -> tuple[float, float] | None:
    """The size of a row's mean in the first and the last of enough steps, where it shrinks."""
    steps = evidence.steps
    if len(steps) < ENOUGH or len({len(steps[i].trace.calls) for i in (0, -1)}) > 1:
        return None
    calls = [steps[i].trace.calls[row] for i in (0, -1)]
    if len({call.source for call in calls}) > 1 or not all(call.outputs for call in calls):
        return None
    first, last = (abs(stat(call.outputs[0], "mean")) for call in calls)
    return (first, last) if last < FALLEN * first else None


def _count_values(evidence: Evidence, flow: Flow, row: int) -> int:
    """Of how many values of a sample a row is the mean error; 0 where it is none, or is not made
    with noise.
    """
    call = flow.calls[row]
    if not call.inputs or not flow.is_primitive[row]:
        return 0
    shape = call.inputs[0].shape
    is_mean = len(shape) > 1 and (
        _is_mean_by_hand(flow, row)
        if operation(call) == "mean"
        else operation(call) in ERRORS
        and option(evidence.trace, call, "reduction", "mean") == "mean"
    )
    has_noise = any(operation(flow.calls[i]) in NOISE for i in flow.before(row))
    return math.prod(shape[1:]) if is_mean and has_noise and call.inputs[0].requires_grad else 0


def _is_mean_by_hand(flow: Flow, row: int) -> bool:
    """Whether a row is the mean of all squares or sizes of differences from something without a
    gradient.
    """
    powers = flow.producer(flow.calls[row].inputs[0])
    if flow.calls[row].outputs[0].shape != () or powers is None:
        return False
    call = flow.calls[powers]
    if operation(call) not in SQUARES | {"abs"} or not call.inputs:
        return False
    origins = {flow.producer(info) for info in call.inputs}
    if len(origins) != 1 or None in origins:
        return False
    (origin,) = origins
    apart = flow.calls[origin or 0]
    return (
        operation(apart) in ("sub", "rsub")
        and sum(not info.requires_grad for info in apart.inputs) == 1
    )


def _weigh_divergence(flow: Flow, error: int, end: int, toward: set[int]) -> tuple[float, int]:
    """The weight of a sum of a square and an exponential of what the error's code is made of, and
    its row; a weight of 0 where there is none.
    """
    before = flow.before(error)
    for row in sorted(toward - before):
        call = flow.calls[row]
        if operation(call) != "sum" or not call.inputs or len(call.inputs[0].shape) < 2:
            continue
        parts = flow.before(row) - before
        kinds = {operation(flow.calls[i]) for i in parts if _reads_any(flow, i, before)}
        if "exp" in kinds and kinds & SQUARES:
            weight = _weigh(flow, row, end, toward)
            is_total = call.outputs[0].shape == ()
            return (weight * call.inputs[0].shape[0] if is_total else weight), row
    return 0.0, error


def _reads_any(flow: Flow, row: int, rows: set[int]) -> bool:
    return any(flow.producer(info) in rows for info in flow.calls[row].inputs)


def _weigh(flow: Flow, row: int, end: int, toward: set[int]) -> float:
    """What a value of one sample, or a mean over them, is multiplied by on its way to the loss,
    without its sign; 0 where something else is done with it.
    """
    weight = 1.0
    while row != end:
        readers = [r for r in flow.readers.get(row, ()) if r in toward]
        if len(readers) != 1:
            return 0.0
        row = readers[0]
        call, kind = flow.calls[row], operation(flow.calls[row])
        number = read_number(flow, row)
        if kind in ("mul", "div"):
            if not number:
                return 0.0
            weight *= abs(number) if kind == "mul" else 1 / abs(number)
        elif kind == "sum":
            weight *= math.prod(call.inputs[0].shape)
        elif kind not in HANDING | {"add", "sub", "rsub"}:
            return 0.0
    return weight
