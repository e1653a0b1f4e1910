"""Rows, columns and notices of the table of a trace."""

from cnnprobe.document.layout import View, lay_out_trace
from cnnprobe.document.render import Facts, Notice, Table
from cnnprobe.records.totals import add_up


def table(trace, **options):
    (found,) = [
        block for block in lay_out_trace(trace, View(**options)).blocks if isinstance(block, Table)
    ]
    return found


def column(found, name):
    position = [c.name for c in found.columns].index(name)
    return [row.cells[position] for row in found.rows]


def facts(trace):
    (found,) = [block for block in lay_out_trace(trace).blocks if isinstance(block, Facts)]
    return dict(found.pairs)


def notices(trace):
    return [block.text for block in lay_out_trace(trace).blocks if isinstance(block, Notice)]


def assert_adds_up(trace, rows):
    """Each row equals what stands directly below it, and the top rows equal the totals."""
    sums = add_up(trace)
    assert sums.parameters == sum(row.parameters for row in rows if row.depth == 0)
    assert sums.macs == sum(row.macs or 0 for row in rows if row.depth == 0)
    assert sums.activation_bytes == sum(row.nbytes for row in rows if row.depth == 0)
    for i, row in enumerate(rows):
        below = []
        for other in rows[i + 1 :]:
            if other.depth <= row.depth:
                break
            if other.depth == row.depth + 1:
                below.append(other)
        if below:
            found = (
                sum(r.parameters for r in below),
                sum(r.macs or 0 for r in below),
                sum(r.nbytes for r in below),
            )
            assert (row.parameters, row.macs or 0, row.nbytes) == found
