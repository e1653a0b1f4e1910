"""A gradient penalty whose norm is taken over too few dims, or over the batch."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import Evidence, Flow, argument, describe, operation
from cnnprobe.records.trace import ModuleCall
from cnnprobe.rulebook.material import images, layers

COORDINATES = 3  # channels of a point, whose gradient has a norm for each point


def _penalised(flat: bool) -> Mapping[str, Any]:
    import torch
    from torch import nn

    critic = layers(
        nn.Conv2d(2, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), lambda: nn.Linear(512, 1)
    )
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-3)

    def train_step(inputs: Any) -> None:
        made = torch.randn_like(inputs)
        mixed = (0.5 * inputs + 0.5 * made).requires_grad_()
        slope = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
        norms = slope.flatten(1).norm(dim=1) if flat else slope.norm(dim=1)
        optimizer.zero_grad()
        loss: Any = critic(made).mean() - critic(inputs).mean() + 10 * ((norms - 1) ** 2).mean()
        loss.backward()
        optimizer.step()

    inputs = images(channels=2)
    return {"model": critic, "inputs": inputs, "optimizer": optimizer, "train_step": train_step}


def sick() -> Mapping[str, Any]:
    """The norm over the channels alone."""
    return _penalised(flat=False)


def healthy() -> Mapping[str, Any]:
    """One norm for each sample."""
    return _penalised(flat=True)


@rule(code="CP457", name="penalty-of-places", severity=Severity.WARNING, examples=(sick, healthy))
def penalty_of_places(evidence: Evidence) -> Iterator[Finding]:
    """A gradient penalty pulls the norm of the gradient towards 1, and takes it at each place, or
    over the whole batch, and not for each sample.

    Why it matters: a slope of 1 at each of many places is a far steeper one for the sample, and
    one over the batch a far flatter one: the critic is no longer 1-Lipschitz.
    What to do: gradients.flatten(1).norm(2, dim=1), which gives one norm per sample.
    Known exceptions: points, whose gradient by two or three coordinates has one norm each, as in
    an eikonal loss.
    Source: Gulrajani et al. 2017, arXiv:1704.00028, algorithm 1.
    """
    step = evidence.steps[0] if evidence.steps else None
    if step is None or not any(e.kind == "grad" and e.effective for e in step.events):
        return
    flow = Flow(step.trace)
    for i in flow.primitives({"norm", "vector_norm"}):
        call = flow.calls[i]
        fault = _find_fault(call)
        if fault and _is_pulled_to_one(flow, i):
            yield Finding(
                module=None,
                message=(
                    f"the gradient penalty takes {fault}: {describe(call)} makes "
                    f"{tuple(call.outputs[0].shape)} of a gradient of shape "
                    f"{tuple(call.inputs[0].shape)} (one norm for each of "
                    f"{call.inputs[0].shape[0]} samples is usual)"
                ),
                fix="take the norm of each sample: gradients.flatten(1).norm(2, dim=1)",
                source=flow.line(i),
                subject=describe(call),
            )
            return


def _find_fault(call: ModuleCall) -> str:
    """What the norm of a gradient is taken of; "" where it is one for each sample, or the tensor is
    no gradient that torch.autograd.grad has given.
    """
    given = call.inputs[0] if len(call.inputs) == 1 and call.outputs else None
    if given is None or given.source is not None or not given.requires_grad:
        return ""
    shape, count = given.shape, math.prod(call.outputs[0].shape)
    if len(shape) < 3 or shape[0] < 2:
        return ""
    if count == 1:
        return "one norm over the whole batch"
    dim = argument(call, "dim")
    dims = dim if isinstance(dim, tuple | list) else (dim,)
    is_channels = tuple(dims) in ((1,), (1 - len(shape),))
    is_of_points = len(shape) == 3 and shape[1] <= COORDINATES
    return "a norm at each place" if is_channels and count > shape[0] and not is_of_points else ""


def _is_pulled_to_one(flow: Flow, row: int) -> bool:
    """Whether 1 is subtracted from the norm."""
    return any(
        operation(flow.calls[r]) in ("sub", "rsub") and argument(flow.calls[r], "other") == 1
        for r in flow.passes_on(row)
    )
