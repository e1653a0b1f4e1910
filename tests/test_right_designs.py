"""Models that are right in ways that look wrong: nothing is warned of, and the same model with the
fault is found.
"""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cnnprobe
from cnnprobe.diagnosis.evidence import Flow
from cnnprobe.diagnosis.evidence.bounds import find_bounds
from cnnprobe.training.spectra import is_learnt


def warned(report):
    return {finding.rule for finding in report.findings if finding.severity != "info"}


def told(report, rule):
    return [finding for finding in report.findings if finding.rule == rule]


def encoder():
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class Twins(nn.Module):
    """A student learns to give what its average gives of the same image."""

    def __init__(self, decay):
        super().__init__()
        self.student, self.decay = encoder(), decay
        self.head = nn.Linear(6, 6)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        for _ in range(3):
            self.teacher(torch.rand(8, 1, 8, 8))

    def forward(self, x):
        with torch.no_grad():
            for mine, its in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                mine.lerp_(its, 1 - self.decay)
            goal = self.teacher(x + 0.1)
        return F.mse_loss(self.head(self.student(x)), goal)


@pytest.mark.parametrize(("decay", "found"), [(0.9, False), (1.0, True)])
def test_norms_of_an_average_run_in_train_mode_and_those_of_a_frozen_net_are_found(decay, found):
    torch.manual_seed(0)
    model = Twins(decay)
    optimizer = torch.optim.SGD([*model.student.parameters(), *model.head.parameters()], lr=0.1)

    def train_step(x):
        optimizer.zero_grad()
        model(x).backward()
        optimizer.step()

    report = cnnprobe.diagnose(
        model, torch.randn(8, 1, 8, 8), optimizer=optimizer, train_step=train_step
    )
    assert found == ("frozen-bn-drift" in warned(report))


class Adapted(nn.Module):
    """An update of two factors beside a layer; without `beside` they are the layer."""

    def __init__(self, beside, scale):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 1, bias=False)
        self.layer = nn.Conv2d(1, 8, 3, padding=1).requires_grad_(False) if beside else None
        self.scale, self.head = scale, nn.Linear(8, 4)

    def forward(self, x):
        update = self.up(self.down(x))
        made = update if self.layer is None else self.layer(x) + self.scale * update
        return self.head(made.relu().mean((2, 3)))


@pytest.mark.parametrize(("beside", "scale"), [(True, 1.0), (True, 0.5), (False, 1.0)])
def test_two_factors_of_an_update_need_no_activation_and_two_layers_do(beside, scale):
    torch.manual_seed(0)
    report = cnnprobe.diagnose(
        Adapted(beside, scale),
        torch.randn(8, 1, 8, 8),
        torch.arange(8) % 4,
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=None,
    )
    assert beside == ("missing-nonlinearity" not in warned(report))


def trained_classifier(x, y, steps=60):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model


def test_a_trained_net_that_gets_new_classes_has_no_wrong_initialisation():
    torch.manual_seed(1)
    x, y = torch.randn(64, 1, 8, 8), torch.arange(64) % 4
    model = trained_classifier(x + 2 * y.view(-1, 1, 1, 1), y)
    report = cnnprobe.diagnose(
        model,
        5 + x,
        y + 4,
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
    )
    (finding,) = told(report, "loss-at-init")
    assert ("info", None) == (finding.severity, finding.tried)
    assert "has learnt something else before" in finding.message


@pytest.mark.parametrize("shape", [(10, 64), (2, 64), (4, 4), (64, 10), (16, 3, 3, 3)])
def test_no_initialisation_of_torch_is_taken_for_something_learnt(shape):
    torch.manual_seed(0)
    ways = (nn.init.kaiming_uniform_, nn.init.normal_, nn.init.xavier_normal_, nn.init.uniform_,
            nn.init.trunc_normal_, nn.init.orthogonal_)  # fmt: skip
    for way in ways:
        for _ in range(20):
            assert not is_learnt(100 * way(torch.empty(shape)))


def test_a_direction_that_stands_out_of_random_numbers_is_taken_for_something_learnt():
    torch.manual_seed(0)
    noise, along = torch.randn(10, 64), torch.outer(torch.randn(10), torch.randn(64))
    edge = 10**0.5 + 64**0.5
    assert torch.linalg.matrix_norm(along, 2) > edge  # what the noise alone reaches
    assert is_learnt(noise + along)


