"""Arithmetic of small whole numbers that leaves their range."""

from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import find_given, stat
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import images, layers

_SMALL = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}
_NEAR = 0.01  # of a mean; what wraps around moves it by 256 for each value


def _shifted(early: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn
    from torch.nn import functional

    net = layers(nn.Flatten(), lambda: nn.Linear(64, 4))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)

    def train_step(inputs: Any, targets: Any) -> None:
        x = inputs.float() - 128 if early else (inputs - 128).float()
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(net(x / 128), targets)
        loss.backward()
        optimizer.step()

    return {
        "model": net,
        "inputs": (images() * 40 + 128).clamp(0, 255).to(torch.uint8),
        "targets": torch.arange(8) % 4,
        "optimizer": optimizer,
        "train_step": train_step,
    }


def sick() -> Mapping[str, Any]:
    """uint8 pixels less 128, then to float."""
    return _shifted(early=False)


def healthy() -> Mapping[str, Any]:
    """To float, then less 128."""
    return _shifted(early=True)


@rule(code="CP335", name="integer-overflow", severity=Severity.ERROR, examples=(sick, healthy))
def integer_overflow(evidence: Evidence) -> Iterator[Finding]:
    """A sum, difference or product of uint8, int8 or int16 values wraps around.

    Why it matters: 100 - 128 is 228 in uint8 and 200 * 2 is 144: dark pixels become bright ones,
    and no error is raised.
    What to do: x.float() before the arithmetic.
    Known exceptions: none; the mean of what comes out is compared with that of what goes in.
    Source: torch's type promotion: a Python number does not widen the dtype of a tensor of the same
    category.
    """
    flow = Flow(evidence.trace)
    for i in flow.primitives({"add", "sub", "mul"}):
        call = flow.calls[i]
        dtype = call.outputs[0].dtype if call.outputs else ""
        if dtype not in _SMALL or not call.inputs:
            continue
        wanted = _expect_mean(evidence, flow, call)
        made = stat(call.outputs[0], "mean")
        if wanted is None or not abs(made - wanted) > _NEAR * max(1.0, abs(wanted)):
            continue
        low, high = _SMALL[dtype]
        yield Finding(
            module=flow.owner(i),
            message=(
                f"{describe(call)} of {dtype} wraps around at {low} and {high}: the mean of its "
                f"result should be {wanted:.3g}, and is {made:.3g}"
            ),
            fix="x.float() before it",
            source=flow.line(i),
            subject=describe(call),
        )


def _expect_mean(evidence: Evidence, flow: Flow, call: ModuleCall) -> float | None:
    """The mean of a result in numbers without bounds; None where it does not follow from means."""
    means = []
    for info in call.inputs:
        given = find_given(evidence, flow, info)
        if given is None or given.shape != call.outputs[0].shape:
            return None
        means.append(stat(given, "mean"))
    numbers = [v for v in call.arguments.values() if type(v) is int]
    kind = operation(call)
    if len(means) == 1 and len(numbers) == 1:
        pair = [means[0], float(numbers[0])]
        pair = pair[::-1] if "rsub" in call.kind else pair
    elif len(means) == 2 and not numbers and kind != "mul":
        pair = means
    else:
        return None
    return {"add": pair[0] + pair[1], "sub": pair[0] - pair[1], "mul": pair[0] * pair[1]}[kind]
