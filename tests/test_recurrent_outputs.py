"""Recurrent layers at the end of a model, and on sequences of one step."""

import pytest
import torch
from torch import nn

import cnnprobe


class Forecast(nn.Module):
    """A recurrent layer whose output is the prediction, with or without a head."""

    def __init__(self, layer, *, head=False):
        super().__init__()
        self.cell = layer
        self.head = nn.Linear(5, 5) if head else nn.Identity()

    def forward(self, x):
        return self.head(self.cell(x)[0])


def diagnose(layer, *, steps=4, scale=2.0, head=False, trials=0):
    torch.manual_seed(0)
    model, x = Forecast(layer(5, 5, batch_first=True), head=head), torch.rand(16, steps, 5) * 2 - 1
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_fn = nn.MSELoss()
    return cnnprobe.diagnose(
        model, x, scale * x, loss_fn=loss_fn, optimizer=optimizer, trials=trials
    )


def mismatches(report):
    return [f for f in report.findings if f.rule == "loss-activation-mismatch"]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU, nn.RNN])
def test_targets_that_the_state_of_a_recurrent_layer_cannot_reach_are_found(layer):
    (found,) = mismatches(diagnose(layer))
    assert "cell" == found.module
    assert f"'cell' ({layer.__name__}) puts out its state, which a tanh keeps" in found.message
    assert "add a Linear after model.cell, or scale the targets to its range" == found.fix


def test_targets_within_reach_and_a_head_are_no_fault():
    assert [] == mismatches(diagnose(nn.LSTM, scale=0.9))
    assert [] == mismatches(diagnose(nn.LSTM, head=True))


def test_an_output_that_no_tanh_bounds_is_no_fault():
    def projected(*sizes, **options):
        return nn.LSTM(5, 8, proj_size=5, **options)

    def rectified(*sizes, **options):
        return nn.RNN(*sizes, nonlinearity="relu", **options)

    assert [] == mismatches(diagnose(projected))
    assert [] == mismatches(diagnose(rectified))


def test_a_linear_after_the_recurrent_layer_is_tried():
    (found,) = mismatches(diagnose(nn.LSTM, trials=60))
    assert ("proven", "a Linear after model.cell") == (found.tried.verdict, found.tried.title)


def test_sequences_of_one_step_are_named_as_what_leaves_weight_hh_without_gradient():
    (found,) = [f for f in diagnose(nn.LSTM, steps=1, head=True).findings if f.rule == "zero-grad"]
    assert ("info", "cell") == (found.severity, found.module)
    assert "the gradient of weight_hh of model.cell is exactly 0 in 6 of 6 steps" in found.message
    assert "the sequences have one step, and the state before it is 0" in found.message
    assert [] == [f for f in diagnose(nn.LSTM, head=True).findings if f.rule == "zero-grad"]


def test_a_weight_without_gradient_is_named_where_the_layer_has_others():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.kept, self.shut = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))

        def forward(self, x):
            return x @ self.kept + 0.0 * (x @ self.shut)

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), Gated())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(8, 4), torch.arange(8) % 4
    loss_fn = nn.CrossEntropyLoss()
    report = cnnprobe.diagnose(model, x, y, loss_fn=loss_fn, optimizer=optimizer, trials=0)
    (found,) = [f for f in report.findings if f.rule == "zero-grad"]
    assert "the gradient of model[1].shut is exactly 0 in 6 of 6 steps" in found.message


class Reader(nn.Module):
    """A recurrent layer of which one step of the output is read."""

    def __init__(self, step, *, bidirectional=False):
        super().__init__()
        self.cell = nn.GRU(5, 8, batch_first=True, bidirectional=bidirectional)
        self.head, self.step = nn.Linear(16 if bidirectional else 8, 3), step

    def forward(self, x):
        return self.head(self.cell(x)[0][:, self.step])


def read_step(step, **options):
    torch.manual_seed(0)
    model, x, y = Reader(step, **options), torch.randn(16, 4, 5), torch.arange(16) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loss_fn = nn.CrossEntropyLoss()
    report = cnnprobe.diagnose(model, x, y, loss_fn=loss_fn, optimizer=optimizer, trials=0)
    return [f for f in report.findings if f.rule == "zero-grad"]


def test_output_that_is_read_at_the_first_step_alone_is_named():
    (found,) = read_step(0)
    assert "only what the first step of the sequence puts out reaches the loss" in found.message
    assert "output[:, -1]" in found.fix and "dim 1" in found.fix
    assert [] == read_step(-1)


def test_reverse_direction_that_is_read_where_it_begins_is_named():
    (found,) = read_step(-1, bidirectional=True)
    assert "weight_hh of the reverse direction of model.cell" in found.message
    assert "torch.cat([h_n[-2], h_n[-1]], dim=1)" in found.fix
