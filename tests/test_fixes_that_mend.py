"""Fixes whose first steps do not show that they mend: judged by whole trainings, or by what the
user's line asks for.
"""

import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe.diagnosis import Verdict
from cnnprobe.remedies.kinds.layers import copy_names
from cnnprobe.remedies.subject import Subject
from cnnprobe.training import Request
from cnnprobe.training.surroundings import Surroundings


class Coder(nn.Module):
    def __init__(self):
        super().__init__()
        self.back = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 64))
        self.code = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, x):
        mean, logvar = self.code(x).chunk(2, 1)
        drawn = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return self.back(drawn).view_as(x), mean, logvar


def weigh(error):
    def loss_fn(output, x):
        made, mean, logvar = output
        divergence = -0.5 * (1 + logvar - mean**2 - logvar.exp()).sum(1).mean()
        return error(F.mse_loss(made, x)) + divergence

    return loss_fn


def encode(error):
    """A coder of pictures that two numbers make, and what it explains of them after a training."""
    torch.manual_seed(0)
    x = (0.2 * torch.randn(64, 2) @ torch.randn(2, 64)).view(64, 1, 8, 8)
    model, loss_fn = Coder(), weigh(error)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(300):
        optimizer.zero_grad()
        loss_fn(model(x), x).backward()
        optimizer.step()
    return 1 - float(F.mse_loss(model(x)[0], x).detach() / x.var())


def test_likelihood_in_the_place_of_a_mean_error_keeps_the_code_of_a_vae():
    torch.manual_seed(0)
    x, model = 0.2 * torch.randn(16, 1, 8, 8), Coder()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    report = cnnprobe.diagnose(
        model, x, x, loss_fn=weigh(lambda error: error), optimizer=optimizer, trials=20
    )
    (found,) = [f for f in report.findings if f.rule == "divergence-outweighs"]
    assert found.fix.startswith("32 * F.mse_loss(...).log() in the place of F.mse_loss(...)")
    assert found.tried.verdict is Verdict.PROVEN
    assert encode(lambda error: error) < 0.1
    assert encode(lambda error: 32 * error.log()) > 0.7


def test_gradients_of_eight_calls_are_judged_over_more_than_a_few():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []

    def train_step(x, y):
        calls.append(1)
        if len(calls) % 8 == 0:
            optimizer.zero_grad()
        (F.cross_entropy(model(x), y) / 8).backward()
        if len(calls) % 8 == 0:
            optimizer.step()

    given = {"optimizer": optimizer, "train_step": train_step, "steps": 24, "trials": 60}
    report = cnnprobe.diagnose(model, torch.randn(8, 1, 8, 8), torch.arange(8) % 4, **given)
    (found,) = [f for f in report.findings if f.rule == "step-missing"]
    assert found.tried.verdict is Verdict.PROVEN


def test_what_a_line_asks_for_in_vain_is_proven_though_the_loss_rises_at_its_rate():
    torch.manual_seed(0)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), *pooled)
    for p in model[0].parameters():
        p.requiresGrad = False
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    x, y = 20 * torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    report = cnnprobe.diagnose(
        model, x, y, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer, trials=60
    )
    (found,) = [f for f in report.findings if f.rule == "idle-attribute"]
    assert found.tried.verdict is Verdict.PROVEN
    assert found.tried.losses[-1] > 2 * found.tried.losses[0]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x))) + x


def test_modules_in_the_place_of_one_start_from_weights_of_their_own():
    model = nn.Sequential(*(3 * [Block()]), nn.Flatten(), nn.Linear(256, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    subject = Subject(Request(model=model, inputs=None), Surroundings(), [])
    subject.around.add("optimizer", optimizer)
    copy_names(subject, "0")
    first, second = model[0].conv.weight, model[1].conv.weight
    assert not torch.equal(first, second)
    assert abs(float(first.detach().std() / second.detach().std()) - 1) < 0.2
    held = {id(p) for p in optimizer.param_groups[0]["params"]}
    assert {id(p) for p in model.parameters()} <= held


def test_factor_that_left_torch_on_the_line_of_a_term_gets_its_gradient_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.LogSoftmax(1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(x, y):
        optimizer.zero_grad()
        scores = model(x)
        reward = (scores.detach().argmax(1) == y).float() - 0.33
        loss = -0.01 * -(scores.exp() * scores).sum(1).mean()
        for i in range(len(x)):
            loss = loss - scores[i, y[i]].item() * reward[i]
        loss.backward()
        optimizer.step()

    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 3
    report = cnnprobe.diagnose(model, x, y, optimizer=optimizer, train_step=train_step)
    (found,) = [f for f in report.findings if f.rule == "detached-term"]
    assert found.tried.verdict is Verdict.PROVEN


def test_target_that_the_step_never_reads_is_what_the_output_is_to_be_compared_with():
    torch.manual_seed(0)
    front, back = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
    model = nn.Sequential(front, back)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def train_step(images, clean):
        optimizer.zero_grad()
        middle = front(images)
        F.mse_loss(middle, back(middle)).backward()
        optimizer.step()

    x = torch.randn(8, 1, 8, 8)
    report = cnnprobe.diagnose(model, x, 0.5 * x, optimizer=optimizer, train_step=train_step)
    (found,) = [f for f in report.findings if f.rule == "trained-target"]
    assert found.fix == "compare the output with clean, which the step gets and never reads"
    assert found.tried is None


class Slow:
    """A Lookahead that keeps its slow weights by group."""

    def __init__(self, base):
        self.base = base
        self.held = [[p.detach().clone() for p in g["params"]] for g in base.param_groups]
        self.ends = {"last": [0.0]}

    @torch.no_grad()
    def step(self):
        self.base.step()
        for group, held in zip(self.base.param_groups, self.held, strict=True):
            for p, slow in zip(group["params"], held, strict=True):
                p.copy_(slow.lerp_(p, 0.5))
        self.ends["last"][0] += 1


def test_weights_in_lists_of_lists_are_put_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    slow = Slow(torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.clone() for p in slow.held[0]]

    def train_step(x, y):
        slow.base.zero_grad()
        F.cross_entropy(model(x), y).backward()
        slow.step()

    cnnprobe.diagnose(
        model, torch.randn(8, 1, 8, 8), torch.arange(8) % 3, optimizer=slow.base,
        train_step=train_step,
    )  # fmt: skip
    assert all(torch.equal(a, b) for a, b in zip(before, slow.held[0], strict=True))
    assert slow.ends == {"last": [0.0]}
