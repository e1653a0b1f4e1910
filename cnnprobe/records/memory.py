"""The memory that a model takes, as a function of the batch, as plain frozen data. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field

TRAINING = "training"
INFERENCE = "inference"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUse:
    """Bytes of live tensors at one batch size; the parts are those at the moment of the peak."""

    batch: int
    peak: int
    on_cpu: int = 0  # the peak with the copies that oneDNN makes of a convolution's tensors
    parts: Mapping[str, int] = field(default_factory=dict)  # in the order of PARTS
    saved: int = 0  # kept for the backward pass when the forward is over


PARTS = (
    "parameters",
    "buffers",
    "optimizer state",
    "gradients",
    "inputs",
    "activations",
    "temporary",
)
"""What holds memory: `activations` were made by the forward pass, `temporary` by the backward pass
or the optimizer, gradients of parameters left out.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryWay:
    """One way to run a model: `base + slope * batch` bytes at the peak, from `first` samples on."""

    name: str  # "training", "inference"
    autocast: str = ""  # the dtype, "" without
    given: MemoryUse | None  # at the given batch; None where the forward raises with so few samples
    base: int
    slope: int
    first: int
    # of the optimizer step, `step + step_slope * batch`; with foreach, as on a GPU
    step: int = 0
    step_slope: int = 0
    fits: int | None = None  # the largest batch within the limit; None: no limit was given
    # batch, and the peak of a pass that the line was not made from
    checked: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEffect:
    """What activation checkpointing of a module changes in training, at the given batch."""

    module: str
    saved: int  # bytes less that are kept for the backward pass
    peak: int  # bytes less at the peak
    macs: int  # multiply-accumulates that are made again
    share: float  # of the multiply-accumulates of a step without it
    fits: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """What a model needs, in each way to run it."""

    model: str
    batch: int  # as given
    input: tuple[tuple[int, ...], ...] = ()
    optimizer: str = ""
    limit: int | None = None  # bytes
    parameters: int = 0  # bytes
    buffers: int = 0
    state: int = 0  # bytes that the optimizer keeps after a step
    ways: tuple[MemoryWay, ...] = ()
    checkpoints: tuple[CheckpointEffect, ...] = ()
    notes: tuple[str, ...] = ()


def compute_peak(way: MemoryWay, batch: int) -> int:
    """Bytes at the peak with a batch, by the line of a way; exact from `way.first` samples on."""
    return max(way.base + way.slope * batch, way.step + way.step_slope * batch)
