"""Documents, traces and scripts for the tests of the HTML page."""

import math
import random
from dataclasses import replace

import pytest

from benchmarks.chromium import BINARY
from cnnprobe.document.render import (
    Column,
    Document,
    Heading,
    Row,
    Table,
)
from cnnprobe.records.trace import Histogram
from tests.support import traces

needs_browser = pytest.mark.skipif(
    BINARY is None,
    reason="NOT TESTED: the HTML page needs chromium on the PATH (apt-get install chromium)",
)


SEEN = (
    "[...document.querySelectorAll('.tree tbody tr:not(.note)')].filter(tr => "
    "tr.offsetHeight).map(tr => tr.id)"
)


def with_statistics(trace=None):
    """`tiny` with numbers in the rows of conv and ReLU."""
    trace = trace or traces.tiny()
    stats = {
        "count": 1024,
        "mean": 0.5,
        "std": 2.0,
        "min": -4.0,
        "max": 8.0,
        "zeros": 512,
        "nan": 0,
        "inf": 0,
    }
    histogram = Histogram(lowest=-1, negative=(0, 0, 0, 100), positive=(0, 12, 300, 100))
    made = replace(trace.calls[1].outputs[0], stats=stats, histogram=histogram)
    return replace(
        trace,
        calls=(
            trace.calls[0],
            *(replace(call, outputs=(made,)) for call in trace.calls[1:3]),
            *trace.calls[3:],
        ),
    )


def observed(trace):
    """The trace with statistics and a bell of a histogram for each call, which takes what the one
    before it made.
    """
    dice = random.Random(0)
    last = None
    calls = []
    for one in trace.calls:
        counts = [
            tuple(
                int(9000 * math.exp(-((k - 16) ** 2) / 20) * dice.uniform(0.8, 1.2))
                for k in range(24)
            )
            for _ in range(2)
        ]
        values = {name: dice.gauss(0, 2) for name in ("mean", "std", "min", "max", "l2")}
        stats = {"count": 65536, **values, "zeros": dice.randrange(65536), "nan": 0, "inf": 0}
        made = replace(
            one.outputs[0],
            stats=stats,
            histogram=Histogram(lowest=-20, negative=counts[0], positive=counts[1]),
        )
        calls.append(replace(one, inputs=(last or made,), outputs=(made,)))
        last = made
    return replace(trace, calls=tuple(calls))


def tree(*rows, title=""):
    """A tree of (key, name, depth, number)."""
    columns = (Column(name="name"), Column(name="size", align="right", unit="si", is_share=True))
    return Table(
        title=title,
        columns=columns,
        rows=tuple(Row(key=k, cells=(name, n), depth=d) for k, name, d, n in rows),
    )


def blocks_of(*blocks):
    return Document(title="Net", blocks=(Heading(text="Net", level=1), *blocks))


FAMILY = tree(
    ("c0", "Net", 0, 3000), ("c1", "stem", 1, 900), ("c2", "conv", 2, 800), ("c3", "norm", 2, 100),
    ("c4", "head", 1, 2100), ("c5", "fc", 2, 2100)
)  # fmt: skip
