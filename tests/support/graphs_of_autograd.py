"""Outputs whose autograd graphs have every kind of node."""

import pytest
import torch

from cnnprobe.recorder.autograd.saved import READABLE

needs_saved = pytest.mark.skipif(
    not READABLE,
    reason=f"torch {torch.__version__} does not show what is kept for backward: 2.7 or later does",
)


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x)
        ctx.extra = torch.ones(10)
        return x * 2, y * 2

    @staticmethod
    def backward(ctx, g, h):
        return g * 2, h * 2


def leaf(*shape, **options):
    torch.manual_seed(0)
    return torch.rand(*shape, requires_grad=True, **options)
