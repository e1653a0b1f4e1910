"""From a loader to its report: read, judge, draw."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cnnprobe.data.facts import Data, Expected
from cnnprobe.data.reading import Reading, read_data
from cnnprobe.data.report import DataReport
from cnnprobe.data.rule import DataRule, run_data_rules
from cnnprobe.data.sheets import Sheet
from cnnprobe.data.source import Limits

Expect = Callable[[Data, list[Reading]], Expected]


def inspect(
    training: Any,
    validation: Any,
    *,
    limits: Limits,
    rules: Iterable[DataRule],
    ignore: Mapping[str, str],
    expect: Expect | None = None,
    tell: Callable[[str, int], None] | None = None,
    pictures: bool = True,
) -> DataReport:
    """The report of what the loaders give; `expect` says what the model makes of it."""
    from dataclasses import replace

    data, readings = read_data(training, validation, limits=limits, tell=tell)
    if expect is not None:
        data = replace(data, expected=expect(data, readings))
    outcome = run_data_rules(data, rules, ignore=ignore)
    ignored = (f"{f.rule} is ignored: {reason}" for f, reason in outcome.suppressed)
    return DataReport(
        data=data,
        findings=outcome.findings,
        notes=(*outcome.notes, *ignored),
        sheets=_draw(data, readings) if pictures else (),
    )


def _draw(data: Data, readings: list[Reading]) -> tuple[Sheet, ...]:
    del data, readings
    return ()
