"""A crash of an observed training step as a forward of its own: the trace that `probe` would give, and the explanation."""

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from cnnprobe.crash import Crash, failure_and_explanation
from cnnprobe.crash.facts.frames import read_arguments
from cnnprobe.explanation import Explanation
from cnnprobe.recorder import observe
from cnnprobe.trace import Trace


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What a training step was made of, as far as its caller said; `args` and `kwargs` are what the model was to be called with."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any]
    targets: Any = None
    loss_fn: Any = None
    optimizer: Any = None


def explain_again(error: BaseException, loop: Loop) -> tuple[Trace, Explanation | None]:
    """One more forward, as the step had called it: where it raises, it is the crash; else the loss, the backward or the optimizer is.

    The trace has the failure in it, of whichever stage.
    """
    args, kwargs = read_arguments(error, loop.model) or (loop.args, loop.kwargs)
    seen = observe(loop.model, args, kwargs)
    crash = Crash(
        error=seen.error or error, model=loop.model, trace=seen.trace, args=args, kwargs=kwargs
    )
    if seen.error is None:
        crash = replace(
            crash,
            output=seen.output,
            loss_fn=loop.loss_fn,
            targets=loop.targets,
            optimizer=loop.optimizer,
        )
    failure, explanation = failure_and_explanation(crash)
    return (seen.trace if failure is None else replace(seen.trace, failure=failure)), explanation
