"""A loss that rises because it is the sum over the batch."""

import torch
from torch import nn

import cnnprobe


class Both(nn.Module):
    """A loss of the user's own, of two terms."""

    def __init__(self, *, divided):
        super().__init__()
        self.mse, self.divided = nn.MSELoss(reduction="sum"), divided

    def forward(self, output, target):
        loss = 5 * self.mse(output, target) + (output - target).abs().sum()
        return loss / len(output) if self.divided else loss


def diagnose(*, divided, rate):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    x, y, loss_fn = torch.randn(32, 4), torch.randn(32, 8), Both(divided=divided)
    report = cnnprobe.diagnose(model, x, y, loss_fn=loss_fn, optimizer=optimizer, trials=0)
    return [f for f in report.findings if f.rule == "lr-too-high"]


def test_a_loss_that_rises_is_named_as_a_sum_where_nothing_divides_it():
    (found,) = diagnose(divided=False, rate=0.01)
    assert "the loss is a sum: F.mse_loss adds up 256 values, and nothing divides it" in (
        found.message
    )
    assert found.fix.startswith("divide the loss by the number of samples, or lower lr of ")


def test_the_same_loss_divided_does_not_rise():
    assert [] == diagnose(divided=True, rate=0.01)


def test_a_rate_that_is_too_high_for_a_mean_is_not_blamed_on_a_sum():
    (found,) = diagnose(divided=True, rate=1.0)
    assert "is a sum" not in found.message
    assert found.fix.startswith("lower lr of ")
