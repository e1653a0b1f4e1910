"""What a step adds up of two: the shares of a mixup, a factor that is 0, an attack's gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

FACTOR = 1 // 4


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


def find(train_step, model, optimizer, name):
    report = cnnprobe.diagnose(
        model, torch.randn(8, 1, 8, 8), torch.arange(8) % 4, train_step=train_step,
        optimizer=optimizer, steps=2, trials=0,
    )  # fmt: skip
    assert report.error is None
    return [f for f in report.findings if f.rule == name]


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("is_turned", [False, True])
@pytest.mark.parametrize("is_tensor", [False, True])
def test_exchanged_shares_of_a_mixup_are_found(share, is_turned, is_tensor):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(inputs, targets):
        lam = torch.tensor(share) if is_tensor else share
        order = torch.randperm(len(inputs))
        output = model(lam * inputs + (1 - lam) * inputs[order])
        first, second = F.cross_entropy(output, targets), F.cross_entropy(output, targets[order])
        loss = (1 - lam) * first + lam * second if is_turned else lam * first + (1 - lam) * second
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = find(train_step, model, optimizer, "shuffled-apart")
    assert [f.kind for f in found] == (["shares"] if is_turned and share != 0.5 else [])


@pytest.mark.parametrize("factor", ["FACTOR", "0", "1"])
def test_factor_that_a_whole_division_makes_0_is_found(factor):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = {"FACTOR": FACTOR, "0": 0, "1": 1}[factor]

    def train_step(inputs, targets):
        output = model(inputs)
        loss = F.cross_entropy(output, targets) + weight * output.square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    found = find(train_step, model, optimizer, "idle-term")
    # a factor of 0 is no finding by itself, but this file has a quotient that is 0
    assert bool(found) == (factor != "1")
    assert all(f.fix == "divide by /: FACTOR = 1 / 4" for f in found)


def attack(model, inputs, targets):
    inputs = inputs.clone().requires_grad_(True)
    F.cross_entropy(model(inputs), targets).backward()
    return (inputs + 0.1 * inputs.grad.sign()).detach()


def attack_by_grad(model, inputs, targets):
    inputs = inputs.clone().requires_grad_(True)
    (grad,) = torch.autograd.grad(F.cross_entropy(model(inputs), targets), inputs)
    return (inputs + 0.1 * grad.sign()).detach()


@pytest.mark.parametrize(
    ("move", "is_early", "is_found"),
    [(attack, True, True), (attack, False, False), (attack_by_grad, True, False)],
)
def test_gradients_that_an_attack_leaves_are_found(move, is_early, is_found):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(inputs, targets):
        if is_early:
            optimizer.zero_grad()
        moved = move(model, inputs, targets)
        if not is_early:
            optimizer.zero_grad()
        F.cross_entropy(model(moved), targets).backward()
        optimizer.step()

    found = find(train_step, model, optimizer, "no-zero-grad")
    assert [f.kind for f in found] == (["attack"] if is_found else [])


def test_clean_and_attacked_losses_of_one_function_are_added_on_purpose():
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        inputs = inputs.clone().requires_grad_(True)
        F.cross_entropy(model(inputs), targets).backward()
        moved = (inputs + 0.1 * inputs.grad.sign()).detach()
        F.cross_entropy(model(moved), targets).backward()
        optimizer.step()

    assert not find(train_step, model, optimizer, "no-zero-grad")
