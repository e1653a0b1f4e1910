"""What a change of a model did to its size, as a reviewer reads it: totals before and after, layers
added, removed and changed.
"""

from collections.abc import Callable, Iterator

from cnnprobe.document.blocks import Block, Column, Row, Table
from cnnprobe.document.render.units import format_count, format_size
from cnnprobe.records.differences import Operation, Outcome, describe_place

_NAMED = 8  # layers in a line; of others only how many


def lay_out_changes(outcome: Outcome) -> Iterator[Block]:
    """The totals of both models, and the layers that are not the same in both; nothing where no
    total changed and no layer came or went.
    """
    totals = (outcome.parameters, *outcome.costs.values())
    if all(a == b for a, b in totals) and all(
        pair.actual is not None and pair.expected is not None for pair in outcome.pairs
    ):
        return
    yield Table(
        title="What changed",
        columns=(
            Column(name="total"),
            Column(name="expected", align="right"),
            Column(name="actual", align="right"),
            Column(name="change", align="right"),
        ),
        rows=tuple(_list_rows(outcome)),
        notes=(*_list_layers(outcome), *_count_layers(outcome)),
    )


def _list_rows(outcome: Outcome) -> Iterator[Row]:
    yield _build_row("parameters", outcome.parameters, format_count)
    frozen = [
        whole - free
        for whole, free in zip(
            outcome.parameters, outcome.costs.get("trainable", outcome.parameters), strict=True
        )
    ]
    if any(frozen):
        yield _build_row("of them trainable", outcome.costs["trainable"], format_count)
    if "macs" in outcome.costs:
        yield _build_row("multiply-accumulates", outcome.costs["macs"], format_count)
    if "activation_bytes" in outcome.costs:
        yield _build_row("activations", outcome.costs["activation_bytes"], format_size)


def _build_row(name: str, both: tuple[int, int], shown: Callable[[int], str]) -> Row:
    actual, expected = both
    return Row(cells=(name, shown(expected), shown(actual), format_change(actual, expected)))


def format_change(actual: int, expected: int) -> str:
    """How much more or less in percent of what was expected.

    >>> format_change(1031, 1000), format_change(920, 1000), format_change(5, 5), format_change(100_001, 100_000), format_change(7, 0)
    ('+3.1%', '-8.0%', '0', '+0.001%', 'new')
    """  # noqa: E501
    if actual == expected:
        return "0"
    if expected == 0:
        return "new"
    percent = 100 * (actual - expected) / expected
    return f"{percent:+.1f}%" if abs(percent) >= 0.1 else f"{percent:+.1g}%"


def _list_layers(outcome: Outcome) -> Iterator[str]:
    changed = {
        d.position for d in outcome.differences if d.level in ("parameters", "hyperparameters")
    }
    sides: dict[str, list[Operation]] = {"added": [], "removed": [], "changed": []}
    for k, pair in enumerate(outcome.pairs):
        if pair.expected is None and pair.actual is not None:
            sides["added"].append(outcome.actual_operations[pair.actual])
        elif pair.actual is None and pair.expected is not None:
            sides["removed"].append(outcome.expected_operations[pair.expected])
        elif pair.actual is not None and k in changed:
            sides["changed"].append(outcome.actual_operations[pair.actual])
    for what, operations in sides.items():
        if operations:
            more = f" and {len(operations) - _NAMED} more" if len(operations) > _NAMED else ""
            yield f"{what}: {', '.join(map(describe_place, operations[:_NAMED]))}{more}"


def _count_layers(outcome: Outcome) -> Iterator[str]:
    if "counted" in outcome.costs:
        (actual, expected), (of_actual, of_expected) = (
            outcome.costs["counted"],
            outcome.costs["operations"],
        )
        what = "operations that have a formula for multiply-accumulates"
        yield f"{what}: {expected} of {of_expected} (expected), {actual} of {of_actual} (actual)"
