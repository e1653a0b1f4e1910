"""A data set that is made as it is read, a model that is measured over it, and whether two
measurements are the same.
"""

import os
import time

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset


class Images(Dataset):
    """Samples of noise by their number; which were read is written to `seen`."""

    def __init__(self, samples, *, seen=None, broken=None, seconds=0.0):
        self.samples = samples
        self.seen = seen
        self.broken = broken
        self.seconds = seconds

    def __len__(self):
        return self.samples

    def __getitem__(self, index):
        if index == self.broken:
            raise ValueError(f"sample {index} is broken")
        time.sleep(self.seconds)
        if self.seen is not None:
            with open(self.seen, "a") as file:
                file.write(f"{index}\n")
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, 8, 8, generator=generator), index % 3


def make_net():
    """Convolution, normalisation, a ReLU with a dead channel, dropout and a classifier."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(144, 3)
    )  # fmt: skip
    with torch.no_grad():
        net[1].running_mean += torch.tensor([0.1, -0.2, 0.0, 0.3])
        net[1].weight[2], net[1].bias[2] = 0.0, -1.0
    return net


def kill_after(model, passes):
    """The process kills itself in the pass after so many."""
    count = 0

    def hook(*_):
        nonlocal count
        count += 1
        if count > passes:
            os.kill(os.getpid(), 9)

    model.register_forward_hook(hook)


def is_same(one, other):
    """Two measurements are the same, but for the last digits of sums in another order."""
    """Whether all is equal, apart from moments, which are to rounding."""
    assert [(t.what, t.fqn) for t in one.tensors] == [(t.what, t.fqn) for t in other.tensors]
    for a, b in zip(one.tensors, other.tensors, strict=True):
        for name in ("low", "high", "buckets", "counts", "percentiles"):
            assert getattr(a, name) == getattr(b, name), (a.fqn, name)
        s, t = a.statistics, b.statistics
        for name in ("count", "zeros", "nan", "inf", "min", "max", "histogram"):
            assert getattr(s, name) == getattr(t, name), (a.fqn, name)
        assert (s.mean, s.std, s.l2) == pytest.approx((t.mean, t.std, t.l2), rel=1e-9, abs=1e-12)
        if s.channels is not None:
            assert (s.channels.count, s.channels.zeros) == (t.channels.count, t.channels.zeros)
            assert s.channels.std == pytest.approx(t.channels.std, rel=1e-9, abs=1e-12)
    return True
