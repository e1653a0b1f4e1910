"""The ranks of a distributed training, and whose a number is."""

import math
from collections.abc import Sequence

from cnnprobe.document.blocks import Cell, Column, Row, Table
from cnnprobe.document.render.units import format_seconds, format_value
from cnnprobe.records.ranks import STAGES, RankSummary

_STAGES = (
    "the stages are medians over the observed steps; reduction has the wait for the slowest rank"
)


def name_owners(owners: Sequence[str]) -> tuple[Column, ...]:
    """The column that says of which rank each row is; none where there is one process."""
    return (Column(name="of", priority=1),) if any(owners) else ()


def show_owners(owner: str, owners: Sequence[str]) -> tuple[str, ...]:
    """The cell of a row in that column."""
    return (owner,) if any(owners) else ()


def build_rank_table(ranks: Sequence[RankSummary]) -> Table:
    """A row for each rank."""
    columns = (
        Column(name="rank", align="right"),
        Column(name="host", priority=4),
        Column(name="steps", align="right"),
        Column(name="samples", align="right", priority=3),
        Column(name="last loss", align="right"),
        *(Column(name=stage, align="right", priority=2) for stage in STAGES),
        Column(name="not finite", priority=1),
        Column(name="end"),
    )
    return Table(
        title="Ranks", columns=columns, rows=tuple(map(_build_row, ranks)), notes=(_STAGES,)
    )


def _format_loss(loss: float) -> str:
    return "NaN" if math.isnan(loss) else format_value(loss)


def _build_row(rank: RankSummary) -> Row:
    seconds = [rank.seconds.get(stage) for stage in STAGES]
    cells: tuple[Cell, ...] = (
        str(rank.rank),
        rank.host,
        str(rank.total),
        None if rank.samples is None else str(rank.samples),
        None if rank.loss is None else _format_loss(rank.loss),
        *(None if each is None else format_seconds(each) for each in seconds),
        rank.nonfinite or None,
        "finished" if rank.finished else "cut off",
    )
    return Row(cells=cells, emphasis="warning" if rank.nonfinite or not rank.finished else "")
