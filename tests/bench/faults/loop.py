"""Faults of the training loop."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped
from bench.parts import Classifier, classifier, labels


@case("no-zero-grad", None)
def no_zero_grad(sick):
    def step(model, x, y, optimizer):
        if not sick:
            model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("no-zero-grad", None)
def zero_grad_between_backward_and_step(sick):
    def step(model, x, y, optimizer):
        if not sick:
            optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    return looped(Classifier(), step)


@case("eval-mode-in-train", None)
def eval_after_validation(sick):
    def step(model, x, y, optimizer):
        if not sick:
            model.train()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        model.eval()
        with torch.no_grad():
            model(x)

    given = looped(Classifier(), step)
    given["model"].eval()
    return given


@case("clip-ineffective", None)
def clipped_after_the_step(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if sick:
            optimizer.step()
        nn.utils.clip_grad_value_(model.parameters(), 0.1)
        if not sick:
            optimizer.step()

    return looped(Classifier(), step)


@case("lr-collapsed", None)
def exponential_decay_every_batch(sick):
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9 if sick else 0.999)

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()

    return looped(model, step, optimizer=optimizer)


@case("lr-too-high", None)
def adam_with_a_rate_of_one(sick):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 4)
    )
    targets = labels() if not sick else torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    return classifier(
        model,
        targets=targets,
        optimizer=torch.optim.SGD(model.parameters(), lr=50.0 if sick else 0.01),
    )


@case("graph-kept-alive", None)
def running_total_of_losses(sick):
    total = [0.0]

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        total[0] += loss if sick else loss.item()

    return looped(Classifier(), step)


@case("step-missing", None)
def forgotten_step(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        if not sick:
            optimizer.step()

    return looped(Classifier(), step)
