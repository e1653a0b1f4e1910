"""What an optimizer or a scheduler holds inside, such as another optimizer, other schedulers or an
object with a count, is after a diagnosis as before it.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim import lr_scheduler as schedules

import cnnprobe


class Sharpness(torch.optim.Optimizer):
    """Holds the optimizer that makes its steps, as SAM does."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 0.1})
        self.base_optimizer = torch.optim.SGD(self.param_groups, lr=0.1, momentum=0.9)
        self.param_groups = self.base_optimizer.param_groups

    def step(self, closure=None):
        self.base_optimizer.step(closure)


class Lookahead:
    """Is no torch optimizer, and counts its steps."""

    def __init__(self, parameters):
        self.optimizer, self.count = torch.optim.Adam(parameters, lr=0.1), 0

    def zero_grad(self):
        self.optimizer.zero_grad()

    def step(self):
        self.optimizer.step()
        self.count += 1


class Warm:
    """A factor that counts how often it was asked for."""

    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        return 1.0


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


def in_turn(optimizer):
    parts = [
        schedules.LinearLR(optimizer, 0.1, total_iters=3),
        schedules.CosineAnnealingLR(optimizer, 10),
    ]
    return schedules.SequentialLR(optimizer, parts, [3])


def at_once(optimizer):
    parts = [
        schedules.ConstantLR(optimizer, 0.5, total_iters=3),
        schedules.ExponentialLR(optimizer, 0.9),
    ]
    return schedules.ChainedScheduler(parts)


def read(value):
    """All that an object holds, as nested text; tensors by their values."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return [(str(k) if isinstance(k, str) else "", read(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return [read(v) for v in value]
    if type(value).__module__ in (__name__, schedules.__name__) or isinstance(
        value, torch.optim.Optimizer
    ):
        return [(k, read(v)) for k, v in vars(value).items() if k not in ("optimizer", "_hooks")]
    return repr(value) if isinstance(value, int | float | str | bool | None) else ""


@pytest.mark.parametrize(
    ("make_optimizer", "make_scheduler"),
    [
        (Sharpness, None),
        (Lookahead, None),
        (sgd, in_turn),
        (sgd, at_once),
        (sgd, lambda optimizer: schedules.LambdaLR(optimizer, Warm())),
        (sgd, schedules.ReduceLROnPlateau),
    ],
    ids=["sam", "lookahead", "sequential", "chained", "lambda", "plateau"],
)
def test_what_optimizers_and_schedulers_hold_is_as_before(make_optimizer, make_scheduler):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = make_optimizer(model.parameters())
    scheduler = make_scheduler(optimizer) if make_scheduler else None

    def step(inputs, targets):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            is_told = isinstance(scheduler, schedules.ReduceLROnPlateau)
            scheduler.step(*([loss.item()] if is_told else []))

    batch = torch.randn(6, 3, 2, 2), torch.arange(6) % 3
    step(*batch)
    held = (optimizer, getattr(optimizer, "optimizer", None), scheduler)
    before = read(held)
    cnnprobe.diagnose(model, *batch, train_step=step, trials=10)
    assert before == read(held)
    step(*batch)
    assert before != read(held)
