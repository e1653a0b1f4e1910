"""Settings of an optimizer that no training ends well with, and the values beside them that are
fine.
"""

import pytest
import torch
from torch import nn

import cnnprobe


def diagnose(make, *, change=None, silent=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    if silent:
        with torch.no_grad():
            model[0].bias[:2] = -9  # two units without gradients
    optimizer = make(model.parameters())
    optimizer.param_groups[0].update(change or {})
    inputs, labels = torch.randn(16, 6), torch.arange(16) % 3
    report = cnnprobe.diagnose(
        model, inputs, labels, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer
    )
    return [finding for finding in report.findings if finding.rule == "optimizer-setting"]


def sgd(**options):
    return lambda parameters: torch.optim.SGD(parameters, lr=0.01, **options)


def adam(**options):
    return lambda parameters: torch.optim.Adam(parameters, lr=1e-3, **options)


def rms(**options):
    return lambda parameters: torch.optim.RMSprop(parameters, lr=1e-3, **options)


SICK = {
    "momentum=0.9 in optimizer": {"make": sgd(momentum=1.0)},
    "dampening=0 in optimizer": {"make": sgd(momentum=0.9, dampening=1.0)},
    "alpha=0.99 in optimizer": {"make": rms(alpha=1.0)},
    "betas[0]=0.9 in optimizer": {"make": adam(betas=(0.99999999, 0.999))},
    "betas[0]=0.95 in optimizer": {"make": adam(betas=(0.999, 0.95))},
    "betas[1]=0.999 in optimizer": {"make": adam(betas=(0.9, 0.9999999999))},
    "weight_decay=0 in optimizer": {"make": adam(), "change": {"weight_decay": -0.1}},
    "lr=0.01 in optimizer": {"make": sgd(), "change": {"lr": -0.01}},
    "eps=1e-08 in optimizer": {"make": adam(eps=0.0), "silent": True},
}


@pytest.mark.parametrize("title", SICK)
def test_setting_out_of_its_range_is_found_and_the_usual_value_is_proven(title):
    (found,) = diagnose(**SICK[title])
    assert ("proven", title) == (found.tried.verdict.value, found.tried.title)


def test_eps_that_outweighs_the_gradients_is_found_and_one_below_them_is_not():
    (found,) = diagnose(adam(eps=1.0))
    assert ("proven", "eps=1e-08 in optimizer") == (found.tried.verdict.value, found.tried.title)
    assert not diagnose(adam(eps=1e-3))


@pytest.mark.parametrize(
    "given",
    [
        {"make": adam(betas=(0.95, 0.9))},
        {"make": adam(betas=(0.0, 0.9))},
        {"make": sgd(momentum=0.999, nesterov=True)},
        {"make": sgd(dampening=1.0)},  # without a momentum it is not used
        {"make": adam(betas=(0.0, 0.0))},
        {"make": adam(betas=(0.999, 0.9999999))},
        {"make": adam(eps=0.0)},
        {"make": adam(eps=1e-15), "silent": True},
        {"make": torch.optim.Adadelta, "change": {"rho": 1.0}},  # the steps are those of SGD
        {"make": lambda parameters: torch.optim.ASGD(parameters, alpha=1.0)},  # another alpha
    ],
)
def test_setting_within_its_range_is_no_fault(given):
    assert [] == diagnose(**given)


@pytest.mark.parametrize(("gamma", "expected"), [(0.0, "a gamma above 0"), (0.1, "once an epoch")])
def test_rate_of_exactly_0_is_the_schedulers_number_and_not_its_place(gamma, expected):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=10, gamma=gamma)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()

    report = cnnprobe.diagnose(
        model,
        torch.randn(16, 8),
        torch.randint(0, 3, (16,)),
        optimizer=optimizer,
        train_step=train_step,
        scheduler=scheduler,
    )
    (found,) = [f for f in report.findings if f.rule == "lr-collapsed"]
    assert expected in found.fix
