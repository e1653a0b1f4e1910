"""Changes outside of the model: other arguments of the loss, what is tried by itself, and advice."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.edits.edit import Edit


@dataclass(frozen=True, kw_only=True)
class ChangeLoss(Edit):
    """Give the loss another output or other targets, or take another loss."""

    function: Callable[[Any, Any], tuple[Any, Any]]  # of output and targets
    other: str = ""  # name of another function of torch.nn.functional


@dataclass(frozen=True, kw_only=True)
class Check(Edit):
    """A change that is tried by itself, without a forward of the model."""

    check: Callable[[], str]  # says what was seen: "it gives 4 parameters"; raises where it fails


@dataclass(frozen=True, kw_only=True)
class Advice(Edit):
    """What the user is to do; it cannot be tried."""
