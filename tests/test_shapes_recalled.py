"""Shapes that were worked out once are looked up, and are those that torch would give again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnprobe import probe
from cnnprobe.recorder import recalled


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        for _ in range(3):
            y = self.act(self.norm(self.conv(x)))
            x = F.hardswish(F.max_pool2d(torch.cat([x, y]), 1)) + 1
            x = torch.relu(x.mul(2)).add_(1)
            x = F.silu(F.avg_pool2d(x, 1), inplace=True)
        return F.adaptive_avg_pool2d(F.softmax(x, 1), 1)


def _rows(trace):
    return [
        (call.kind, [(t.shape, t.strides, t.dtype, t.requires_grad) for t in call.outputs])
        for call in trace.calls
    ]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_recalled_shapes_are_those_that_torch_gives(order, training, monkeypatch):
    model = Net().train(training).to(memory_format=order)
    x = torch.randn(2, 4, 6, 6).to(memory_format=order)
    with torch.no_grad():
        found = _rows(probe(model, x, shapes_only=True).trace)
        if order is torch.contiguous_format:  # torch's own rules forget the order of channels last
            assert _rows(probe(model, x).trace) == found
        monkeypatch.setattr(
            recalled.Recalled, "call", lambda _, f, args, kwargs: f(*args, **kwargs)
        )
        assert _rows(probe(model, x, shapes_only=True).trace) == found


def test_function_is_called_once_for_equal_shapes():
    seen, x = recalled.Recalled(), torch.empty(2, 3, device="meta")
    with torch.no_grad():
        first = seen.call(F.relu, (x,), {})
        again = seen.call(F.relu, (torch.empty(2, 3, device="meta"),), {})
        other = seen.call(F.relu, (torch.empty(3, 2, device="meta"),), {})
        version = x._version
        same = [seen.call(F.relu, (x,), {"inplace": True}) for _ in range(2)]
    assert len(seen._made) == 3
    assert [(2, 3), (2, 3), (3, 2)] == [tuple(t.shape) for t in (first, again, other)]
    assert all(t is x for t in same)
    assert version + 2 == x._version


@pytest.mark.parametrize("kind", ["gradients", "autocast", "values"])
def test_nothing_is_recalled_where_shapes_are_not_all(kind):
    seen = recalled.Recalled()
    x = torch.ones(2, 3, device="cpu" if kind == "values" else "meta")
    autocast = torch.autocast("cpu", enabled=kind == "autocast")
    with torch.set_grad_enabled(kind == "gradients"), autocast:
        outputs = [seen.call(F.linear, (x, x), {}) for _ in range(2)]
    assert not seen._made
    assert [(2, 2), (2, 2)] == [tuple(t.shape) for t in outputs]
