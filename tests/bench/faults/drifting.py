"""Faults of settings that change by use, each with its corrected twin."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped
from bench.parts import Classifier, classifier


class Dropped(nn.Module):
    """A classifier with a dropout of its own, which eval mode turns off as `turn_off` says."""

    def __init__(self, rate=0.2):
        super().__init__()
        self.net, self.rate = Classifier(), rate


class DroppedForGood(Dropped):
    def forward(self, x):
        if not self.training:
            self.rate = 0.0
        return self.net(F.dropout(x, self.rate))


class DroppedInTraining(Dropped):
    def forward(self, x):
        return self.net(F.dropout(x, self.rate, training=self.training))


@case("setting-overwritten", "")
def dropout_that_the_first_evaluation_turns_off(sick):
    return classifier(DroppedForGood() if sick else DroppedInTraining())


class Averaged:
    """Follows weights; the decay is at most that which it is given."""

    def __init__(self, model, decay=0.9999):
        self.copies = [p.detach().clone() for p in model.parameters()]
        self.decay, self.steps = decay, 0

    def warm_up(self):
        self.steps += 1
        return (1 + self.steps) / (10 + self.steps)

    @torch.no_grad()
    def follow(self, model, weight):
        for mean, parameter in zip(self.copies, model.parameters(), strict=True):
            mean.sub_(weight * (mean - parameter))


class DecayOverwritten(Averaged):
    def update(self, model):
        self.decay = 1 - min(self.decay, self.warm_up())
        self.follow(model, self.decay)


class DecayKept(Averaged):
    def update(self, model):
        weight = 1 - min(self.decay, self.warm_up())
        self.follow(model, weight)


@case("setting-overwritten", None)
def decay_that_each_step_replaces(sick):
    model = Classifier()
    average = DecayOverwritten(model) if sick else DecayKept(model)

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        average.update(model)

    return looped(model, step)


@case("update-undone", None)
def average_copied_into_the_model_to_evaluate_it(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4))
    average, done = Averaged(model), {"steps": 0}

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        average.follow(model, 0.1)
        done["steps"] += 1
        if done["steps"] % 4 == 0:
            evaluated = model if sick else copy.deepcopy(model)
            with torch.no_grad():
                for p, mean in zip(evaluated.parameters(), average.copies, strict=True):
                    p.copy_(mean)
                evaluated(inputs)

    return looped(model, step)


class Stepwise(nn.Module):
    """Adds up what three steps of shared layers make of each other."""

    def __init__(self, norms):
        super().__init__()
        self.start, self.fc, self.head = nn.Linear(768, 24), nn.Linear(24, 24), nn.Linear(24, 4)
        self.norms = nn.ModuleList(norms)

    def forward(self, x):
        h = self.start(x.flatten(1))
        for norm in self.norms:
            h = h + 2 * norm(self.fc(h)).relu()
        return self.head(h)


@case("bn-reused", "norms.0")
def norm_shared_by_steps_that_grow(sick):
    shared = nn.BatchNorm1d(24)
    return classifier(Stepwise([shared if sick else nn.BatchNorm1d(24) for _ in range(3)]))


class Tuned(Classifier):
    """Pretrained; its norms are put into eval mode when it is built."""

    def __init__(self):
        super().__init__()
        for norm in (self.backbone.bn1, self.backbone.bn2):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.eval()


class TunedForGood(Tuned):
    def train(self, mode=True):
        super().train(mode)
        self.backbone.bn1.eval()
        self.backbone.bn2.eval()
        return self


@case("frozen-bn-drift", "backbone.bn1")
def norms_that_the_step_puts_back_into_train_mode(sick):
    def step(model, inputs, targets, optimizer):
        model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(Tuned() if sick else TunedForGood(), step)


@case("best-not-kept", None)
def best_weights_kept_by_reference(sick):
    best = {"loss": float("inf")}

    def keep_itself(loss, model):
        if loss.item() < best["loss"]:
            best["loss"] = loss.item()
            best["state"] = dict(model.state_dict())

    def keep_a_copy(loss, model):
        if loss.item() < best["loss"]:
            best["loss"] = loss.item()
            best["state"] = {name: value.clone() for name, value in model.state_dict().items()}

    keep = keep_itself if sick else keep_a_copy

    def train_step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets)
        loss.backward()
        optimizer.step()
        keep(loss, model)

    return looped(Classifier(), train_step)


def follow_the_weights_themselves(model):
    shadow = [p.data for p in model.parameters()]

    def train_step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        for average, parameter in zip(shadow, model.parameters(), strict=True):
            average.mul_(0.9).add_(parameter.data, alpha=0.1)

    return train_step


def follow_by_clones(model):
    shadow = [p.data.clone() for p in model.parameters()]

    def train_step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        for average, parameter in zip(shadow, model.parameters(), strict=True):
            average.mul_(0.9).add_(parameter.data, alpha=0.1)

    return train_step


@case("copy-by-reference", None)
def average_that_starts_as_the_weights_themselves(sick):
    model = Classifier()
    follow = follow_the_weights_themselves if sick else follow_by_clones
    return looped(model, follow(model))
