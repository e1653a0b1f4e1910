"""The levels of the backward pass: gradients, and autograd's graph."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from cnnprobe.comparison.draft import Draft, map_positions
from cnnprobe.comparison.numbers import Tolerance
from cnnprobe.comparison.passes import Side
from cnnprobe.comparison.state import (
    Backward,
    describe_graph_difference,
    differentiate,
)
from cnnprobe.comparison.values import describe_unread
from cnnprobe.comparison.witnesses import NO_VALUES, find_difference
from cnnprobe.recorder import has_scripts, is_compiled
from cnnprobe.records.words import format_counted

_BACKWARD = ("gradients", "autograd")  # the levels of this file


def compare_backward(
    draft: Draft, subjects: Sequence[Side], tolerance: Tolerance, wanted: Sequence[str]
) -> None:
    """Add what differs in the gradients and in the autograd graph."""
    levels = [level for level in _BACKWARD if level in wanted]
    if any(trace.failure is not None for trace in draft.aligned.traces):
        for level in levels:
            draft.levels[level] = False
            draft.add(level, draft.end, "a forward pass raised: there is nothing to differentiate")
        return
    asked = "gradients" in wanted
    runs = [_differentiate(subject, gradients=asked) for subject in subjects]
    failed = [
        f"gradients were not compared: {run.why_not} ({which} model)"
        for which, run in zip(("actual", "expected"), runs, strict=True)
        if run.why_not
    ]
    if failed:
        draft.notes += failed
        draft.levels.update(dict.fromkeys(levels, None if len(failed) == 2 else False))
        return
    if asked:
        _compare_gradients(draft, runs[0], runs[1], replace(tolerance, rounding=True))
    if "autograd" in wanted:
        _compare_graphs(draft, [subject.model for subject in subjects], runs)


def _compare_graphs(draft: Draft, models: Sequence[nn.Module], runs: Sequence[Backward]) -> None:
    if any(map(is_compiled, models)) or any(map(has_scripts, models)):
        draft.notes.append(
            "the autograd graph of compiled or scripted code is its compiler's, and was not "
            "compared"
        )
        return
    found = describe_graph_difference(runs[0], runs[1])
    draft.levels["autograd"] = not found
    if found:
        draft.add_found("autograd", draft.end, "autograd graph", found)


def _differentiate(subject: Side, *, gradients: bool) -> Backward:
    try:
        return differentiate(subject, gradients=gradients)
    except RuntimeError as error:
        return Backward(gradients={}, nodes=(), why_not=f"the backward pass raised: {error}")


def _compare_gradients(
    draft: Draft, actual: Backward, expected: Backward, tolerance: Tolerance
) -> None:
    at = map_positions(draft)
    depth = 2 * len(draft.aligned.expected)  # forwards and backwards
    inputs = {name: name for name in actual.gradients if name.startswith("input ")}
    names = {**draft.names.names, **inputs}
    compared = {
        name: find_difference(gradient, expected.gradients[names[name]], tolerance, depth)
        for name, gradient in actual.gradients.items()
        if names.get(name) in expected.gradients
    }
    unread = [name for name, found in compared.items() if found == NO_VALUES]
    apart = {n: found for n, found in compared.items() if found is not None and n not in unread}
    for name, found in apart.items():
        draft.add_found("gradients", at.get(name, draft.end), f"gradient of {name}", found)
    if unread:
        draft.add("gradients", draft.end, describe_unread("gradient", unread))
    lost = [name for name in actual.gradients if name not in compared]
    if lost:
        message = f"{format_counted(len(lost), 'gradient')} without a counterpart"
        draft.add("gradients", draft.end, f"{message}, first that of {lost[0]!r}")
    same_count = len(actual.gradients) == len(expected.gradients)
    draft.levels["gradients"] = not apart and not unread and not lost and same_count
