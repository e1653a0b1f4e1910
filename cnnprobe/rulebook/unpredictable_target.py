"""A target of random numbers that nothing the model sees was made with."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import ARRANGING, Evidence, describe, operation
from cnnprobe.diagnosis.evidence.questions import loss_calls

DRAWING = frozenset(
    {"randn", "randn_like", "rand", "rand_like", "normal", "randint", "randint_like"}
)


def _loop(same: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(x: Any) -> None:
        noise = torch.randn_like(x)
        noisy = x + (noise if same else torch.randn_like(x))
        optimizer.zero_grad()
        loss: Any = nn.functional.mse_loss(model(noisy), noise)
        loss.backward()
        optimizer.step()

    inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
    return {"model": model, "inputs": inputs, "optimizer": optimizer, "train_step": train_step}


def sick() -> Mapping[str, Any]:
    """The noise that is added is drawn a second time."""
    return _loop(same=False)


def healthy() -> Mapping[str, Any]:
    """What is added is what is to be found again."""
    return _loop(same=True)


@rule(
    code="CP747",
    name="unpredictable-target",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=("cannot-overfit", "loss-not-decreasing"),
)
def unpredictable_target(evidence: Evidence) -> Iterator[Finding]:
    """The target of a loss is drawn at random in the step, and the model's input is not made with
    these numbers.

    Why it matters: nothing tells the model what they are; all it can learn is their mean.
    What to do: pass the noise on to the function that makes the input, and do not draw it again.
    Known exceptions: labels that are blurred with noise; a sample that the loss compares with
    others. A score on purpose, as of a network that is to forget, is your own decision.
    Source: Ho et al. 2020, "Denoising diffusion", arXiv:2006.11239, algorithm 1: the noise of the
    target is that of the input.
    """
    if not evidence.own_loop:
        return
    for loss in loss_calls(evidence):
        flow = loss.flow
        end = flow.producer(loss.prediction)
        drawn = flow.origin(loss.target, ARRANGING) if loss.target is not None else None
        if drawn is None or end is None or operation(flow.calls[drawn]) not in DRAWING:
            continue
        before = flow.before(end) | {end}
        if drawn in before or not any(flow.owner(i) is not None for i in before):
            continue
        call = flow.calls[drawn]
        yield Finding(
            module=None,
            message=(
                f"the target of {describe(loss.call)} is what {describe(call)} draws, and the "
                "prediction is made without it: its best value is the mean"
            ),
            fix="make the model's input with the same numbers, and do not draw them twice",
            source=call.source,
        )
