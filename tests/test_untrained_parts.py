"""What is meant to be trained, and is not: found with its cause, and silent beside it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe


def find(rule, *args, **kwargs):
    report = cnnprobe.diagnose(*args, trials=0, **kwargs)
    return [each for each in report.findings if each.rule == rule]


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.judge = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def forward(self, x):
        return self.judge(x)


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_generator_that_is_frozen_in_both_phases_is_found(is_trained):
    torch.manual_seed(0)
    pair = Pair()
    making = torch.optim.Adam(pair.maker.parameters(), lr=1e-3)
    judging = torch.optim.Adam(pair.judge.parameters(), lr=1e-3)

    def train_step(model, x):
        model.maker.requires_grad_(False)
        made = model.maker(torch.randn(len(x), 4))
        loss = F.softplus(-model.judge(x)).mean() + F.softplus(model.judge(made)).mean()
        judging.zero_grad()
        loss.backward()
        judging.step()
        model.maker.requires_grad_(is_trained)
        making.zero_grad()
        F.softplus(-model.judge(model.maker(torch.randn(len(x), 4)))).mean().backward()
        making.step()

    found = find("idle-optimizer", pair, torch.randn(16, 8), train_step=train_step)
    assert ([] if is_trained else ["maker"]) == [each.module for each in found]
    for each in found:
        assert "making made" in each.message
        assert "4 parameters of model.maker never had a gradient" in each.message
        assert "model.maker.requires_grad_(True)" in each.fix


def classify(train_step):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    x, y = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])

    def step(model, x, y):
        cost = F.cross_entropy(model(x), y)
        penalty = 1e-4 * sum(p.square().sum() for p in model.parameters())
        optimizer.zero_grad()
        train_step(cost, penalty)
        optimizer.step()
        return cost

    return find("unused-loss", model, x, y, optimizer=optimizer, train_step=step)


def test_a_backward_on_the_penalty_in_place_of_the_returned_loss_is_found():
    (found,) = classify(lambda cost, penalty: penalty.backward())
    assert "penalty-alone" == found.kind
    assert "F.cross_entropy computes: it is called on what Tensor.mul computes" in found.message


def test_a_backward_on_the_sum_with_a_penalty_is_no_unused_loss():
    assert not classify(lambda cost, penalty: (cost + penalty).backward())


def test_a_penalty_and_a_loss_with_a_backward_each_are_no_unused_loss():
    assert not classify(lambda cost, penalty: [cost.backward(), penalty.backward()])


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_detached_part_of_the_output_that_the_loss_adds_is_found(is_cut):
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mask = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 1, 1)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            x = self.stem(x).relu()
            weights = self.mask(x).sigmoid()
            scores = self.head((x * weights).mean((2, 3)))
            return {"scores": scores, "weights": weights.detach() if is_cut else weights}

    def loss_fn(output, labels):
        return F.cross_entropy(output["scores"], labels) + output["weights"].mean()

    torch.manual_seed(0)
    model = Masked()
    x, y = torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = find("detached-term", model, x, y, loss_fn=loss_fn, optimizer=optimizer)
    assert is_cut == bool(found)
    assert all(".detach() at test_untrained_parts.py" in each.message for each in found)


@pytest.mark.parametrize("does_clip", [True, False])
def test_outlying_targets_come_behind_a_clip_that_has_no_effect(does_clip):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv1d(4, 8, 5), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x, y = torch.randn(64, 4, 16), torch.randn(64, 3)
    y[0] *= 3000

    def train_step(model, x, y):
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()
        if does_clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)

    given = {"optimizer": optimizer, "train_step": train_step, "trials": 0}
    report = cnnprobe.diagnose(model, x, y, **given)
    severities = {each.rule: each.severity for each in report.findings}
    assert ("info" if does_clip else "warning") == severities["unscaled-targets"]
    if does_clip:
        assert "clip-ineffective" == report.findings[0].rule


@pytest.mark.parametrize("is_mean", [True, False])
def test_a_mean_error_by_hand_beside_a_divergence_that_collapses_is_found(is_mean):
    class Coder(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.back = nn.Linear(64, 32), nn.Linear(4, 64)
            self.mean, self.spread = nn.Linear(32, 4), nn.Linear(32, 4)

        def forward(self, x):
            hidden = self.body(x).relu()
            mean, spread = self.mean(hidden), self.spread(hidden)
            return self.back(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread

    def loss_fn(output, x):
        made, mean, spread = output
        error = (x - made).square()
        error = error.mean() if is_mean else error.sum(1).mean()
        apart = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(1).mean()
        return error + 0.4 * apart

    torch.manual_seed(0)
    model = Coder()
    x = 0.2 * torch.randn(32, 2) @ torch.randn(2, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    given = {"loss_fn": loss_fn, "optimizer": optimizer, "steps": 60}
    found = find("divergence-outweighs", model, x, x, **given)
    assert is_mean == bool(found)
    for each in found:
        assert "Tensor.mean is the mean over the 64 values of a sample" in each.message
        assert "it counts 13 times" in each.message
        assert "the code holds nothing of the input" in each.message


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_generator_that_agrees_is_found_where_both_losses_come_before_both_steps(label):
    torch.manual_seed(0)
    pair = Pair()
    making = torch.optim.Adam(pair.maker.parameters(), lr=1e-3)
    judging = torch.optim.Adam(pair.judge.parameters(), lr=1e-3)

    def score(scores, target):
        return F.binary_cross_entropy_with_logits(scores, torch.full_like(scores, target))

    def train_step(model, x):
        made = model.maker(torch.randn(len(x), 4))
        fooled = score(model.judge(made), label)
        told = score(model.judge(x), 1.0) + score(model.judge(made.detach()), 0.0)
        making.zero_grad()
        fooled.backward()
        judging.zero_grad()
        told.backward()
        making.step()
        judging.step()

    found = find("adversary-agrees", pair, torch.randn(16, 8), train_step=train_step)
    assert ([] if label else ["agreed"]) == [each.kind for each in found]
