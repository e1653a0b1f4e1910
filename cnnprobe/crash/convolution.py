"""A view before a convolution that merges the batch into the channels."""

from collections.abc import Iterator

from cnnprobe.crash import viewing
from cnnprobe.crash.crash import Crash
from cnnprobe.crash.facts.expected import find_mismatch
from cnnprobe.crash.suspect import Suspect


def suspect(crash: Crash) -> Iterator[Suspect]:
    """A view that gave the layer another batch, and so another number of channels."""
    found = find_mismatch(crash)
    if found is not None and found.kind == "conv":
        yield from viewing.suspect_earlier_view(crash, found.x, found.expected)
