"""Runs training steps for their losses alone, with what stands around them; nothing is recorded."""

import math
import types
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cnnprobe.training import Request, make_step
from cnnprobe.training.events import LoopWatch
from cnnprobe.training.surroundings import Surroundings


class _Losses:
    """The value that the last backward of each step started from."""

    def __init__(self) -> None:
        self.latest = math.nan
        self._scale = 1.0

    def on(self, kind: str, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        """Take the loss of a backward, without what a GradScaler has multiplied it by."""
        if kind == "scale done":
            scale = getattr(scope.get("self"), "_scale", None)
            self._scale = float(scale) if isinstance(scale, Tensor) else 1.0
        if kind == "backward":
            given = scope.get("tensors")
            loss = next(iter(given), None) if isinstance(given, list | tuple) else given
            if isinstance(loss, Tensor) and loss.numel() == 1:
                self.latest = float(loss.detach()) / self._scale


def run_losses(request: Request, around: Surroundings, count: int) -> tuple[float, ...]:
    """The losses of `count` steps; the model and all around it change.

    Raises:
        Exception: what the step raises.
    """
    step, losses, seen = make_step(request, around), [], _Losses()
    with LoopWatch(seen.on):
        for _ in range(count):
            seen.latest = math.nan
            step()
            losses.append(seen.latest)
            if not math.isfinite(seen.latest):
                break
    return tuple(losses)
