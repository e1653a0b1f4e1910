"""Rows of a weight that have had no other gradient than zero."""

import torch
from torch import nn

from cnnprobe.training.silence import Silence


def count_after(*gradients):
    parameter = nn.Parameter(torch.zeros(3, 2))
    silence = Silence({"weight": parameter})
    for gradient in gradients:
        parameter.grad = gradient
        silence.backward_done()
    return silence.count()


def test_rows_without_a_gradient_are_counted():
    assert {"weight": 2} == count_after(torch.tensor([[0.0, 0.0], [0.0, 1e-30], [0.0, 0.0]]))


def test_row_that_had_a_gradient_once_is_silent_no_more():
    first, second = torch.zeros(3, 2), torch.zeros(3, 2)
    first[0], second[1] = 1.0, -1.0
    assert {"weight": 1} == count_after(first, second)
    assert {} == count_after(first, second, torch.ones(3, 2), torch.zeros(3, 2))


def test_not_a_number_is_no_silence_and_a_missing_gradient_says_nothing():
    assert {"weight": 2} == count_after(torch.tensor([[float("nan"), 0], [0, 0], [0, 0]]))
    assert {} == count_after(None)


def test_vectors_and_frozen_weights_have_no_rows():
    bias, frozen = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(3, 2))
    silence = Silence({"bias": bias, "frozen": frozen.requires_grad_(False)})
    silence.backward_done()
    assert {} == silence.count()
