"""Gates, recurrent cells and losses of a ratio: right as they are published, wrong by one slip."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.test_formulas import judge

MAPS = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))


class SELayer(nn.Module):
    def __init__(self, last, added=False):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8), nn.BatchNorm1d(8), last
        )
        self.added = added

    def forward(self, x):
        gate = self.fc(x.mean((2, 3)))[:, :, None, None]
        return x * gate + x if self.added else x * gate


class ChannelAttention(nn.Module):
    """As in CBAM: the weights alone."""

    def __init__(self, last):
        super().__init__()
        self.fc, self.last = nn.Conv2d(8, 8, 1), last

    def forward(self, x):
        return self.last(self.fc(F.adaptive_avg_pool2d(x, 1)) + self.fc(x.amax((2, 3), True)))


class SpatialAttention(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 1, 3, padding=1), last

    def forward(self, x):
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * self.last(self.conv(both))


class SEBlock(nn.Module):
    """A residual block of that name, which is no gate."""

    def __init__(self):
        super().__init__()
        self.conv, self.se = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x):
        made = self.conv(x).relu()
        return x + made * self.se(made.mean((2, 3), keepdim=True)).sigmoid()


class ConvLSTMCell(nn.Module):
    def __init__(self, new=torch.tanh, out=torch.tanh):
        super().__init__()
        self.conv, self.new, self.out = nn.Conv2d(3 + 4, 16, 3, padding=1), new, out

    def forward(self, x, state):
        h, c = state
        i, f, o, g = self.conv(torch.cat([x, h], 1)).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * self.new(g)
        return o.sigmoid() * self.out(c), c


class ConvGRUCell(nn.Module):
    def __init__(self, new=torch.tanh):
        super().__init__()
        self.gates, self.conv, self.new = nn.Conv2d(7, 8, 1), nn.Conv2d(7, 4, 1), new

    def forward(self, x, h):
        z, r = self.gates(torch.cat([x, h], 1)).sigmoid().chunk(2, dim=1)
        return (1 - z) * h + z * self.new(self.conv(torch.cat([x, r * h], 1)))


def psnr_loss(output, target, sign=-1):
    return sign * 10 * torch.log10(1.0 / F.mse_loss(output, target))


FRAME, STATE = torch.randn(2, 3, 5, 5), torch.zeros(2, 4, 5, 5)
RIGHT = [
    (SELayer(nn.Sigmoid()), MAPS),
    (SELayer(nn.Hardsigmoid(), added=True), MAPS),
    (ChannelAttention(nn.Sigmoid()), MAPS),
    (SpatialAttention(nn.Sigmoid()), MAPS),
    (SEBlock(), MAPS),
    (ConvLSTMCell(), FRAME, (STATE, STATE)),
    (ConvGRUCell(), FRAME, STATE),
    (psnr_loss, MAPS, MAPS + 1),
]
WRONG = [
    (SELayer(nn.ReLU()), MAPS),
    (SELayer(nn.Identity()), MAPS),
    (ChannelAttention(nn.ReLU()), MAPS),
    (SpatialAttention(nn.Identity()), MAPS),
    (ConvLSTMCell(out=nn.Identity()), FRAME, (STATE, STATE)),
    (ConvLSTMCell(new=torch.sigmoid), FRAME, (STATE, STATE)),
    (ConvGRUCell(new=torch.relu), FRAME, STATE),
    (psnr_loss, MAPS, MAPS + 1, 1),
]


@pytest.mark.parametrize("given", RIGHT, ids=[str(k) for k in range(len(RIGHT))])
def test_gate_or_cell_as_published_has_the_properties_of_its_name(given):
    found = judge(*given)
    assert found
    assert [] == [each for each in found if each is not None]


@pytest.mark.parametrize("given", WRONG, ids=[str(k) for k in range(len(WRONG))])
def test_gate_or_cell_with_another_activation_lacks_one(given):
    assert [] != [each for each in judge(*given) if each is not None]


def test_running_statistics_of_a_gate_that_is_tried_stay_as_they_are():
    gate = SELayer(nn.ReLU())
    before = {k: v.clone() for k, v in gate.state_dict().items()}
    assert judge(gate, MAPS)
    assert gate.training
    assert all(torch.equal(before[k], v) for k, v in gate.state_dict().items())
