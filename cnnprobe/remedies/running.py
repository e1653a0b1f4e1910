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
        self._scales: dict[int, float] = {}  # of what a GradScaler was given, by its node's number

    def on(self, kind: str, scope: Mapping[str, Any], frame: types.FrameType) -> None:  # noqa: ARG002
        """Take the loss of a backward, without what a GradScaler has multiplied it by."""
        if kind == "scale done":
            scale = getattr(scope.get("self"), "_scale", None)
            node = getattr(scope.get("outputs"), "grad_fn", None)
            if isinstance(scale, Tensor) and node is not None:
                self._scales[node._sequence_nr()] = float(scale)
        if kind == "backward":
            given = scope.get("tensors")
            loss = next(iter(given), None) if isinstance(given, list | tuple) else given
            if isinstance(loss, Tensor) and loss.numel() == 1:
                self.latest = float(loss.detach()) / self._find_scale(loss)

    def _find_scale(self, loss: Tensor) -> float:
        """What a loss was multiplied by; 1 where it is not what a GradScaler gave."""
        before = loss.grad_fn.next_functions if loss.grad_fn is not None else ()
        numbers = [node._sequence_nr() for node, _ in before if node is not None]
        return next((self._scales[n] for n in numbers if n in self._scales), 1.0)


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
