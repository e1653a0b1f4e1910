"""Changes outside of the model: of the loss, what is tried by itself, and advice."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cnnprobe.crash.edits.edit import Edit


def _keep(output: Any, targets: Any) -> tuple[Any, Any]:
    return output, targets


@dataclass(frozen=True, kw_only=True)
class ChangeLoss(Edit):
    """Give the loss another output, other targets or other options, or take another loss."""

    loss: Any  # the Loss that is called again
    function: Callable[[Any, Any], tuple[Any, Any]] = _keep  # of output and targets
    options: Mapping[str, Any] = field(default_factory=dict)
    other: str = ""  # name of another function of torch.nn.functional


@dataclass(frozen=True, kw_only=True)
class Check(Edit):
    """A change that is tried by itself, without a forward of the model."""

    check: Callable[[], str]  # says what was seen: "it gives 4 parameters"; raises where it fails


@dataclass(frozen=True, kw_only=True)
class Advice(Edit):
    """What the user is to do; it cannot be tried."""
