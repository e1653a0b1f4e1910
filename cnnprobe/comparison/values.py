"""The levels of values: parameters and buffers, activations and outputs, in both modes."""

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from cnnprobe.comparison.draft import Draft, has_equal_inputs, map_positions
from cnnprobe.comparison.passes import Agreement
from cnnprobe.comparison.state import (
    compare_values,
    find_strayed_values,
)
from cnnprobe.comparison.witnesses import NO_VALUES
from cnnprobe.records.differences import (
    Discrepancy,
    describe_discrepancy,
    describe_place,
)
from cnnprobe.records.words import format_counted

_MOST_UNREAD = 4  # names that are shown of what has no values


def compare_state_dicts(draft: Draft, actual: nn.Module, expected: nn.Module) -> None:
    """Add what differs in parameters and buffers, by the names that belong together."""
    names = draft.names.names
    at = map_positions(draft)
    apart = compare_values(actual, expected, names)
    strayed = find_strayed_values(actual, expected, names, apart)
    unread = [name for name, found in apart.items() if found == NO_VALUES]
    if unread:
        said = describe_unread("parameter or buffer", unread, "parameters and buffers")
        draft.add("state_dict", draft.end, said)
    for name, found in apart.items():
        if found == NO_VALUES:
            continue
        message = found if isinstance(found, str) else describe_discrepancy(found)
        home = strayed.get(name)
        draft.add(
            "state_dict",
            at.get(name, draft.end),
            f"{_describe_pair(name, names[name])}: {message}"
            + (f"; its values are those of the expected model's {home!r}" if home else ""),
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


def _describe_pair(name: str, other: str) -> str:
    return f"{name} is not {other}" if name != other else f"{name} has different values"


def describe_unread(what: str, names: Sequence[str], plural: str = "") -> str:
    """What could not be compared, in one sentence."""
    shown = ", ".join(names[:_MOST_UNREAD]) + (", ..." if len(names) > _MOST_UNREAD else "")
    return (
        f"{format_counted(len(names), what, plural)} could not be compared: {NO_VALUES} ({shown})"
    )


def compare_numbers(draft: Draft, level: str, agreement: Agreement) -> None:
    """Add what differs in the outputs of one pass, and where the activations part."""
    if not agreement.ran:
        draft.levels[level] = False
        draft.add(level, draft.end, "a forward pass raised: there are no outputs to compare")
        return
    apart = {k: found for k, found in agreement.activations.items() if found is not None}
    wrong = {path: found for path, found in agreement.outputs.items() if found is not None}
    draft.levels[level] = not wrong
    if agreement.unread:
        draft.levels[level] = False if apart else None
        draft.notes.append(f"{_choose_mode(level)}: no outputs were compared: {agreement.unread}")
    elif not wrong and apart:
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
                inputs_equal=has_equal_inputs(agreement.aligned, k, apart),
            )
    for path, found in wrong.items():
        where = f"{_choose_mode(level)}: output{path and ' ' + path}"
        draft.add_found(level, draft.end, where, found)


def _choose_mode(level: str) -> str:
    return "in eval mode" if level == "numbers" else "in train mode"


def compare_train_numbers(draft: Draft, agreement: Agreement) -> None:
    """As `compare_numbers`; positions are those of the pass in train mode, put to the pairs of the
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
    compare_numbers(
        draft,
        "train_numbers",
        replace(agreement, aligned=draft.aligned, activations=mine)
        if same_run
        else replace(agreement, activations={}),
    )
