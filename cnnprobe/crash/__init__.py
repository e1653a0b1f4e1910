"""A crash into an Explanation: the cause, the module to blame, and repairs that were tried. Runs shadows of the model, never the user's own."""

import contextlib
import contextvars
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from cnnprobe.crash.backward import explain_backward
from cnnprobe.crash.case import Case
from cnnprobe.crash.elsewhere import explain_elsewhere
from cnnprobe.crash.loading import explain_loading
from cnnprobe.crash.loss import explain_loss
from cnnprobe.crash.notes import add_note, brief
from cnnprobe.crash.optimizing import explain_step
from cnnprobe.crash.reasoning import explain_forward
from cnnprobe.crash.scaling import explain_scaling
from cnnprobe.crash.slips import explain_slip
from cnnprobe.crash.smallest import least_input
from cnnprobe.crash.training import Training, failure_of, stage_of, told
from cnnprobe.explanation import Explanation
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.trace import Failure, Trace

__all__ = ["Crash", "add_note", "brief", "explain", "failure_of", "least_input", "stage_of"]


_explaining = contextvars.ContextVar("explaining", default=False)


@dataclass(kw_only=True)
class Crash:
    """Everything that is known of a crash; only `error` is needed, and what is left out is read from its frames where possible."""

    error: BaseException
    model: nn.Module | None = None
    trace: Trace | None = None  # of the latest forward
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    output: Any = None
    loss_fn: Any = None
    targets: Any = None
    loss: Any = None
    optimizer: Any = None


def explain(crash: Crash) -> Explanation | None:
    """The explanation of a crash of the forward, the loss, the backward or the optimizer step.

    The model, its inputs and the random generators are left as they are; a crash that cannot be explained gives None rather than
    another exception.

    >>> import torch
    >>> from cnnprobe.recorder import observe
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 2))
    >>> seen = observe(model, (torch.ones(3, 4),), {})
    >>> explanation = explain(Crash(error=seen.error, model=model, trace=seen.trace, args=(torch.ones(3, 4),)))
    >>> explanation.diagnosis, explanation.module, explanation.repairs[0].title
    ('linear-in-features', '1', "set in_features=8 in '1' (now 9)")
    """
    if (
        _explaining.get()
    ):  # a shadow of a decorated model records itself as well; it is not to be explained again
        return None
    token = _explaining.set(True)
    try:
        return _guarded(crash)
    finally:
        _explaining.reset(token)


def _guarded(crash: Crash) -> Explanation | None:
    for lenient in (
        False,
        True,
    ):  # whatever we stumble over, the user's own exception is what counts
        with contextlib.suppress(Exception):
            return explained(crash, lenient=lenient)
    return None


def explained(crash: Crash, *, lenient: bool = False) -> Explanation:
    """As `explain`, but an error of our own is raised: for tests. A `lenient` one passes over what stumbles."""
    with preserved_generators():  # layers that are made for a trial draw their weights
        return _explained(crash, lenient=lenient)


def _explained(crash: Crash, *, lenient: bool) -> Explanation:
    stage = stage_of(crash.error, crash.trace)
    if stage == "forward" and crash.model is not None and crash.trace is not None:
        case = Case(
            error=crash.error,
            trace=crash.trace,
            model=crash.model,
            args=crash.args,
            kwargs=crash.kwargs,
            lenient=lenient,
        )
        return explain_forward(case)
    training = Training(**{name: getattr(crash, name) for name in Training.__dataclass_fields__})
    verdict = (
        explain_loading(training)
        or explain_scaling(training)
        or explain_elsewhere(training)
        or explain_slip(training)
        or {"backward": explain_backward, "step": explain_step}.get(stage, explain_loss)(training)
    )
    return told(training, stage, verdict)


def failure_and_explanation(crash: Crash) -> tuple[Failure | None, Explanation | None]:
    """The Failure of a crash outside the forward, with its explanation."""
    explanation = explain(crash)
    if explanation is None or explanation.stage == "forward":
        return None, explanation
    return failure_of(
        crash.error, explanation.stage, explanation.source, explanation.raised_in
    ), explanation
