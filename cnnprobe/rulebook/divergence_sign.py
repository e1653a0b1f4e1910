"""A KL divergence with the wrong sign."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.diagnosis.evidence.bounds import find_bounds
from cnnprobe.diagnosis.evidence.loss_terms import KEEPING, is_maximised
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import images, stepping

LINEAR = KEEPING | {"add", "neg", "mul", "div", "sub", "rsub", "getitem"}


def _autoencoder(sign: float) -> Mapping[str, Any]:
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = nn.Linear(64, 8), nn.Linear(4, 64)

        def forward(self, x: Any) -> Any:
            mean, spread = self.encoder(x.flatten(1)).chunk(2, dim=1)
            noise = torch.randn_like(mean) if self.training else 0.0
            return self.decoder(mean + noise * torch.exp(0.5 * spread)), mean, spread

    def loop(model: Any, inputs: Any, targets: Any, optimizer: Any, _loss_fn: Any) -> None:
        optimizer.zero_grad()
        made, mean, spread = model(inputs)
        error = (made - targets).pow(2).mean()
        divergence = sign * 0.5 * (1 + spread - mean.pow(2) - spread.exp()).mean()
        (error + divergence).backward()
        optimizer.step()

    torch.manual_seed(0)
    return stepping(Net(), loop, targets=images().flatten(1))


def sick() -> Mapping[str, Any]:
    """The divergence without its minus."""
    return _autoencoder(1.0)


def healthy() -> Mapping[str, Any]:
    """With it."""
    return _autoencoder(-1.0)


@rule(
    code="CP417",
    name="divergence-sign",
    severity=Severity.ERROR,
    examples=(sick, healthy),
    family="loss-sign",
    explains=(
        "negative-loss",
        "divergence",
        "loss-not-decreasing",
        "lr-too-high",
        "exploding-gradient",
    ),
)
def divergence_sign(evidence: Evidence) -> Iterator[Finding]:
    """An exponential goes into the loss with a minus, as in a KL divergence that lacks its own.

    Why it matters: the loss falls without end as the argument of the exponential grows.
    What to do: put a minus before the sum: the KL divergence from a standard normal is -0.5 * (1 +
    logvar - mu**2 - logvar.exp()).sum().
    Known exceptions: an optimizer with maximize=True; an argument that is bounded, as that of a
    kernel, exp(-distance**2); an exponential behind anything but sums and constant factors is not
    judged.
    Source: Kingma and Welling 2013, arXiv:1312.6114, appendix B.
    """
    if is_maximised(evidence):
        return
    flow = Flow(evidence.trace)
    for loss in evidence.steps[0].losses if evidence.steps else ():
        falling = _find_falling_exponential(flow, loss.call)
        if falling is not None:
            yield Finding(
                module=None,
                message=(
                    f"{describe(flow.calls[falling])} goes into the loss with a minus: the loss "
                    "falls without end as its argument grows"
                ),
                fix=(
                    "put a minus before the sum; the KL divergence from a standard normal is -0.5 "
                    "* (1 + logvar - mu**2 - logvar.exp()).sum()"
                ),
                source=flow.line(falling),
            )


def _find_falling_exponential(flow: Flow, end: int | None) -> int | None:
    """A row exp(...) that goes into the loss through sums and constant factors only, with a minus:
    the loss has no lower bound.
    """
    toward = set() if end is None else flow.before(end) | {end}
    for i in flow.primitives({"exp"}):
        if (
            i in toward
            and flow.calls[i].outputs
            and flow.calls[i].outputs[0].requires_grad
            and find_bounds(flow, flow.producer(flow.calls[i].inputs[0]))[1] == math.inf
            and _find_signs(flow, i, end, toward) == {-1}
        ):
            return i
    return None


def _find_signs(flow: Flow, start: int, end: int | None, toward: set[int]) -> set[int]:
    """The signs with which a row goes into the loss, a 0 among them where that is not known."""
    found: set[int] = set()
    stack = [(start, 1)]
    while stack and len(found) < 2:
        index, sign = stack.pop()
        if index == end:
            found.add(sign)
            continue
        for reader in flow.readers.get(index, ()):
            if reader in toward:
                factor = _find_factor(flow.calls[reader], index)
                if factor == 0:
                    return {0}
                stack.append((reader, sign * factor))
    return found


def _find_factor(call: ModuleCall, index: int) -> int:
    """1 or -1, the sign that a linear row gives to one of its inputs; 0 for any other row."""
    kind = operation(call)
    if kind not in LINEAR:
        return 0
    if kind in ("mul", "div"):
        number = argument(call, "other", argument(call, "input"))
        if not isinstance(number, int | float) or number == 0:
            return 0
        return 1 if number > 0 else -1
    if kind == "sub":
        second = len(call.inputs) > 1 and call.inputs[1].source == index
        return 0 if second and call.inputs[0].source == index else -1 if second else 1
    return -1 if kind in ("neg", "rsub") else 1
