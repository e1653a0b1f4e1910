"""The data that rules read, and the questions they ask of it: frozen, plain, without torch."""

from cnnprobe.diagnosis.evidence.asked import FreeLoss, FreeOutput
from cnnprobe.diagnosis.evidence.evidence import (
    Average,
    BackwardFault,
    Compounding,
    Dropped,
    Event,
    Evidence,
    Foresight,
    Gradient,
    Hidden,
    IdleAttribute,
    Loss,
    OptimizerInfo,
    Overwritten,
    Probes,
    Replay,
    Schedule,
    Step,
    Unread,
    Uses,
    Values,
    WrongDerivative,
)  # fmt: skip
from cnnprobe.diagnosis.evidence.flow import Flow, describe, sources_read
from cnnprobe.diagnosis.evidence.groups import (
    ARRANGING,
    CREATING,
    FORWARDING,
    LOSSES,
    NONLINEAR,
    NORMALISING,
    PROJECTIONS,
    RECTIFIERS,
    SQUASHING,
    argument,
    is_inplace,
    operation,
    operation_of_module,
    option,
)  # fmt: skip

__all__ = [
    "ARRANGING", "CREATING", "FORWARDING", "LOSSES", "NONLINEAR", "NORMALISING", "PROJECTIONS",
    "RECTIFIERS", "SQUASHING", "Average", "BackwardFault", "Compounding", "Dropped", "Event",
    "Evidence", "Flow", "Foresight", "FreeLoss", "FreeOutput", "Gradient", "Hidden",
    "IdleAttribute", "Loss", "OptimizerInfo",
    "Overwritten", "Probes", "Replay", "Schedule", "Step", "Unread", "Uses", "Values",
    "WrongDerivative", "argument", "describe", "is_inplace", "operation",
    "operation_of_module", "option", "sources_read",
]  # fmt: skip
