"""Is it still the same model? Aligns two forward passes and says at which levels they agree, and
all that differs, first divergence first.

Runs forward passes of its own, and a backward pass where gradients are asked for; models, inputs
and random generators stay as they were.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.comparison.backward import compare_backward
from cnnprobe.comparison.draft import STRUCTURE, build_outcome, has_equal_inputs, start_draft
from cnnprobe.comparison.numbers import Tolerance
from cnnprobe.comparison.passes import (
    Agreement,
    Side,
    align_traces,
    fit_inputs,
    has_other_rounding,
    run_both,
    run_plainly,
    set_mode,
    trace_structure,
)
from cnnprobe.comparison.sketch import compare_sketches
from cnnprobe.comparison.state import list_tensors
from cnnprobe.comparison.values import compare_numbers, compare_state_dicts, compare_train_numbers
from cnnprobe.errors import TargetError, UnknownNameError, suggest
from cnnprobe.recorder import has_fixed_mode, is_compiled, is_sharded, observe
from cnnprobe.recorder.inventory import check_hashable, check_model, class_of, is_lazy
from cnnprobe.records.differences import LEVELS, Outcome
from cnnprobe.records.trace import Trace

__all__ = [
    "Tolerance",
    "compare_models",
    "compare_traces",
    "list_tensors",
    "observe_as",
    "trace_structure",
]


def compare_models(
    actual: nn.Module,
    expected: nn.Module,
    inputs: tuple[tuple[Any, ...], Mapping[str, Any]],
    *,
    tolerance: Tolerance,
    level: str | None = None,
) -> Outcome:
    """The outcome of comparing two models on the same inputs, at all levels or only as far as
    `level` needs.

    Raises:
        UnknownNameError: there is no such level.
        TargetError: one of the two is no model, or a lazy one that has no shapes yet.
    """
    wanted = _list_wanted(level)
    for model, which in ((actual, "actual"), (expected, "expected")):
        _check(model, which)
    rounding = has_other_rounding(actual, expected)
    tolerance = replace(tolerance, rounding=tolerance.rounding or rounding)
    subjects = [Side(model=model, args=inputs[0], kwargs=inputs[1]) for model in (actual, expected)]
    if rounding:
        subjects = [_fit_subject(subject) for subject in subjects]
    compiled = is_compiled(actual) or is_compiled(expected)
    agreement = _run_first_pass(
        subjects, tolerance, activations="numbers" in wanted and not compiled
    )
    draft = start_draft(agreement.aligned)
    draft.notes += _list_limits(actual, expected)

    def run(*, training: bool) -> Agreement:
        if compiled:
            return run_plainly(agreement, subjects[0], subjects[1], tolerance, training=training)
        return (
            run_both(subjects[0], subjects[1], tolerance, training=True) if training else agreement
        )

    if "state_dict" in wanted:
        compare_state_dicts(draft, actual, expected)
    if "numbers" in wanted:
        compare_numbers(draft, "numbers", run(training=False))
    if "train_numbers" in wanted:
        compare_train_numbers(draft, run(training=True))
    if {"gradients", "autograd"} & set(wanted):
        compare_backward(draft, subjects, tolerance, wanted)
    names = [class_of(model).__name__ for model in (actual, expected)]
    return build_outcome(draft, names, wanted)


def compare_traces(
    actual: Trace, expected: Trace, *, rtol: float | None = None, atol: float | None = None
) -> Outcome:
    """The outcome of comparing two recorded forward passes: structure, and the statistics of every
    activation in place of its values.
    """
    draft = start_draft(align_traces(actual, expected))
    sketches = compare_sketches(draft.aligned, rtol, atol)
    if sketches is None:
        draft.notes.append("no statistics were recorded on both sides: numbers were not compared")
    else:
        draft.notes.append(
            "numbers are compared by the statistics of each activation: a report keeps no values"
        )
        apart = {k: found for k, found in sketches.items() if found is not None}
        draft.levels["numbers"] = not apart
        for k, found in apart.items():
            draft.add("numbers", k, found, inputs_equal=has_equal_inputs(draft.aligned, k, apart))
    return build_outcome(draft, (actual.model, expected.model), (*STRUCTURE, "numbers"))


def observe_as(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], *, like: Trace | None
) -> Trace:
    """A forward pass with statistics, in the mode in which the recording `like` was made."""
    _check(model, "other")
    training = (
        any(module.fqn == "" and module.training for module in like.modules)
        if like is not None
        else model.training
    )
    with set_mode(model, training=training):
        return observe(model, args, kwargs).trace


# -- preparing -------------------------------------------------------------------------------------


def _list_wanted(level: str | None) -> Sequence[str]:
    if level is None:
        return LEVELS
    if level not in LEVELS:
        raise UnknownNameError(
            f"no level named {level!r}", where="compare", fix=suggest(level, LEVELS)
        )
    return STRUCTURE if level in STRUCTURE else (*STRUCTURE, level)


def _check(given: object, which: str) -> None:
    model = check_model(given, f"the {which} model")
    check_hashable(model, f"the {which} model")
    if is_lazy(model):
        raise TargetError(
            "its parameters have no shapes yet",
            where=f"the {which} model, {type(model).__name__}",
            fix="call it once before comparing it",
        )
    if is_sharded(model):
        raise TargetError(
            "its values are sharded over several processes",
            where=f"the {which} model, {type(model).__name__}",
            fix="compare the models before fully_shard is applied",
        )


def _fit_subject(subject: Side) -> Side:
    """The subject with inputs in the dtype and on the device of its model."""
    return replace(
        subject,
        args=fit_inputs(subject.args, subject.model),
        kwargs=fit_inputs(subject.kwargs, subject.model),
    )


def _list_limits(actual: nn.Module, expected: nn.Module) -> Iterator[str]:
    """What cannot be seen of compiled code and of exported programs."""
    if has_fixed_mode(actual) or has_fixed_mode(expected):
        yield (
            "an exported program has one mode: it was compared as it was exported, in train mode "
            "too"
        )
    if is_compiled(actual) or is_compiled(expected):
        yield (
            "compiled code cannot be inspected: the structure is that of the eager code, and "
            "numbers are compared only at the outputs"
        )


def _run_first_pass(
    subjects: Sequence[Side], tolerance: Tolerance, *, activations: bool
) -> Agreement:
    if activations:
        return run_both(subjects[0], subjects[1], tolerance, training=False)
    traces = [trace_structure(subject, training=False) for subject in subjects]
    return Agreement(
        aligned=align_traces(traces[0], traces[1]),
        ran=all(trace.failure is None for trace in traces),
    )
