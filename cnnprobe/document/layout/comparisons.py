"""A comparison of two models as people read it: the verdict, the first divergence, each level, what
differs, both models side by side.

And a refactoring: what repeats, the source, and the proof.
"""

from collections.abc import Iterator

from cnnprobe.document.blocks import (
    Block,
    Code,
    Column,
    Document,
    Facts,
    Heading,
    Notice,
    Row,
    Table,
    Text,
)
from cnnprobe.document.layout.changes import lay_out_changes
from cnnprobe.document.layout.frames import list_notes
from cnnprobe.records.differences import Difference, Outcome, Rewrite, describe_place

_MOST_ROWS = 60  # differences that are shown; JSON has them all
_NAMES = {
    "operations": "operations",
    "shapes": "shapes",
    "parameters": "parameter counts",
    "hyperparameters": "hyper-parameters",
    "state_dict": "state_dict",
    "numbers": "numbers (eval)",
    "train_numbers": "numbers (train)",
    "gradients": "gradients",
    "autograd": "autograd graph",
}


def lay_out_comparison(outcome: Outcome, *, most_rows: int | None = _MOST_ROWS) -> Document:
    """The outcome in reading order; of differences and operations at most `most_rows` each, None
    for all.
    """
    title = f"{outcome.actual} against {outcome.expected}"
    blocks: list[Block] = [Heading(text=title, level=1), Text(text=write_verdict(outcome))]
    blocks += lay_out_changes(outcome)
    blocks += [_describe_first(difference) for difference in outcome.differences[:1]]
    blocks.append(_build_level_table(outcome))
    if outcome.differences:
        blocks.append(_build_difference_table(outcome, most_rows))
    blocks.append(_build_side_by_side(outcome, most_rows))
    blocks += list_notes(outcome.notes)
    return Document(title=title, blocks=tuple(blocks))


def write_verdict(outcome: Outcome) -> str:
    """One sentence: equivalent, or where not."""
    lost = [_NAMES[level] for level, holds in outcome.levels.items() if holds is False]
    held = [_NAMES[level] for level, holds in outcome.levels.items() if holds]
    aligned = sum(
        1 for pair in outcome.pairs if pair.actual is not None and pair.expected is not None
    )
    if not lost:
        return f"equivalent: the same {', '.join(held)}; {aligned} aligned operations"
    same = f" The same: {', '.join(held)}." if held else ""
    return f"not equivalent: {', '.join(lost)} differ.{same} {aligned} aligned operations."


def _describe_first(difference: Difference) -> Notice:
    where = " against ".join(part for part in (difference.actual, difference.expected) if part)
    began = {True: "; its inputs were equal, its outputs differ", None: "", False: ""}[
        difference.inputs_equal
    ]
    return Notice(
        severity="error",
        text=f"first divergence ({_NAMES[difference.level]}): {difference.message}{began}",
        where=where,
    )


def _build_level_table(outcome: Outcome) -> Facts:
    pairs = []
    for level, holds in outcome.levels.items():
        count = sum(1 for difference in outcome.differences if difference.level == level)
        said = (
            "the same"
            if holds
            else "not compared"
            if holds is None
            else f"differ ({count} difference{'s' if count != 1 else ''})"
        )
        if level == "parameters":
            a, b = outcome.parameters
            said += f": {a:,} {'=' if a == b else 'instead of'} {b:,} in total"
        pairs.append((_NAMES[level], said))
    return Facts(pairs=tuple(pairs), title="Levels")


def _build_difference_table(outcome: Outcome, most_rows: int | None) -> Table:
    shown = outcome.differences[:most_rows]
    left = len(outcome.differences) - len(shown)
    return Table(
        title="Differences, in the order of the forward pass",
        columns=(
            Column(name="level"),
            Column(name=_write_header("actual", outcome.actual)),
            Column(name=_write_header("expected", outcome.expected)),
        ),
        rows=tuple(
            Row(cells=(_NAMES[d.level], d.actual or "-", d.expected or "-"), note=d.message)
            for d in shown
        ),
        notes=(f"{left:,} more differences are not shown here; to('json') has them all",)
        if left
        else (),
    )


def _write_header(side: str, model: str) -> str:
    return f"{side}: {model}"


def _build_side_by_side(outcome: Outcome, most_rows: int | None) -> Table:
    rows = list(_list_rows(outcome))
    left = len(rows) - len(rows[:most_rows])
    notes = ["= the same, ! differs, + only in the actual model, - only in the expected one"]
    if left:
        notes.append(f"{left:,} more operations are not shown here; to('json') has them all")
    return Table(
        title="Side by side",
        columns=(
            Column(name=_write_header("actual", outcome.actual)),
            Column(name=" "),
            Column(name=_write_header("expected", outcome.expected)),
            Column(name="output", priority=1),
            Column(name="parameters", align="right", unit="count", priority=2),
        ),
        rows=tuple(rows[:most_rows]),
        notes=tuple(notes),
    )


def _list_rows(outcome: Outcome) -> Iterator[Row]:
    apart = {difference.position for difference in outcome.differences}
    for k, pair in enumerate(outcome.pairs):
        a = outcome.actual_operations[pair.actual] if pair.actual is not None else None
        b = outcome.expected_operations[pair.expected] if pair.expected is not None else None
        one = b if b is not None else a
        if one is None:
            continue
        sign = "+" if b is None else "-" if a is None else "!" if k in apart else "="
        output = " / ".join(
            dict.fromkeys(", ".join(map(str, side.made)) for side in (a, b) if side is not None)
        )
        counts = _count_shapes(one.shapes)
        names = tuple(describe_place(side) if side is not None else "" for side in (a, b))
        yield Row(
            cells=(names[0], sign, names[1], output, counts or None),
            emphasis="" if sign == "=" else "error",
        )


def _count_shapes(shapes: object) -> int:
    total = 0
    for role, shape in dict(shapes).items():  # type: ignore[call-overload]
        if not role.startswith(("running_", "num_batches")):
            size = 1
            for n in shape:
                size *= n
            total += size
    return total


def lay_out_refactoring(rewrite: Rewrite) -> Document:
    """Repeated blocks, the source if it was proven, and what the proof says."""
    title = f"{rewrite.model}, refactored" if rewrite.source else rewrite.model
    blocks: list[Block] = [Heading(text=title, level=1)]
    if rewrite.blocks:
        blocks.append(
            Facts(
                title="Repeated blocks",
                pairs=tuple((block.name, block.pattern) for block in rewrite.blocks),
            )
        )
    if rewrite.source:
        blocks.append(Code(text=rewrite.source.rstrip("\n"), language="python", title="Source"))
    if rewrite.proof is not None:
        blocks.append(
            Text(
                text=(
                    f"Proof: with the weights of {rewrite.model}, the new model is "
                    f"{write_verdict(rewrite.proof)}."
                )
            )
        )
        blocks.append(_build_level_table(rewrite.proof))
    blocks += [
        Notice(severity="info" if rewrite.source else "warning", text=note)
        for note in rewrite.notes
    ]
    return Document(title=title, blocks=tuple(blocks))
