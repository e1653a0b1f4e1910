"""A weight decay that a loop makes by itself, and its sign."""

import pytest
import torch
from torch import nn

import cnnprobe


def find(step, *, optimizer=None):
    """The findings on a decay; `step` gets model, inputs, labels, the loss function."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = optimizer and optimizer(model.parameters())

    def train_step(inputs, targets):
        model.zero_grad()
        step(model, inputs, targets, nn.CrossEntropyLoss(), optimizer)

    report = cnnprobe.diagnose(
        model, torch.randn(8, 6), torch.arange(8) % 3, train_step=train_step, optimizer=optimizer,
        trials=0, steps=3,
    )  # fmt: skip
    assert report.error is None
    return [f for f in report.findings if f.rule == "decay-sign"]


def penalise(factor, size):
    def step(model, inputs, targets, loss_fn, optimizer):
        penalty = sum(size(p) for p in model.parameters())
        (loss_fn(model(inputs), targets) + factor * penalty).backward()
        optimizer.step()

    return step


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1)


@pytest.mark.parametrize(
    "size",
    [
        lambda p: p.pow(2).sum(),
        lambda p: (p * p).sum(),
        lambda p: p.square().mean(),
        lambda p: p.norm(),
        lambda p: p.abs().sum(),
        torch.linalg.vector_norm,
    ],
)
@pytest.mark.parametrize("factor", [-0.01, 0.01])
def test_size_of_weights_is_found_where_it_is_subtracted_from_the_loss(size, factor):
    found = find(penalise(factor, size), optimizer=sgd)
    assert [f.kind for f in found] == (["loss"] if factor < 0 else [])


@pytest.mark.parametrize("factor", [-0.01, 0.01])
def test_multiple_of_the_weight_is_found_in_its_gradient(factor):
    def step(model, inputs, targets, loss_fn, optimizer):
        loss_fn(model(inputs), targets).backward()
        for p in model.parameters():
            p.grad = p.grad + factor * p.detach()
        optimizer.step()

    found = find(step, optimizer=torch.optim.Adam)
    assert ["0.01 times" in f.message for f in found] == ([True] if factor < 0 else [])


@pytest.mark.parametrize("factor", [-0.05, 0.05])
def test_multiple_of_the_weight_is_found_in_an_update_by_hand(factor):
    def step(model, inputs, targets, loss_fn, optimizer):
        loss_fn(model(inputs), targets).backward()
        with torch.no_grad():
            for p in model.parameters():
                p.sub_(0.1 * (p.grad + factor * p))

    found = find(step)
    assert ["0.05 times" in f.message for f in found] == ([True] if factor < 0 else [])


def test_clipped_and_noisy_gradients_are_no_decay():
    def step(model, inputs, targets, loss_fn, optimizer):
        loss_fn(model(inputs), targets).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        for p in model.parameters():
            p.grad.add_(0.01 * torch.randn_like(p))
        optimizer.step()

    assert not find(step, optimizer=sgd)
