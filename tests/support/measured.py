"""A data set that is made as it is read, and a model that is measured over it."""

import os
import time

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
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)
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
