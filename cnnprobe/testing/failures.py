"""How an assertion fails: what, where, fix, and every difference, in one AssertionError."""

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from torch import nn
from torch.nn.utils.rnn import PackedSequence

from cnnprobe.diagnosis import to_finding
from cnnprobe.errors import UsageError, suggest
from cnnprobe.recorder import Observation, observe
from cnnprobe.records.trace import Trace
from cnnprobe.records.words import format_counted
from cnnprobe.report import Report

MOST_LINES = 40  # of differences in one message; beyond that a terminal no longer helps

Inputs = Any
"""A tensor, a tuple of positional arguments, or a dict of keyword arguments."""


def fail(
    what: str,
    *,
    where: str = "",
    fix: str = "",
    details: Sequence[str] = (),
    report: Report | None = None,
) -> NoReturn:
    """Raise AssertionError with the whole message; a report with more of it than the message goes
    along as its `report`.
    """
    __tracebackhide__ = True
    lines = [what, *(f"  {line}" for line in details[:MOST_LINES])]
    if len(details) > MOST_LINES:
        lines.append(f"  ... and {len(details) - MOST_LINES} more")
    if where:
        lines.append(f"  where: {where}")
    if fix:
        lines.append(f"  fix:   {fix}")
    error = AssertionError("\n".join(lines))
    error.__dict__["report"] = report
    raise error


def split_arguments(inputs: Inputs) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Positional and keyword arguments that `inputs` stands for."""
    if isinstance(inputs, tuple) and not isinstance(inputs, PackedSequence):
        return inputs, {}
    if isinstance(inputs, dict) and all(isinstance(name, str) for name in inputs):
        return (), inputs
    return (inputs,), {}


def observe_model(model: nn.Module, inputs: Inputs, *, statistics: bool = False) -> Observation:
    """One neutral forward pass that must succeed."""
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    observation = observe(model, args, kwargs, statistics=statistics)
    if observation.error is not None:
        fail_with_error(model, inputs, observation.trace, observation.error)
    return observation


def fail_with_error(
    model: nn.Module, inputs: Inputs, trace: Trace, error: BaseException
) -> NoReturn:
    """Fail because the model raised, with the exception as the cause, and with what is known of
    why.
    """
    __tracebackhide__ = True
    args, kwargs = split_arguments(inputs)
    failure = trace.failure
    if failure is None or not isinstance(error, Exception):
        raise error
    from cnnprobe.crash import Crash, explain  # for those whose model crashes

    finding = to_finding(
        failure, explain(Crash(error=error, model=model, trace=trace, args=args, kwargs=kwargs))
    )
    place = f"module '{failure.module}'" if failure.module else "the model's own forward"
    try:
        fail(
            (
                f"the {failure.stage}{' pass' if failure.stage in ('forward', 'backward') else ''} "
                f"raised {failure.error}"
            ),
            details=[] if finding.rule == "unknown" else [f"{finding.rule}: {finding.message}"],
            where=f"{place} ({failure.operation})"
            + (f", {failure.source}" if failure.source else ""),
            fix=finding.fix,
        )
    except AssertionError as failed:
        raise failed from error


def match_names(names: Iterable[str], patterns: Iterable[str], *, what: str) -> set[str]:
    """The names that any of the glob patterns matches; a pattern that matches nothing is an
    error.
    """
    names = list(names)
    found: set[str] = set()
    for pattern in patterns:
        hits = {name for name in names if fnmatch.fnmatchcase(name, pattern)}
        if not hits:
            raise UsageError(
                f"the pattern {pattern!r} matches no {what}",
                where=f"{format_counted(len(names), what)}",
                fix=f"{suggest(pattern, names)} (patterns are fnmatch's: * and ?)",
            )
        found |= hits
    return found


def describe_place(trace: Trace, index: int) -> str:
    """A call in words: "module 'fc1' (Linear)", "torch.flatten in module 'head'"."""
    call = trace.calls[index]
    if call.fqn is not None:
        return (
            f"module '{call.fqn}' ({call.kind})" if call.fqn else f"the model itself ({call.kind})"
        )
    parent = trace.calls[call.parent].fqn if call.parent is not None else ""
    return (
        f"{call.kind} in {f'module {parent!r}' if parent else 'the forward of ' + trace.model}"
        + (f", {call.source}" if call.source else "")
    )
