"""From a loader to its report: read, judge, draw."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cnnprobe.data.expectation import Expectation
from cnnprobe.data.facts import Data
from cnnprobe.data.pictures import draw_sheets
from cnnprobe.data.reading import LoaderReading, read_data
from cnnprobe.data.report import DataReport
from cnnprobe.data.rule import DataRule
from cnnprobe.data.source import Limits
from cnnprobe.diagnosis import Finding, run_rules
from cnnprobe.errors import UsageError

_NAMING = re.compile(r"sample \d|'[^']*[./][^']*'")  # a sample, by its place or its file


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was read of the loaders, not yet judged."""

    data: Data
    readings: list[LoaderReading]

    @property
    def first(self) -> Any:
        """The first batch of the training, as the loader gave it; None where it raised."""
        return self.readings[0].source.first

    @property
    def batch_size(self) -> int | None:
        """Samples of a batch of the training; None where that is not known."""
        return self.data.training.loading.batch_size

    @property
    def inputs(self) -> Any:
        """A few images of the training, for a forward pass."""
        return self.readings[0].inputs

    @property
    def error(self) -> Exception | None:
        """What the training loader raised."""
        return self.readings[0].error


def read(
    training: Any,
    validation: Any = None,
    *,
    limits: Limits,
    tell: Callable[[str, int], None] | None = None,
) -> Inspection:
    """A bounded sample of both; see `read_data`."""
    return Inspection(*read_data(training, validation, limits=limits, tell=tell))


def judge(
    inspection: Inspection,
    expected: Expectation,
    *,
    rules: Iterable[DataRule],
    ignore: Mapping[str, str],
    pictures: bool = True,
) -> DataReport:
    """The report of what was read.

    Raises:
        UsageError: a suppression has no reason.
    """
    for key, why in ignore.items():
        if not why.strip():
            raise UsageError(
                f"{key!r} is ignored without a reason",
                where="ignore=",
                fix="say why, for the reader after you",
            )
    data = _forget_classes(replace(inspection.data, expected=expected))
    outcome = run_rules(data, rules, ignore=ignore)
    findings = _join_splits(outcome.findings)
    unread = (
        f"a batch of the {s.name} data could not be measured: {s.unread}"
        for s in data.splits
        if s.unread
    )
    ignored = (f"{f.rule} is ignored: {reason}" for f, reason in outcome.suppressed)
    return DataReport(
        data=data,
        findings=findings,
        notes=(*outcome.notes, *unread, *ignored),
        sheets=draw_sheets(data, inspection.readings) if pictures else (),
    )


def _join_splits(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """The findings, where one of both splits is one; those that name samples are two."""
    kept: dict[tuple[Any, ...], Finding] = {}
    for finding in findings:
        general = re.sub(r"-?\d[\d.,]*(e[-+]\d+)?|training|validation", "#", finding.message)
        general = re.sub(r"#([, ]+#)+", "#", general)  # lists of numbers, of any length
        key = (finding.rule, finding.module, finding.severity, general)
        twin = kept.get(key)
        if twin is None or _NAMING.search(finding.message) or not _is_of_other(finding, twin):
            kept[(*key, finding.message) if twin is not None else key] = finding
        else:
            kept[key] = replace(twin, message=f"{twin.message}; so it is in the validation data")
    return tuple(kept.values())


def _is_of_other(finding: Finding, twin: Finding) -> bool:
    """Whether a finding is of the validation, and its twin of the training."""
    ours = "validation" in finding.message and "training" not in finding.message
    return ours and "training" in twin.message and "validation" not in twin.message


def _forget_classes(data: Data) -> Data:
    """The data without the numbers of its classes, where the loss takes the targets for amounts:
    ages are whole numbers too.
    """
    if not data.expected.of_numbers:
        return data
    training, *others = (replace(split, labels=None) for split in data.splits)
    return replace(data, training=training, validation=others[0] if others else None)