class Glimpse(nn.Module):
    """Reads a piece of each image, at a place that is computed as a tensor."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.read = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 4))

    def forward(self, x):
        places = x.flatten(1).argmax(1) % 3
        return self.read(torch.stack([self.cut(x[i], places[i]) for i in range(len(x))]))

    def cut(self, image, place):
        if self.way == "slice":
            return image[:, place : place + 6, place + 1 : place + 7]
        if self.way == "index":
            return image[:, range(9)[place + 1] - 1 :][:, :6, :6]
        if self.way == "number":
            return image[:, int(place + 0) :][:, :6, :6]
        place + 1
        return image[:, :6, :6]


@pytest.mark.parametrize("way", ["slice", "index", "number"])
def test_a_sum_that_is_the_bound_of_a_slice_or_an_index_is_read(way):
    torch.manual_seed(0)
    report = cnnprobe.diagnose(Glimpse(way), torch.randn(8, 1, 9, 9), torch.arange(8) % 4)
    assert [] == told(report, "dead-output")


def test_one_statement_that_is_dropped_for_each_image_is_one_finding():
    torch.manual_seed(0)
    report = cnnprobe.diagnose(
        Glimpse(""), torch.randn(8, 1, 9, 9), torch.arange(8) % 4, loss_fn=nn.CrossEntropyLoss()
    )
    assert 1 == len(told(report, "dead-output"))


def test_a_slice_has_its_bounds_as_inputs():
    torch.manual_seed(0)
    report = cnnprobe.probe(Glimpse("slice"), torch.randn(1, 1, 9, 9))
    cuts = [c for c in report.trace.calls if c.kind.endswith("__getitem__") and len(c.inputs) > 1]
    (inputs,) = [c.inputs for c in cuts if len(c.inputs) > 3]
    kinds = [report.trace.calls[i.source].kind.rpartition(".")[2] for i in inputs[1:]]
    assert ["__getitem__", "add", "add", "add"] == kinds


class Canvas(nn.Module):
    """The image is what is learnt; or a layer takes a table of numbers in place of its input."""

    def __init__(self, shape):
        super().__init__()
        self.pixels = nn.Parameter(torch.rand(shape))
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()).requires_grad_(False)

    def forward(self, x):
        return self.features(self.pixels.sigmoid())


@pytest.mark.parametrize(("size", "found"), [(8, False), (5, True)])
def test_an_input_may_be_ignored_where_the_image_is_the_parameter(size, found):
    torch.manual_seed(0)
    model = Canvas((1, 1, size, size))
    report = cnnprobe.diagnose(
        model,
        torch.rand(1, 1, 8, 8),
        torch.rand(1, 4, size - 2, size - 2),
        loss_fn=nn.MSELoss(),
        optimizer=torch.optim.Adam([model.pixels], lr=0.01),
    )
    assert found == ("ignored-input" in warned(report))


class Asked(nn.Module):
    def __init__(self, compute):
        super().__init__()
        self.compute = compute

    def forward(self, x):
        return self.compute(x)


BOUNDED = {
    "kernel": (lambda x: -torch.cdist(x, x).square() / 3, (-math.inf, 0)),
    "sum": (lambda x: 2 - x.sigmoid() * 3, (-1, 2)),
    "difference": (lambda x: x.relu() - x.abs(), (-math.inf, math.inf)),
    "quotient": (lambda x: x.tanh() / -(x * x), (-math.inf, math.inf)),
    "negative": (lambda x: x.square() / -x.exp(), (-math.inf, 0)),
    "clamped": (lambda x: x.clamp(-1, 4).mean() - 1, (-2, 3)),
    "output": (lambda x: 3 * x, (-math.inf, math.inf)),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_of_a_row_are_those_of_its_operations_and_hold_its_values(name):
    compute, expected = BOUNDED[name]
    x = 5 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    flow = Flow(cnnprobe.probe(Asked(compute), x).trace)
    (last,) = {flow.producer(info) for i in flow.roots() for info in flow.calls[i].outputs}
    low, high = find_bounds(flow, last)
    assert expected == (low, high)
    values = compute(x)
    assert low <= values.min()
    assert values.max() <= high


@pytest.mark.parametrize("freezes", ["phases", "always"])
def test_critic_that_is_frozen_in_the_phase_of_the_generator_alone_is_trained(freezes):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 16))
    making = torch.optim.SGD(model[:3].parameters(), lr=0.01)
    judging = torch.optim.SGD(model[3:].parameters(), lr=0.01)

    def train_step(noise):
        model[3].requires_grad_(freezes == "phases")
        if freezes == "phases":
            judging.zero_grad()
            loss = (
                F.softplus(model(noise)).mean() + F.softplus(-model[3](noise.repeat(1, 2))).mean()
            )
            loss.backward()
            judging.step()
        model[3].requires_grad_(False)
        making.zero_grad()
        F.softplus(-model(noise)).mean().backward()
        making.step()

    report = cnnprobe.diagnose(model, torch.randn(8, 4), train_step=train_step, trials=0, steps=2)
    assert (freezes == "always") == ("frozen-params" in {f.rule for f in report.findings})


@pytest.mark.parametrize("search", [None, "strong_wolfe"])
def test_step_that_searches_for_its_length_may_be_as_large_as_the_weights(search):
    torch.manual_seed(0)
    x, y = torch.randn(64, 8), torch.arange(64) % 4
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 4))
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=20, line_search_fn=search)

    def train_step(inputs, targets):
        def close():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        return optimizer.step(close)

    report = cnnprobe.diagnose(
        model, x, y, optimizer=optimizer, train_step=train_step, trials=0, steps=2
    )
    assert (search is None) == ("update-ratio" in {f.rule for f in report.findings})


@pytest.mark.parametrize(("rate", "found"), [(1.0, False), (0.0, True)])
def test_optimizer_that_has_arrived_leaves_the_weights_and_one_with_a_rate_of_0_too(rate, found):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 3)), torch.randn(16, 4)
    targets, loss_fn = torch.randn(16, 3), nn.MSELoss()
    optimizer = torch.optim.LBFGS(model.parameters(), lr=1.0, max_iter=200)

    def train_step(x, targets):
        def closure():
            optimizer.zero_grad()
            loss = loss_fn(model(x), targets)
            loss.backward()
            return loss

        return optimizer.step(closure)

    for _ in range(5):  # the least squares of sixteen rows: there is an end, and it is reached
        train_step(x, targets)
    before = copy.deepcopy(model.state_dict())
    train_step(x, targets)
    assert all(map(torch.equal, before.values(), model.state_dict().values()))
    optimizer.param_groups[0]["lr"] = rate
    report = cnnprobe.diagnose(model, x, targets, train_step=train_step, trials=0)
    assert bool(told(report, "unchanged-weights")) is found
