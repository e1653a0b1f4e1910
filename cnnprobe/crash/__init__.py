"""A crash into an Explanation: the cause, the module to blame, and repairs that were tried."""

import contextlib
import contextvars
from dataclasses import replace

import torch
from torch import nn

from cnnprobe.crash.crash import NOTHING_SEEN, Crash, to_failure
from cnnprobe.crash.facts.frames import find_frames, read_arguments, remember_frames
from cnnprobe.crash.facts.loader import fetch_again
from cnnprobe.crash.facts.words import read_line
from cnnprobe.crash.least_input import least_input, least_multiple
from cnnprobe.crash.notes import add_note, brief
from cnnprobe.crash.ranking import explain_crash
from cnnprobe.crash.statement import to_explanation, to_forward
from cnnprobe.recorder import observe
from cnnprobe.recorder.preservation import preserved_generators
from cnnprobe.records.explanation import Explanation
from cnnprobe.records.trace import Failure

__all__ = [
    "NOTHING_SEEN",
    "Crash",
    "add_note",
    "brief",
    "explain",
    "explain_unseen",
    "explained",
    "least_input",
    "least_multiple",
]


_UNKNOWN = ("unknown", "shape-mismatch")
_explaining = contextvars.ContextVar("explaining", default=False)


def explain(crash: Crash) -> Explanation | None:
    """The explanation of a crash of the forward, the loss, the backward or the optimizer step.

    Runs copies of the model: it, its inputs and the random generators are left as they are. A
    crash that cannot be explained gives None rather than another exception.

    >>> import torch
    >>> from torch import nn
    >>> from cnnprobe.recorder import observe
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.Linear(9, 2))
    >>> seen = observe(model, (torch.ones(3, 4),), {})
    >>> crash = Crash(error=seen.error, model=model, trace=seen.trace, args=(torch.ones(3, 4),))
    >>> explanation = explain(crash)
    >>> explanation.diagnosis, explanation.module, explanation.repairs[0].title
    ('linear-in-features', '1', "set in_features=8 in '1' (now 9)")
    """
    if _explaining.get():  # a copy of a decorated model records itself too; it is not explained
        return None
    token = _explaining.set(True)
    try:
        for is_lenient in (False, True):  # the user's own exception is what counts
            crash.is_lenient = is_lenient
            with contextlib.suppress(Exception):
                return explained(crash)
        return None
    finally:
        _explaining.reset(token)


def explain_unseen(model: nn.Module, error: Exception) -> Explanation | None:
    """The explanation of an exception of a loop that was not recorded, which gets it as a note.

    A forward that raised is run once more, on the arguments that it had. A crash for want of
    memory, or in one process of several, is left alone.
    """
    if isinstance(error, torch.OutOfMemoryError) or _is_one_of_many():
        return None
    explanation = given = None
    with contextlib.suppress(Exception):  # the user's own exception is what counts
        crash = Crash(error=error, model=model)
        if (given := read_arguments(error, model)) is not None:
            seen = observe(model, *given)
            if type(seen.error) is not type(error):
                return None
            crash = replace(crash, trace=seen.trace, args=given[0], kwargs=given[1], memory={})
        explanation = explain(crash)
    if explanation is not None and given is not None and (frames := find_frames(error)):
        source = f"{frames[-1].filename}:{frames[-1].lineno}"  # of the loop's forward
        explanation = replace(explanation, source=source, line=read_line(source))
    if explanation is not None and explanation.diagnosis != "unknown":
        add_note(error, explanation)
    return explanation


def _is_one_of_many() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def explained(crash: Crash) -> Explanation:
    """As `explain`, but an error of our own is raised: for tests."""
    with (
        preserved_generators(),
        remember_frames(),
    ):  # layers that are made for a trial draw their weights
        again = None
        with crash.tolerate():
            again = fetch_again(crash.error)  # what a worker of a DataLoader raised
        found = crash if again is None else replace(crash, error=again, memory={})
        explanation = _explain_line(found)
        if again is None:
            return explanation
        return replace(explanation, error=f"{type(crash.error).__name__}: {crash.error}")


def _explain_line(crash: Crash) -> Explanation:
    """The explanation of a crash; of a line of the loop as of a forward, where no cause is known.

    So is that of a part of the model which the loop calls by itself.
    """
    calls = crash.trace.calls
    is_part = crash.stage == "forward" and bool(calls) and calls[0].fqn != ""
    explanation = explain_crash(crash)
    is_vague = explanation.diagnosis in _UNKNOWN or explanation.diagnosis == "failed-sample"
    if not is_part and (crash.stage != "loss" or not is_vague or explanation.arithmetic):
        return explanation
    with crash.tolerate():
        statement = to_forward(crash)
        found = explain_crash(statement) if statement is not None else None
        if found is not None and found.diagnosis not in _UNKNOWN:
            told = to_explanation(crash, found)
            where = (explanation.message,) if explanation.diagnosis == "failed-sample" else ()
            return replace(told, evidence=(*where, *told.evidence))
    return explanation


def failure_and_explanation(crash: Crash) -> tuple[Failure | None, Explanation | None]:
    """The Failure of a crash outside the forward, with its explanation."""
    if (explanation := explain(crash)) is None or explanation.stage == "forward":
        return None, explanation
    failure = to_failure(crash.error, explanation.stage, explanation.source, explanation.raised_in)
    return failure, explanation
