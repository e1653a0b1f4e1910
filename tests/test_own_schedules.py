"""Schedulers whose get_lr is the user's own."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

import cnnprobe


class WarmUp(LRScheduler):
    """From a third of the base rate to all of it, in twenty steps."""

    is_compounding = False

    def get_lr(self):
        share = min(1.0, self.last_epoch / 20)
        factor = (1 - share) / 3 + share
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return [rate * factor for rate in (rates if self.is_compounding else self.base_lrs)]


class CompoundingWarmUp(WarmUp):
    is_compounding = True


class InverseTime(LRScheduler):
    """1 / t as the ratio of one rate to the next: right, with factors that rise."""

    def get_lr(self):
        ratio = self.last_epoch / (self.last_epoch + 1)
        return [group["lr"] * (ratio or 1.0) for group in self.optimizer.param_groups]


class Linear(LRScheduler):
    """To almost 0 within a hundred steps, as the ratio of one rate to the next."""

    def get_lr(self):
        ratio = max(1e-3, 110 - self.last_epoch) / max(1e-3, 111 - self.last_epoch)
        return [group["lr"] * ratio for group in self.optimizer.param_groups]


def diagnose(kind, *, trials=0):
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 2), torch.randn(8, 4), torch.arange(8) % 2
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = kind(optimizer)

    def train_step(x, y):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()

    report = cnnprobe.diagnose(
        model, x, y, optimizer=optimizer, scheduler=scheduler, train_step=train_step, trials=trials
    )
    state = scheduler.last_epoch, optimizer.param_groups[0]["lr"]
    return [f for f in report.findings if f.rule == "lr-collapsed"], state


def test_a_warm_up_that_multiplies_the_current_rate_is_named_as_that():
    (found,), _ = diagnose(CompoundingWarmUp)
    # after 6 observed steps: (1 - 7 / 20) / 3 + 7 / 20, and so on
    assert "by factors that rise with each step (0.567, 0.6, 0.633, ...)" in found.message
    assert found.fix.startswith("multiply base_lrs in get_lr() of scheduler")


def test_the_base_rate_in_the_place_of_the_current_one_is_tried():
    (found,), _ = diagnose(CompoundingWarmUp, trials=60)
    assert "proven" == found.tried.verdict
    assert "base_lrs in the place of the current rates" in found.tried.title


@pytest.mark.parametrize("kind", [WarmUp, InverseTime])
def test_a_schedule_of_ones_own_that_is_right_is_no_fault(kind):
    assert [] == diagnose(kind)[0]


def test_ratios_that_fall_are_not_called_compounding():
    assert ["compounding"] != [found.kind for found in diagnose(Linear)[0]]


def test_asking_a_scheduler_for_its_factors_leaves_it_as_it_was():
    _, state = diagnose(CompoundingWarmUp)
    assert (0, pytest.approx(0.1 / 3, rel=1e-12)) == state
