"""The call of a GradScaler that raised, with its variables."""

import traceback
from dataclasses import dataclass
from typing import Any

from cnnprobe.crash.crash import Crash

_FILE = "torch/amp/grad_scaler.py"


@dataclass(frozen=True, kw_only=True)
class ScalerCall:
    """A function of torch's GradScaler that raised."""

    function: str
    values: dict[str, Any]


def find_scaler_call(crash: Crash) -> ScalerCall | None:
    """The function of a GradScaler that raised itself; None where none did."""
    frames = [frame for frame, _ in traceback.walk_tb(crash.error.__traceback__)]
    if not frames or not frames[-1].f_code.co_filename.replace("\\", "/").endswith(_FILE):
        return None
    return ScalerCall(function=frames[-1].f_code.co_name, values=dict(frames[-1].f_locals))
