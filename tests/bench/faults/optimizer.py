"""Faults of optimizers and of loops with more than one backward pass."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import adversaries, judged
from bench.case import case, looped
from bench.parts import Classifier, classifier, images


def scaling(model, step):
    scaler = torch.amp.GradScaler("cpu")

    def scaled(model, inputs, targets, optimizer):
        step(model, inputs, targets, optimizer, scaler)

    return looped(model, scaled)


@case("step-missing", None)
def gradients_of_three_calls_of_four_cleared(sick):
    seen = {"calls": 0}

    def step(model, inputs, targets, optimizer):
        seen["calls"] += 1
        is_last = seen["calls"] % 4 == 0
        if is_last and sick:
            optimizer.zero_grad()
        (F.cross_entropy(model(inputs), targets) / 4).backward()
        if is_last:
            optimizer.step()
        if is_last and not sick:
            optimizer.zero_grad()

    return looped(Classifier(), step, steps=8)


@case("step-missing", None)
def gradients_cleared_before_each_pass_and_used_after_the_third(sick):
    seen = {"calls": 0}

    def step(model, inputs, targets, optimizer):
        loss = F.cross_entropy(model(inputs), targets) / 3
        if sick:
            optimizer.zero_grad()
        loss.backward()
        if seen["calls"] % 3 == 0:
            optimizer.step()
            optimizer.zero_grad()
        seen["calls"] += 1

    return looped(Classifier(), step, steps=7)


@case("step-missing", None)
def gradients_cleared_for_each_part_of_a_batch(sick):
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        for x, y in zip(inputs.chunk(4), targets.chunk(4), strict=True):
            if sick:
                optimizer.zero_grad()
            (F.cross_entropy(model(x), y) / 4).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("update-undone", None)
def average_that_is_copied_into_the_model(sick):
    model = Classifier()
    average = copy.deepcopy(model).requires_grad_(False)

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, p in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(p, 0.001)
                if sick:
                    p.copy_(mean)

    return looped(model, step)


@case("lr-too-low", None)
def factor_that_is_a_rate(sick):
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda epoch: (1e-3 if sick else 1.0) * 0.95**epoch
    )
    return classifier(model, optimizer=optimizer, scheduler=scheduler)


@case("weight-decay-high", None)
def momentum_as_weight_decay(sick):
    model = Classifier()
    return classifier(
        model,
        optimizer=torch.optim.SGD(
            model.parameters(), lr=0.05, **{"weight_decay" if sick else "momentum": 0.9}
        ),
    )


@case("clip-ineffective", None)
def clipping_of_scaled_gradients(sick):
    def step(model, inputs, targets, optimizer, scaler):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(inputs), targets)).backward()
        if not sick:
            scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()

    return scaling(Classifier(), step)


@case("exploding-gradient", "fc")
def optimizer_that_steps_with_scaled_gradients(sick):
    def step(model, inputs, targets, optimizer, scaler):
        optimizer.zero_grad()
        scaler.scale(F.cross_entropy(model(inputs), targets)).backward()
        if sick:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()

    return scaling(Classifier(), step)


@case("bn-mixed-up", "1")
def momentum_as_eps(sick):
    norm = nn.BatchNorm2d(8, 0.8) if sick else nn.BatchNorm2d(8, momentum=0.2)
    return classifier(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            norm,
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )


@case("no-zero-grad", None)
def generator_that_steps_with_its_critics_loss(sick):
    def step(generator, critic, makes, judges, noise, real):
        judges.zero_grad()
        makes.zero_grad()
        made = generator(noise)
        (
            judged(critic(real), 1.0) + judged(critic(made if sick else made.detach()), 0.0)
        ).backward()
        judges.step()
        judged(critic(generator(noise)), 1.0).backward()
        makes.step()

    return adversaries(step)


@case("lr-too-low", None)
def warm_up_that_returns_a_rate(sick):
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: (5e-4 if sick else 1.0) * min(1.0, step / 20)
    )

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        scheduler.step()

    return looped(model, step, optimizer=optimizer, scheduler=scheduler)


@case("lr-too-low", None)
def mean_divided_by_the_samples(sick):
    def divide(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets) / 1000
        loss.backward()
        optimizer.step()

    def leave(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), targets) / 2
        loss.backward()
        optimizer.step()

    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return looped(model, divide if sick else leave, optimizer=optimizer)


@case("lr-too-low", None)
def schedule_that_has_lowered_the_rate_too_far(sick):
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    gamma = 0.1 if sick else 0.9
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma)
    optimizer.step()
    for _ in range(9):
        scheduler.step()
    return classifier(model, optimizer=optimizer, scheduler=scheduler)


@case("optimizer-setting", None)
def averages_in_reverse(sick):
    model = Classifier()
    betas = (0.999, 0.9) if sick else (0.9, 0.999)
    return classifier(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3, betas=betas))


@case("optimizer-setting", None)
def dampening_in_full(sick):
    model = Classifier()
    dampening = 1.0 if sick else 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, dampening=dampening)
    return classifier(model, optimizer=optimizer)


@case("optimizer-setting", None)
def averages_that_forget_nothing(sick):
    model = Classifier()
    betas = (0.999999999, 0.999) if sick else (0.99, 0.9999)
    return classifier(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3, betas=betas))


@case("optimizer-setting", None)
def eps_that_half_precision_makes_zero(sick):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4)).half()
    with torch.no_grad():
        model[1].bias[:4] = -100  # units without gradients
    eps = 1e-8 if sick else 1e-4
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=eps)
    return classifier(model, inputs=images().half(), optimizer=optimizer)
