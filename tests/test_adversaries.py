"""Two networks that are to work against each other: what the loss of each does to the scores."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.maker = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
        self.judge = nn.Sequential(nn.Linear(8, 16), nn.LeakyReLU(), nn.Linear(16, 1))

    def forward(self, noise):
        return self.judge(self.maker(noise))


def find(judging, making, *, model=lambda pair: pair, extra=lambda _real, made: made):
    """The scores on which both agree; `judging` and `making` are losses of scores."""
    pair = Pair()
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3)
    judge = torch.optim.SGD(pair.judge.parameters(), lr=1e-3)

    def train_step(real):
        made = pair.maker(torch.randn(len(real), 4))
        judge.zero_grad()
        judging(pair.judge(real), pair.judge(extra(real, made.detach()))).backward()
        judge.step()
        maker.zero_grad()
        making(pair.judge(made)).backward()
        maker.step()

    report = cnnprobe.diagnose(
        model(pair), torch.randn(8, 8), optimizer=[maker, judge], train_step=train_step, trials=0,
        steps=2,
    )  # fmt: skip
    assert report.error is None
    return [f for f in report.findings if f.rule == "adversary-agrees"]


def tell(score, label):
    return F.binary_cross_entropy_with_logits(score, torch.full_like(score, label))


JUDGING = {
    "labels": lambda real, made: tell(real, 1.0) + tell(made, 0.0),
    "labels turned round": lambda real, made: tell(real, 0.0) + tell(made, 1.0),
    "squares": lambda real, made: ((real.sigmoid() - 1) ** 2).mean() + F.mse_loss(made, 0 * real),
    "critic": lambda real, made: -(real.mean() - made.mean()),
    "critic turned round": lambda real, made: real.mean() - made.mean(),
    "hinge": lambda real, made: F.relu(1 - real).mean() + F.relu(1 + made).mean(),
    "softplus": lambda real, made: F.softplus(-real).mean() + F.softplus(made).mean(),
    "logarithm": lambda real, made: -(real.sigmoid().log() + (1 - made.sigmoid()).log()).mean(),
}
LOWERS = frozenset(JUDGING) - {"labels turned round", "critic turned round"}


@pytest.mark.parametrize("name", JUDGING)
@pytest.mark.parametrize("sign", [1, -1])
def test_maker_is_found_where_its_loss_moves_the_scores_as_that_of_the_judge(name, sign):
    is_lowered = name in LOWERS
    found = find(JUDGING[name], lambda score: sign * score.mean())
    assert bool(found) == (is_lowered == (sign == 1))
    assert all(f"a {'lower' if is_lowered else 'higher'} score" in f.message for f in found)


@pytest.mark.parametrize(
    ("making", "is_found"),
    [
        (lambda score: tell(score, 0.0), True),
        (lambda score: -torch.log(1 - score.sigmoid()).mean(), True),
        (lambda score: tell(score, 1.0), False),
        (lambda score: torch.log(1 - score.sigmoid()).mean(), False),
        (lambda score: F.softplus(-score).mean() * 0.5, False),
        (lambda score: score.square().mean(), False),  # of no certain direction
    ],
)
def test_losses_of_a_maker_are_told_by_their_direction(making, is_found):
    assert is_found == bool(find(JUDGING["labels"], making))


def test_maker_beside_the_model_is_found():
    assert find(JUDGING["critic"], lambda score: score.mean(), model=lambda pair: pair.judge)


def test_real_samples_with_the_noise_of_made_ones_are_not_taken_for_made():
    def blur(x):
        return x + 0.1 * torch.randn_like(x)

    assert not find(
        lambda real, made: -real.mean() + made.mean(), lambda score: -score.mean(),
        extra=lambda _real, made: blur(made),
    )  # fmt: skip


@pytest.mark.parametrize("way", ["one", "frozen", "two"])
def test_judge_that_the_makers_loss_trains_too_is_found(way):
    pair = Pair()
    optimizer = torch.optim.SGD(pair.parameters(), lr=1e-3)
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3) if way == "two" else optimizer

    def train_step(real):
        made = pair.maker(torch.randn(len(real), 4))
        pair.judge.requires_grad_(True)
        optimizer.zero_grad()
        JUDGING["labels"](pair.judge(real), pair.judge(made.detach())).backward()
        optimizer.step()
        optimizer.zero_grad()
        pair.judge.requires_grad_(way != "frozen")
        tell(pair.judge(made), 1.0).backward()
        maker.step()

    report = cnnprobe.diagnose(
        pair, torch.randn(8, 8), optimizer=[maker, optimizer] if way == "two" else optimizer,
        train_step=train_step, trials=0, steps=2,
    )  # fmt: skip
    found = [f for f in report.findings if f.rule == "adversary-agrees"]
    assert (way == "one") == bool(found)
    assert all("to score made samples lower" in f.message for f in found)
