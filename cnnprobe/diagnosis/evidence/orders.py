"""Which dims of the data have an order: that of time or place, and not that of sensors."""

import math

from cnnprobe.diagnosis.evidence.evidence import Evidence
from cnnprobe.diagnosis.evidence.flow import Flow
from cnnprobe.diagnosis.evidence.groups import ARRANGING
from cnnprobe.diagnosis.evidence.questions import find_given, input_stats, stat

IN_ORDER, IN_NONE = 0.5, 0.8  # differences of neighbours over those of any two places
SEQUENCE = 3  # dims of (N, C, L)


def find_turned_signal(
    evidence: Evidence, index: int, *, channels_at: int
) -> tuple[float, float] | None:
    """The order of the channels and of the places that a layer of sequences is given by the data,
    with the channels at a dim; None where the places have one or the channels have none, or where
    a layer has made them.
    """
    flow = Flow(evidence.trace)
    given = flow.data(index)
    if given is None or len(given.shape) != SEQUENCE or flow.origin(given, ARRANGING) is not None:
        return None
    info = input_stats(flow, given)
    info = info if info.stats is not None else find_given(evidence, flow, given) or info
    channels, places = (stat(info, f"order_{dim}") for dim in (channels_at, 3 - channels_at))
    is_turned = channels < IN_ORDER and places > IN_NONE
    return (channels, places) if is_turned and math.isfinite(channels + places) else None
