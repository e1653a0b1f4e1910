"""Totals of a batch in the loss of each sample."""

import pytest
import torch
from torch import nn

import cnnprobe

X, Y = torch.randn(16, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(16, 4)
MASK = (torch.arange(16) % 2).float()


def total_per_sample(loss_fn):
    torch.manual_seed(0)
    model = nn.Linear(6, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    report = cnnprobe.diagnose(model, X, Y, loss_fn=loss_fn, optimizer=optimizer, trials=0)
    return [f for f in report.findings if f.rule == "total-per-sample"]


def error(output, target):
    return (output - target).square().sum(1)


SICK = {
    "masked": lambda o, t: (error(o, t) + 0.1 * torch.sum(o.square()) * MASK).sum() / MASK.sum(),
    "added": lambda o, t: (error(o, t) - 0.5 * (1 - o.square().sum())).mean(),
}
HEALTHY = {
    "of each sample": lambda o, t: (error(o, t) + 0.1 * o.square().sum(-1) * MASK).sum(),
    "both totals": lambda o, t: error(o, t).sum() + o.square().sum(),
    "divided": lambda o, t: (error(o, t) + o.square().sum() / len(o)).mean(),
    "times one over the samples": lambda o, t: (error(o, t) + (1 / 16) * o.square().sum()).mean(),
    "a mean": lambda o, t: (error(o, t) + o.square().mean()).mean(),
    "normalised": lambda o, t: (error(o, t) / o.square().sum()).sum(),
    "without gradient": lambda o, t: (error(o, t) * o.detach().square().sum()).mean(),
}


@pytest.mark.parametrize("name", SICK)
def test_a_total_that_is_a_part_of_each_value_is_found(name):
    (found,) = total_per_sample(SICK[name])
    assert "adds up all 64 values of shape (16, 4)" in found.message
    assert "each of its 16 values" in found.message
    assert "sum(dim=-1) there, for a sum of each sample" == found.fix


@pytest.mark.parametrize("name", HEALTHY)
def test_a_total_that_is_used_as_one_is_no_fault(name):
    assert [] == total_per_sample(HEALTHY[name])
