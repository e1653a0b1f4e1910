"""Chooses how a tensor is measured; whatever goes wrong there, the user's run goes on and the row says "not available"."""

import torch
from torch import Tensor

from cnnprobe.stats import plain
from cnnprobe.stats.content import content, unobserved
from cnnprobe.stats.statistics import Statistics
from cnnprobe.stats.table import Table


def write(tensor: Tensor, table: Table, row: int) -> None:
    """Put the statistics of `tensor` into `row`; never raises, never changes the tensor, never waits for a device."""
    try:
        written = _measure(tensor, table, row)
    except Exception:  # tensors that refuse: a subclass, a dtype without operations, a freed storage
        written = False
    if not written:
        table.clear(row)


def _measure(tensor: Tensor, table: Table, row: int) -> bool:
    if torch.compiler.is_compiling():
        return False
    with unobserved():
        found = content(tensor, channels=table.channels is not None)
        if found is None:
            return False
        table.hold(row, plain.measure(found, histogram=table.histograms is not None, channels=table.channels is not None))
    return True


def summarise(tensor: Tensor, *, histogram: bool = False, channels: bool = False) -> Statistics | None:
    """The statistics of one tensor of any kind; None where they are not available (meta, fake, vmapped, traced, a subclass that refuses).

    Never raises, never changes the tensor or the state of a random generator, and waits for a device once.

    Args:
        tensor: any dtype, layout, device and number of elements.
        histogram: also count the values by magnitude and sign.
        channels: also give the statistics of each channel (dimension 1) where there is one.

    >>> import torch
    >>> summarise(torch.tensor([0.0, 3.0, float("nan")])).as_mapping()
    {'count': 3, 'mean': 1.5, 'std': 1.5, 'min': 0.0, 'max': 3.0, 'zeros': 1, 'nan': 1, 'inf': 0, 'l2': 3.0}
    >>> summarise(torch.empty(3, device="meta")) is None
    True
    """
    table = Table(1, histogram=histogram, channels=channels)
    write(tensor, table, 0)
    try:
        return table.read(0)
    except Exception:  # the transfer from a device that failed earlier
        return None
