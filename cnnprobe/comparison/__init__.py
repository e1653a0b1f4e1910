"""Is it still the same model? Aligns two forward passes and says at which levels they agree, and
all that differs, first divergence first.

Runs forward passes of its own, and a backward pass where gradients are asked for; models, inputs
and random generators stay as they were.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from cnnprobe.comparison.mapping import NameMapping, map_names
from cnnprobe.comparison.numbers import Tolerance
from cnnprobe.comparison.passes import (
    NO_VALUES,
    Agreement,
    Subject,
    align_traces,
    find_difference,
    fit_inputs,
    has_other_rounding,
    run_both,
    run_plainly,
    set_mode,
    trace_structure,
)
from cnnprobe.comparison.sketch import compare_sketches
from cnnprobe.comparison.state import (
    Backward,
    compare_values,
    describe_graph_difference,
    differentiate,
    find_strayed_values,
    list_tensors,
)
from cnnprobe.comparison.structure import Aligned, count_parameters, find_structural_differences
from cnnprobe.document.render.units import format_counted
from cnnprobe.errors import TargetError, UnknownNameError, suggest
from cnnprobe.recorder import has_fixed_mode, has_scripts, is_compiled, is_sharded, observe
from cnnprobe.recorder.inventory import check_model, class_of, is_lazy
from cnnprobe.records.differences import (
    LEVELS,
    Difference,
    Discrepancy,
    Outcome,
    describe_discrepancy,
    describe_place,
)
from cnnprobe.records.totals import Totals, add_up
from cnnprobe.records.trace import Trace

__all__ = [
    "Tolerance",
    "compare_models",
    "compare_traces",
    "list_tensors",
    "observe_as",
    "trace_structure",
]

_STRUCTURE = LEVELS[:4]
_MOST_UNREAD = 4  # names that are shown of what has no values


@dataclass(slots=True)
class _Draft:
    """An outcome while it is made."""

    aligned: Aligned
    names: NameMapping
    levels: dict[str, bool | None] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        level: str,
        position: int,
        message: str,
        discrepancy: Discrepancy | None = None,
        *,
        inputs_equal: bool | None = None,
    ) -> None:
        """One more difference at a position of the pairs."""
        places = ["", ""]
        if position < len(self.aligned.alignment.pairs):
            pair = self.aligned.alignment.pairs[position]
            places[0] = (
                describe_place(self.aligned.actual[pair.actual]) if pair.actual is not None else ""
            )
            places[1] = (
                describe_place(self.aligned.expected[pair.expected])
                if pair.expected is not None
                else ""
            )
        self.differences.append(
            Difference(
                level=level,
                position=position,
                actual=places[0],
                expected=places[1],
                message=message,
                inputs_equal=inputs_equal,
                discrepancy=discrepancy,
            )
        )

    @property
    def end(self) -> int:
        """The position of what belongs to no pair."""
        return len(self.aligned.alignment.pairs)


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
    tolerance = replace(
        tolerance, rounding=tolerance.rounding or has_other_rounding(actual, expected)
    )
    subjects = [
        Subject(model=model, args=inputs[0], kwargs=inputs[1]) for model in (actual, expected)
    ]
    if has_other_rounding(actual, expected):
        subjects = [
            Subject(
                model=s.model,
                args=fit_inputs(s.args, s.model),
                kwargs=fit_inputs(s.kwargs, s.model),
            )
            for s in subjects
        ]
    compiled = is_compiled(actual) or is_compiled(expected)
    agreement = _run_first_pass(
        subjects, tolerance, activations="numbers" in wanted and not compiled
    )
    draft = _start_draft(agreement.aligned)
    if has_fixed_mode(actual) or has_fixed_mode(expected):
        draft.notes.append(
            "an exported program has one mode: it was compared as it was exported, in train mode "
            "too"
        )
    if compiled:
        draft.notes.append(
            "compiled code cannot be inspected: the structure is that of the eager code, and "
            "numbers are compared only at the outputs"
        )
    if "state_dict" in wanted:
        _compare_state_dicts(draft, actual, expected)
    if "numbers" in wanted:
        _compare_numbers(
            draft,
            "numbers",
            _compare_outputs_only(subjects, agreement, tolerance, training=False)
            if compiled
            else agreement,
        )
    if "train_numbers" in wanted:
        again = (
            _compare_outputs_only(subjects, agreement, tolerance, training=True)
            if compiled
            else None
        )
        _compare_train_numbers(
            draft, again or run_both(subjects[0], subjects[1], tolerance, training=True)
        )
    if {"gradients", "autograd"} & set(wanted):
        _compare_backward(draft, subjects, tolerance, wanted)
    return _build_outcome(
        draft, tuple(class_of(model).__name__ for model in (actual, expected)), wanted
    )


def compare_traces(
    actual: Trace, expected: Trace, *, rtol: float | None = None, atol: float | None = None
) -> Outcome:
    """The outcome of comparing two recorded forward passes: structure, and the statistics of every
    activation in place of its values.
    """
    draft = _start_draft(align_traces(actual, expected))
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
            draft.add("numbers", k, found, inputs_equal=_has_equal_inputs(draft.aligned, k, apart))
    return _build_outcome(draft, (actual.model, expected.model), (*_STRUCTURE, "numbers"))


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
    return _STRUCTURE if level in _STRUCTURE else (*_STRUCTURE, level)


def _check(given: object, which: str) -> None:
    model = check_model(given, f"the {which} model")
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


def _run_first_pass(
    subjects: Sequence[Subject], tolerance: Tolerance, *, activations: bool
) -> Agreement:
    if activations:
        return run_both(subjects[0], subjects[1], tolerance, training=False)
    traces = [trace_structure(subject, training=False) for subject in subjects]
    return Agreement(
        aligned=align_traces(traces[0], traces[1]),
        ran=all(trace.failure is None for trace in traces),
    )


def _compare_outputs_only(
    subjects: Sequence[Subject], agreement: Agreement, tolerance: Tolerance, *, training: bool
) -> Agreement:
    outputs = (
        run_plainly(subjects[0], subjects[1], tolerance, training=training) if agreement.ran else {}
    )
    return replace(agreement, outputs=outputs)


def _start_draft(aligned: Aligned) -> _Draft:
    draft = _Draft(aligned, map_names(aligned))
    draft.differences += find_structural_differences(aligned)
    apart = {difference.level for difference in draft.differences}
    draft.levels.update({level: level not in apart for level in _STRUCTURE})
    draft.notes += draft.names.notes
    for side, which in enumerate(("actual", "expected")):
        idle = [
            pair
            for pair in aligned.alignment.pairs
            if (pair.actual, pair.expected)[side] is not None
            and (pair.actual, pair.expected)[1 - side] is None
        ]
        for pair in idle:
            operation = (
                aligned.actual[pair.actual]
                if pair.actual is not None
                else aligned.expected[pair.expected or 0]
            )
            if operation.name == "identity":
                draft.notes.append(
                    f"{describe_place(operation)} of the {which} model does nothing, and has no "
                    "counterpart"
                )
    return draft


# -- levels ----------------------------------------------------------------------------------------


def _map_positions(draft: _Draft) -> dict[str, int]:
    """Parameter name in the actual model -> the position of the first operation that uses it."""
    found: dict[str, int] = {}
    for k, pair in enumerate(draft.aligned.alignment.pairs):
        for name in (
            draft.aligned.actual[pair.actual].parameters.values() if pair.actual is not None else ()
        ):
            found.setdefault(name, k)
    return found


def _compare_state_dicts(draft: _Draft, actual: nn.Module, expected: nn.Module) -> None:
    names = draft.names.names
    at = _map_positions(draft)
    apart = compare_values(actual, expected, names)
    strayed = find_strayed_values(actual, expected, names, apart)
    unread = [name for name, found in apart.items() if found == NO_VALUES]
    if unread:
        said = _describe_unread("parameter or buffer", unread, "parameters and buffers")
        draft.add("state_dict", draft.end, said)
    for name, found in apart.items():
        if found == NO_VALUES:
            continue
        message = found if isinstance(found, str) else describe_discrepancy(found)
        where = (
            f"{name} is not {names[name]}"
            if name != names[name]
            else f"{name} has different values"
        )
        home = (
            f"; its values are those of the expected model's {strayed[name]!r}"
            if name in strayed
            else ""
        )
        draft.add(
            "state_dict",
            at.get(name, draft.end),
            f"{where}: {message}{home}",
            found if isinstance(found, Discrepancy) else None,
        )
    for reason in draft.names.unmapped:
        draft.add("state_dict", draft.end, reason)
    draft.levels["state_dict"] = not apart and not draft.names.unmapped
    if (
        names
        and len(apart) - len(unread) > len(names) // 2
        and not draft.names.unmapped
        and not strayed
    ):
        draft.notes.append(
            "the weights differ: to compare both models with the same weights, "
            "call actual.load_state_dict(comparison.transfer()) and compare again"
        )


def _describe_unread(what: str, names: Sequence[str], plural: str = "") -> str:
    """What could not be compared, in one sentence."""
    shown = ", ".join(names[:_MOST_UNREAD]) + (", ..." if len(names) > _MOST_UNREAD else "")
    return (
        f"{format_counted(len(names), what, plural)} could not be compared: {NO_VALUES} ({shown})"
    )


def _compare_numbers(draft: _Draft, level: str, agreement: Agreement) -> None:
    if not agreement.ran:
        draft.levels[level] = False
        draft.add(level, draft.end, "a forward pass raised: there are no outputs to compare")
        return
    apart = {k: found for k, found in agreement.activations.items() if found is not None}
    wrong = {path: found for path, found in agreement.outputs.items() if found is not None}
    draft.levels[level] = not wrong
    if not wrong and apart:
        first = agreement.aligned.alignment.pairs[min(apart)]
        where = describe_place(agreement.aligned.expected[first.expected or 0])
        draft.notes.append(
            f"{_choose_mode(level)}: {format_counted(len(apart), 'intermediate activation')} "
            f"{'differs' if len(apart) == 1 else 'differ'}, first at {where}, but the outputs "
            "agree"
        )
        return
    for k, found in apart.items():
        if isinstance(found, Discrepancy):
            draft.add(
                level,
                k,
                f"{_choose_mode(level)}: {describe_discrepancy(found)}",
                found,
                inputs_equal=_has_equal_inputs(agreement.aligned, k, apart),
            )
    for path, found in wrong.items():
        text = found if isinstance(found, str) else describe_discrepancy(found)
        draft.add(
            level,
            draft.end,
            f"{_choose_mode(level)}: output{path and ' ' + path}: {text}",
            found if isinstance(found, Discrepancy) else None,
        )


def _choose_mode(level: str) -> str:
    return "in eval mode" if level == "numbers" else "in train mode"


def _compare_train_numbers(draft: _Draft, agreement: Agreement) -> None:
    """As `_compare_numbers`; positions are those of the pass in train mode, put to the pairs of the
    pass in eval mode.
    """
    failures = [trace.failure for trace in agreement.aligned.traces]
    if all(failure is not None for failure in failures) and not any(
        trace.failure for trace in draft.aligned.traces
    ):
        what = failures[1].message.split("\n", maxsplit=1)[0] if failures[1] is not None else ""
        draft.notes.append(
            f"train mode was not compared: both models raise there on these inputs ({what})"
        )
        return
    eval_positions = {
        pair.expected: k
        for k, pair in enumerate(draft.aligned.alignment.pairs)
        if pair.expected is not None
    }
    if len(agreement.aligned.expected) != len(draft.aligned.expected):
        draft.notes.append(
            "in train mode the expected model runs different operations than in eval mode"
        )
    mine = {}
    for k, found in agreement.activations.items():
        expected = agreement.aligned.alignment.pairs[k].expected
        if expected in eval_positions and expected is not None:
            mine[eval_positions[expected]] = found
    same_run = len(agreement.aligned.expected) == len(draft.aligned.expected)
    _compare_numbers(
        draft,
        "train_numbers",
        replace(agreement, aligned=draft.aligned, activations=mine)
        if same_run
        else replace(agreement, activations={}),
    )


def _has_equal_inputs(aligned: Aligned, position: int, apart: Mapping[int, object]) -> bool:
    """Whether everything that went into this pair was compared and equal, or is the model's own
    input: then the divergence begins here.
    """
    pairs = aligned.alignment.pairs
    at = {pair.actual: k for k, pair in enumerate(pairs) if pair.actual is not None}
    pair = pairs[position]
    if pair.actual is None or pair.expected is None:
        return False
    ours, theirs = aligned.actual[pair.actual].sources, aligned.expected[pair.expected].sources
    if len(ours) != len(theirs):
        return False
    for mine, other in zip(ours, theirs, strict=True):
        if mine is None or other is None:
            if mine is not other:
                return False
        elif (
            at[mine] in apart
            or pairs[at[mine]].expected is None
            or (pairs[at[mine]].expected != other and len(ours) == 1)
        ):
            return False
    return True


def _compare_backward(
    draft: _Draft, subjects: Sequence[Subject], tolerance: Tolerance, wanted: Sequence[str]
) -> None:
    if any(trace.failure is not None for trace in draft.aligned.traces):
        for level in ("gradients", "autograd"):
            if level in wanted:
                draft.levels[level] = False
                draft.add(
                    level, draft.end, "a forward pass raised: there is nothing to differentiate"
                )
        return
    asked = "gradients" in wanted
    runs = [_differentiate(subject, gradients=asked) for subject in subjects]
    reasons = [
        (which, run.why_not)
        for which, run in zip(("actual", "expected"), runs, strict=True)
        if run.why_not
    ]
    if reasons:
        draft.notes += [
            f"gradients were not compared: {reason} ({which} model)" for which, reason in reasons
        ]
        same = len(reasons) == 2
        draft.levels.update(
            {
                level: None if same else False
                for level in ("gradients", "autograd")
                if level in wanted
            }
        )
        return
    if asked:
        _compare_gradients(draft, runs[0], runs[1], replace(tolerance, rounding=True))
    if "autograd" in wanted:
        models = [subject.model for subject in subjects]
        if any(map(is_compiled, models)) or any(map(has_scripts, models)):
            draft.notes.append(
                "the autograd graph of compiled or scripted code is its compiler's, and was not "
                "compared"
            )
            return
        found = describe_graph_difference(runs[0], runs[1])
        draft.levels["autograd"] = not found
        if found:
            draft.add("autograd", draft.end, f"autograd graph: {found}")


def _differentiate(subject: Subject, *, gradients: bool) -> Backward:
    try:
        return differentiate(subject, gradients=gradients)
    except RuntimeError as error:
        return Backward(gradients={}, nodes=(), why_not=f"the backward pass raised: {error}")


def _compare_gradients(
    draft: _Draft, actual: Backward, expected: Backward, tolerance: Tolerance
) -> None:
    at = _map_positions(draft)
    depth = 2 * len(draft.aligned.expected)  # forwards and backwards
    names = {
        **draft.names.names,
        **{name: name for name in actual.gradients if name.startswith("input ")},
    }
    apart, unread = False, list[str]()
    for name, gradient in actual.gradients.items():
        other = expected.gradients.get(names.get(name, ""))
        if other is None:
            continue
        found = find_difference(gradient, other, tolerance, depth)
        if found == NO_VALUES:
            unread.append(name)
        elif found is not None:
            apart = True
            text = found if isinstance(found, str) else describe_discrepancy(found)
            draft.add(
                "gradients",
                at.get(name, draft.end),
                f"gradient of {name}: {text}",
                found if isinstance(found, Discrepancy) else None,
            )
    if unread:
        draft.add("gradients", draft.end, _describe_unread("gradient", unread))
    lost = [name for name in actual.gradients if names.get(name) not in expected.gradients]
    if lost:
        draft.add(
            "gradients",
            draft.end,
            (
                f"{format_counted(len(lost), 'gradient')} without a counterpart, first that of "
                f"{lost[0]!r}"
            ),
        )
    draft.levels["gradients"] = (
        not apart and not unread and not lost and len(actual.gradients) == len(expected.gradients)
    )


# -- outcome ---------------------------------------------------------------------------------------


def _build_outcome(draft: _Draft, models: Sequence[str], wanted: Sequence[str]) -> Outcome:
    aligned = draft.aligned
    return Outcome(
        actual=models[0],
        expected=models[1],
        actual_operations=aligned.actual,
        expected_operations=aligned.expected,
        pairs=aligned.alignment.pairs,
        levels={level: draft.levels.get(level) if level in wanted else None for level in LEVELS},
        differences=tuple(sorted(draft.differences, key=_find_moment)),
        mapping=dict(_add_aliases(aligned.traces[0], draft.names.names)),
        unmapped=draft.names.unmapped,
        parameters=(count_parameters(aligned.traces[0]), count_parameters(aligned.traces[1])),
        costs=_pair_costs(add_up(aligned.traces[0]), add_up(aligned.traces[1])),
        notes=tuple(dict.fromkeys(draft.notes)),
    )


def _pair_costs(actual: Totals, expected: Totals) -> dict[str, tuple[int, int]]:
    names = ("trainable", "macs", "counted", "operations", "activation_bytes")
    return {name: (getattr(actual, name), getattr(expected, name)) for name in names}


def _find_moment(difference: Difference) -> tuple[bool, int, int]:
    """When it is met: along the forward pass, then backwards, where gradients come to the last
    operation first.
    """
    backwards = difference.level in ("gradients", "autograd")
    return (
        backwards,
        -difference.position if backwards else difference.position,
        LEVELS.index(difference.level),
    )


def _add_aliases(trace: Trace, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for parameter in trace.parameters:
        if parameter.fqn in names:
            for name in (parameter.fqn, *parameter.aliases):
                yield name, names[parameter.fqn]
