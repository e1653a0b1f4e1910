"""Objects whose attributes change by use, and are meant to."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.parts import Classifier, classifier


class Annealed(nn.Module):
    def __init__(self, temperature=2.0, least=0.5):
        super().__init__()
        self.net, self.temperature, self.least = Classifier(), temperature, least

    def forward(self, x):
        if self.training:
            self.temperature = max(self.least, self.temperature * 0.9)
        return self.net(x) / self.temperature


@design
def temperature_that_falls_with_every_step():
    return classifier(Annealed())


class WeightedWhereTheScoresAre(nn.Module):
    def __init__(self, alpha):
        super().__init__()
        self.alpha = torch.tensor(alpha, dtype=torch.float64)

    def forward(self, scores, labels):
        self.alpha = self.alpha.to(scores)
        return F.cross_entropy(scores, labels, weight=self.alpha)


@design
def class_weights_that_are_converted_in_the_loss():
    return classifier(Classifier(), loss_fn=WeightedWhereTheScoresAre([1.0, 2.0, 1.0, 1.0]))


class Switched(nn.Module):
    def __init__(self, rate=0.2):
        super().__init__()
        self.net, self.given, self.rate = Classifier(), rate, rate

    def forward(self, x):
        if not self.training:
            self.rate = 0.0
        else:
            self.rate = self.given
        return self.net(F.dropout(x, self.rate))


@design
def rate_that_each_mode_sets():
    return classifier(Switched())


class Judge:
    """Remembers the best loss, an average of the losses and the latest ones."""

    def __init__(self, best=100.0, mean=1.0, latest=(1.0, 1.0)):
        self.best, self.mean, self.latest = best, mean, list(latest)

    def note(self, loss):
        self.best = min(self.best, loss)
        self.mean = 0.9 * self.mean + 0.1 * min(loss, 10.0)
        self.latest = [*self.latest[1:], loss]


@design
def best_loss_and_average_of_losses():
    judge = Judge()

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        judge.note(loss.item())

    return looped(Classifier(), step)


@design
def slow_weights_that_the_fast_ones_go_back_to():
    model = Classifier()
    slow, done = [p.detach().clone() for p in model.parameters()], {"steps": 0}

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        done["steps"] += 1
        with torch.no_grad():
            for kept, p in zip(slow, model.parameters(), strict=True):
                if done["steps"] % 3 == 0:
                    p.copy_(kept.lerp_(p, 0.5))

    return looped(model, step)


@design
def average_that_begins_anew_every_fourth_step():
    model = Classifier()
    mean, done = [p.detach().clone() for p in model.parameters()], {"steps": 0}

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        done["steps"] += 1
        with torch.no_grad():
            for kept, p in zip(mean, model.parameters(), strict=True):
                kept.lerp_(p, 1.0 if done["steps"] % 4 == 0 else 0.1)

    return looped(model, step)


class Twice(nn.Module):
    """One encoder of two views."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.BatchNorm1d(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.encoder(x) + self.encoder(3 * x.flip(-1)))


@design
def encoder_of_two_views_of_other_sizes():
    return classifier(Twice())


@design
def backbone_that_was_evaluated_before_the_step():
    model = Classifier()
    model.backbone.bn1.running_mean.normal_(0, 0.1)
    model.backbone.bn1.running_var.uniform_(0.5, 1.5)
    model.backbone.eval()

    def step(model, inputs, targets, optimizer):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(model, step)


class Located(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(768, 4)

    def forward(self, x):
        return self.fc(x.flatten(1)).sigmoid()


def centered_iou(first, second):
    """Of centers and sizes."""
    start = torch.maximum(first[:, :2] - first[:, 2:] / 2, second[:, :2] - second[:, 2:] / 2)
    end = torch.minimum(first[:, :2] + first[:, 2:] / 2, second[:, :2] + second[:, 2:] / 2)
    shared = (end - start).clamp(min=0).prod(1)
    return shared / (first[:, 2:].prod(1) + second[:, 2:].prod(1) - shared)


@design
def overlap_of_centers_and_sizes():
    boxes = torch.rand(8, 4, generator=torch.Generator().manual_seed(3)) * 0.3
    boxes[:, :2] += 0.35

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        found = model(inputs)
        loss = 1 - centered_iou(found, targets) + (found - targets).abs().mean(1)
        loss.mean().backward()
        optimizer.step()

    return looped(Located(), step, targets=boxes)


class Fields(nn.Module):
    """Tables of which a mask drops some as a whole while it trains."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(6, 12) for _ in range(6))
        self.head = nn.Sequential(nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x):
        h = torch.stack([table(x[:, k]) for k, table in enumerate(self.tables)], 1)
        if self.training:
            h = torch.empty(6, 1).bernoulli_(0.5).expand_as(h) * h / 0.5
        return self.head(h.flatten(1))


@design
def tables_dropped_as_a_whole():
    words = torch.randint(6, (8, 6), generator=torch.Generator().manual_seed(2))
    return classifier(Fields(), inputs=words)


class Carried(nn.Module):
    """Goes on from the state that the call before has left."""

    def __init__(self):
        super().__init__()
        self.gru, self.fc, self.state = nn.GRU(1, 16, batch_first=True), nn.Linear(16, 1), None

    def forward(self, x):
        out, state = self.gru(x, self.state)
        self.state = state.detach()
        return self.fc(out)


@design
def state_that_is_carried_from_call_to_call():
    wave = torch.sin(0.3 * torch.arange(21) + torch.arange(8)[:, None])[..., None]
    model = Carried()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    given = {"inputs": wave[:, :-1], "targets": wave[:, 1:], "loss_fn": nn.MSELoss()}
    return classifier(model, optimizer=optimizer) | given
