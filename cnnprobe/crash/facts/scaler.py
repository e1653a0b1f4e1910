"""The call of a GradScaler that raised, with its variables."""

from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.frames import get_path, list_frames

_FILE = "torch/amp/grad_scaler.py"


@dataclass(frozen=True, kw_only=True)
class ScalerCall:
    """A function of torch's GradScaler that raised."""

    function: str
    values: dict[str, Any]


def find_scaler_call(crash: Crash) -> ScalerCall | None:
    """The function of a GradScaler that raised itself; None where none did."""
    if not (frames := list_frames(crash.error)) or not get_path(frames[-1]).endswith(_FILE):
        return None
    return ScalerCall(function=frames[-1].f_code.co_name, values=dict(frames[-1].f_locals))
