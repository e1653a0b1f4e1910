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
    return select(report)


def select(report):
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


@pytest.mark.parametrize("sign", [1, -1])
def test_critic_is_at_fault_where_it_scores_real_and_made_samples_alike(sign):
    found = find(lambda real, made: sign * -real.mean() - made.mean(), lambda score: -score.mean())
    (finding,) = found
    assert finding.kind == ("same" if sign == 1 else "agreed")


def train_together(*, detached, cleared):
    """A diagnosis of a pair whose optimizers both step at the end."""
    pair = Pair()
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3)
    judge = torch.optim.SGD(pair.judge.parameters(), lr=1e-3)

    def train_step(real):
        maker.zero_grad()
        judge.zero_grad()
        made = pair.maker(torch.randn(len(real), 4))
        judging = tell(pair.judge(real), 1.0) + tell(
            pair.judge(made.detach() if detached else made), 0.0
        )
        judging.backward(retain_graph=True)
        if cleared:
            maker.zero_grad()
        pair.judge.requires_grad_(False)
        tell(pair.judge(made), 1.0).backward()
        pair.judge.requires_grad_(True)
        maker.step()
        judge.step()

    return select(
        cnnprobe.diagnose(
            pair, torch.randn(8, 8), optimizer=[maker, judge], train_step=train_step, trials=0,
            steps=2,
        )
    )  # fmt: skip


def test_loss_of_a_judge_that_also_trains_the_maker_is_found():
    (finding,) = train_together(detached=False, cleared=False)
    assert "4 weights of what makes them" in finding.message
    assert not train_together(detached=True, cleared=False)
    assert not train_together(detached=False, cleared=True)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gradient_that_backward_is_given_turns_a_loss_round(sign):
    pair = Pair()
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3)
    judge = torch.optim.SGD(pair.judge.parameters(), lr=1e-3)

    def train_step(real):
        made = pair.maker(torch.randn(len(real), 4))
        judge.zero_grad()
        pair.judge(real).mean().backward(torch.tensor(-1.0))
        pair.judge(made.detach()).mean().backward(torch.tensor(1.0))
        judge.step()
        maker.zero_grad()
        pair.judge(made).mean().backward(torch.tensor(sign))
        maker.step()

    report = cnnprobe.diagnose(
        pair, torch.randn(8, 8), optimizer=[maker, judge], train_step=train_step, trials=0, steps=2
    )
    assert bool(select(report)) == (sign > 0)


@pytest.mark.parametrize("asked", [0, 1])
def test_gradients_of_a_judge_are_found_in_a_maker_beside_the_model(asked):
    pair = Pair()
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3)
    judge = torch.optim.SGD(pair.judge.parameters(), lr=1e-3)

    def train_step(real):
        maker.zero_grad()
        judge.zero_grad()
        made = pair.maker(torch.randn(len(real), 4))
        (tell(pair.judge(real), 1.0) + tell(pair.judge(made), 0.0)).backward(retain_graph=True)
        judge.step()
        tell(pair.judge(made), 1.0).backward()
        maker.step()

    report = cnnprobe.diagnose(
        [pair.maker, pair.judge][asked], torch.randn(8, [4, 8][asked]), optimizer=[maker, judge],
        train_step=lambda _x: train_step(torch.randn(8, 8)), trials=0, steps=2,
    )  # fmt: skip
    assert [f.rule for f in report.findings if f.rule == "no-zero-grad"]


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


@pytest.mark.parametrize(
    ("judging", "is_found"),
    [
        (lambda real, made: made.sigmoid().mean() - real.sigmoid().mean(), True),
        (lambda real, made: -(real.sigmoid().mean() - made.sigmoid().mean()), True),
        (JUDGING["critic"], False),
        (JUDGING["logarithm"], False),
        (JUDGING["squares"], False),
        (JUDGING["hinge"], False),
    ],
)
def test_critic_whose_scores_a_sigmoid_bounds_is_found(judging, is_found):
    found = find(judging, lambda score: -score.mean())
    assert is_found == bool(found)
    assert all("a sigmoid keeps the scores of 'judge.2'" in f.message for f in found)


@pytest.mark.parametrize("cleared", [True, False])
def test_gradients_that_the_judges_optimizer_clears_train_no_judge(cleared):
    pair = Pair()
    maker = torch.optim.SGD(pair.maker.parameters(), lr=1e-3)
    judge = torch.optim.SGD(pair.judge.parameters(), lr=1e-3)

    def train_step(real):
        made = pair.maker(torch.randn(len(real), 4))
        maker.zero_grad()
        tell(pair.judge(made), 1.0).backward()
        if cleared:
            judge.zero_grad()
        JUDGING["labels"](pair.judge(real), pair.judge(made.detach())).backward()
        maker.step()
        judge.step()
        judge.zero_grad()

    report = cnnprobe.diagnose(
        pair, torch.randn(8, 8), optimizer=[maker, judge], train_step=train_step, trials=0, steps=2
    )
    assert cleared == (not select(report))
