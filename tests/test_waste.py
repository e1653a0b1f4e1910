"""Backward passes whose gradients are cleared before a step uses them."""

import pytest
import torch
from torch import nn

from cnnprobe.training.waste import Waste

GIVEN = torch.ones(2)


def count_after(*events):
    """The passes that are wasted; a pass is its gradient, "zero", "step" and "move" are events."""
    parameter = nn.Parameter(torch.zeros(2))
    waste = Waste({"weight": parameter})
    for i, event in enumerate(events):
        if event == "zero":
            parameter.grad = None
            waste.zero_grad_done()
        elif event == "step":
            waste.step()
            waste.step_done()
        elif event == "move":
            parameter.data += 1.0
        else:
            waste.backward(frozenset({i}), alone=True)
            grown = event if parameter.grad is None else parameter.grad + event
            parameter.grad = grown.clone()
            waste.backward_done(is_finite=bool(event.isfinite().all()))
    return waste.total


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([GIVEN, GIVEN, GIVEN, "step", "zero", GIVEN, GIVEN, "step"], 0),
        ([GIVEN, GIVEN, GIVEN, "zero", GIVEN, "step"], 3),
        (["zero", GIVEN, "zero", GIVEN, "zero", GIVEN, "step"], 2),
    ],
)
def test_pass_is_wasted_that_is_cleared_before_another_is_stepped_with(events, expected):
    assert expected == count_after(*events)


def test_pass_whose_gradients_overflowed_is_not_wasted():
    overflowed = torch.tensor([1.0, float("inf")])
    assert 0 == count_after(overflowed, "zero", GIVEN, "step")


def test_pass_that_moved_the_weights_is_not_wasted():
    assert 0 == count_after(GIVEN, "move", "zero", GIVEN, "step")


def test_pass_after_the_last_step_is_not_wasted():
    assert 0 == count_after(GIVEN, "step", GIVEN, "zero")
