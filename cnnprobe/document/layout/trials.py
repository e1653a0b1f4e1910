"""What came of fixes that were tried: all of them together, and the losses with and without
each.
"""

import math
from collections.abc import Iterator, Sequence

from cnnprobe.diagnosis import Finding, Severity, Tried, Verdict
from cnnprobe.document.blocks import Block, Notice, Picture
from cnnprobe.document.render.charts import Polyline, draw_curves

_FLAT = 1e-5  # of the losses, within which they are the same but for rounding
_MOST = 6  # pictures; a report of many findings has one for the first of them


def build_trial_blocks(
    findings: Sequence[Finding], together: Tried | None, *, drawn: bool
) -> Iterator[Block]:
    """What all proven fixes do together, and the curves where pictures are shown."""
    if together is not None:
        yield Notice(
            severity=Severity.INFO.value,
            text=f"all fixes together: {together.said}",
            where="all the findings whose fix is proven",
            fix=together.title,
        )
    if drawn:
        pictured: dict[object, Tried] = {}
        for tried in [f.tried for f in findings if f.tried is not None and _is_drawn(f.tried)]:
            # one fix of two findings is one picture
            pictured.setdefault((tried.title, tried.losses, tried.as_it_is), tried)
        yield from map(_draw_losses, [*pictured.values()][:_MOST])


def _is_drawn(tried: Tried) -> bool:
    has_curves = min(len(tried.losses), len(tried.as_it_is)) > 1
    return tried.verdict is Verdict.PROVEN and has_curves and _moves(*tried.losses, *tried.as_it_is)


def _moves(*losses: float) -> bool:
    """Whether a curve of them would show more than rounding."""
    if not all(map(math.isfinite, losses)):
        return True
    return max(losses) - min(losses) > _FLAT * max(map(abs, losses))


def _draw_losses(tried: Tried) -> Picture:
    lines = [
        Polyline(name=name, steps=range(1, len(values) + 1), values=values)
        for name, values in (("with the fix", tried.losses), ("as it is", tried.as_it_is))
    ]
    caption = f"loss with the fix and as it is: {tried.title}"
    return Picture(
        svg=draw_curves(lines), alt=f"{caption}: {tried.said}", caption=caption, is_chart=True
    )
