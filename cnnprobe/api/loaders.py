"""Why a loader raised: what it raised is explained as a crash of the loop is."""

from dataclasses import replace
from typing import Any

from torch import nn

from cnnprobe.crash import Crash, explain
from cnnprobe.data.facts import Split
from cnnprobe.data.inspecting import Inspection
from cnnprobe.data.keeping import kept_generators
from cnnprobe.data.reading import LoaderReading

_VAGUE = ("unknown", "shape-mismatch")


def explain_failures(inspection: Inspection, model: nn.Module | None) -> Inspection:
    """The same with the reason why a sample cannot be read, where it is known."""
    if all(split.failed is None for split in inspection.data.splits):
        return inspection
    told: dict[str, Any] = {
        each.split.name: _explain_failure(each, model) for each in inspection.readings
    }
    return replace(inspection, data=replace(inspection.data, **told))


def _explain_failure(reading: LoaderReading, model: nn.Module | None) -> Split:
    failed = reading.split.failed
    if failed is None or reading.error is None or (failed.collating and not failed.count):
        return reading.split
    with kept_generators(reading.source.given):
        found = explain(Crash(error=reading.error, model=model))
    if found is None or found.diagnosis in _VAGUE:
        return reading.split
    # Without arithmetic only the sample and the message are known.
    is_known = found.diagnosis != "failed-sample" or bool(found.arithmetic)
    repair = found.repairs[0].title if is_known and found.repairs else ""
    reason = f"{found.diagnosis}: {found.message}" if is_known else ""
    return replace(reading.split, failed=replace(failed, reason=reason, repair=repair))
