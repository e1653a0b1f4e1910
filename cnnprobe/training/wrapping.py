"""A training step as a module around the model, and its trace with the model as the root again."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.records.trace import ModuleCall, TensorInfo, Trace
from cnnprobe.stats import summarise

PREFIX = "model"
SATURATED = 0.98  # |tanh| beyond it leaves less than 4 % of the gradient: 1 - 0.98**2
SATURATED_LOW = 0.01  # a sigmoid below it, or above 0.99, leaves less than 1 %
ORDERED = 4  # places along a dim, from which on their order can be told
SAMPLES, FEATURES, PLACES = 16, 256, 8  # along dim 0, dim 1 and the others, that are compared


class TrainingStep(nn.Module):
    """The step as a module around the model, so that the loss and the loop are recorded as the
    model's calls are.
    """

    def __init__(self, model: nn.Module, run: Callable[[], Any]) -> None:
        super().__init__()
        object.__setattr__(self, "run", run)
        self.training = getattr(model, "training", False)  # a frozen script has no mode
        self._modules[PREFIX] = model

    def forward(self) -> Any:
        """What the step returns. It runs once and is let go: it holds what holds this module, and
        all of that would live on until the collector comes.
        """
        return self.__dict__.pop("run")()


def summary(tensor: Tensor) -> dict[str, float | int] | None:
    """The statistics of a tensor, how far its samples are apart, and the share of values at the
    ends of a sigmoid's and a tanh's range.
    """
    statistics = summarise(tensor)
    if statistics is None:
        return None
    result = dict(statistics.as_mapping())
    if (
        not tensor.is_floating_point()
        or not tensor.numel()
        or tensor.layout is not torch.strided
        or (tensor.is_nested and type(tensor) is Tensor)
    ):
        return result
    with torch.no_grad(), torch._C.DisableTorchFunction():
        if tensor.dim() > 1 and tensor.shape[0] > 1:
            result["apart"] = measure_apart(tensor.detach())
        if tensor.dim() == 3 and min(tensor.shape[1:]) >= ORDERED:
            for dim in (1, 2):
                result[f"order_{dim}"] = measure_order(tensor.detach(), dim)
        if statistics.min >= -1.0 and statistics.max <= 1.0:
            values = tensor.detach()
            result["at_sigmoid_ends"] = float(
                ((values < SATURATED_LOW) | (values > 1 - SATURATED_LOW)).float().mean()
            )
            result["at_tanh_ends"] = float((values.abs() > SATURATED).float().mean())
    return result


def measure_apart(tensor: Tensor) -> float:
    """How far samples, along dim 0, are from their mean, relative to their size: the root mean
    square of one over that of the other, of some samples and places. 0 where all are the same.

    >>> measure_apart(torch.tensor([[1.0, 10.0], [-1.0, 10.0]])) < 0.1
    True
    """
    most = (FEATURES, *[PLACES] * (tensor.dim() - 2))
    places = (
        slice(None, None, max(1, n // m)) for n, m in zip(tensor.shape[1:], most, strict=True)
    )
    values = tensor[(slice(0, SAMPLES), *places)].float()
    size = values.square().mean().sqrt()
    return float((values - values.mean(0)).square().mean().sqrt() / size.clamp(min=1e-30))


def measure_order(tensor: Tensor, dim: int) -> float:
    """How far neighbours along a dim are apart, relative to any two places of it: mean squares, of
    some samples. About 1 where the places have no order, near 0 along the time of a signal.

    >>> time = torch.linspace(0, 6, 40).sin()[None, :, None].expand(2, 40, 5)
    >>> [round(measure_order(time + torch.arange(5.0) % 2, dim), 2) for dim in (1, 2)]
    [0.01, 1.67]
    """
    values = tensor[:SAMPLES].float()
    size = values.shape[dim]
    any_two = 2 * values.var(dim, unbiased=False).mean() * size / (size - 1)
    return float(values.diff(dim=dim).square().mean() / any_two.clamp(min=1e-30))


def unwrapped(trace: Trace, model: str) -> Trace:
    """The trace of a TrainingStep with the model as root again; the step itself is a row without
    fqn.
    """
    return replace(
        trace,
        model=model,
        modules=tuple(
            replace(
                m,
                fqn=_short(m.fqn),
                aliases=tuple(map(_short, m.aliases)),
                parameters=tuple(map(_short, m.parameters)),
            )
            for m in trace.modules
            if m.fqn
        ),
        calls=tuple(_shortened(call) for call in trace.calls),
        parameters=tuple(
            replace(p, fqn=_short(p.fqn), aliases=tuple(map(_short, p.aliases)))
            for p in trace.parameters
        ),
        failure=None
        if trace.failure is None
        else replace(trace.failure, module=_short(trace.failure.module)),
        notes=tuple(map(_reworded, trace.notes)),
        opaque=tuple(map(_short, trace.opaque)),
    )


def _reworded(note: str) -> str:
    """A note with the names of modules as their user knows them."""
    return note.replace(f"'{PREFIX}'", "the model").replace(f"'{PREFIX}.", "'")


def _short(fqn: str) -> str:
    return "" if fqn == PREFIX else fqn.removeprefix(PREFIX + ".")


def _shortened(call: ModuleCall) -> ModuleCall:
    if call.parent is None and call.fqn == "":
        return replace(
            call, fqn=None, kind="train_step", outputs=tuple(map(_renamed, call.outputs))
        )
    return replace(
        call,
        fqn=None if call.fqn is None else _short(call.fqn),
        inputs=tuple(map(_renamed, call.inputs)),
        outputs=tuple(map(_renamed, call.outputs)),
    )


def _renamed(info: TensorInfo) -> TensorInfo:
    return replace(info, source=_short(info.source)) if isinstance(info.source, str) else info
