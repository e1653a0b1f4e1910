"""Remedies of images that are turned without their masks."""

from collections.abc import Iterator
from typing import Any

from cnnprobe.diagnosis import Finding
from cnnprobe.diagnosis.evidence import Evidence
from cnnprobe.remedies.kinds.calls import instead, pass_on, rows_at
from cnnprobe.remedies.remedy import Remedy, answers


@answers("unpaired-flip")
def leave_out(finding: Finding, evidence: Evidence, model: Any) -> Iterator[Remedy]:
    """The images as they are, which shows whether the flip is at fault."""
    for _, call in rows_at(finding, evidence)[:1]:
        yield Remedy(
            title=f"the masks turned as the images are, or neither: without {finding.subject}",
            change=instead(call, pass_on),
            shows="the output and its masks are of the same places",
            is_comparable=False,
        )
