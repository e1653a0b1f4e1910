"""Small training loops with a monitor around them."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cnnprobe


def small(*, inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def batch(n=4):
    torch.manual_seed(1)
    return torch.randn(n, 3, 8, 8), torch.arange(n) % 5


def run(model, *, steps=3, lr=0.1, after=lambda step: None, data=None, optimizer=None, **options):
    """A plain loop under a monitor."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    x, y = data or batch()
    with cnnprobe.monitor(model, optimizer, **options) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            monitor.loss(cross_entropy(model(x), y)).backward()
            optimizer.step()
            after(step)
    return monitor


def rules(monitor):
    return {finding.rule for finding in monitor.findings}


def is_clean(model):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Root(nn.Module):
    """Square roots of what may be negative."""

    def forward(self, x):
        return x.sqrt()
