"""Healthy loops with more than one backward pass or optimizer."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.adversaries import adversaries, judged
from bench.case import looped
from bench.design import design
from bench.parts import Classifier, classifier, images, labels


@design
def generator_whose_gradients_are_cleared_in_time():
    def step(generator, critic, makes, judges, noise, real):
        judges.zero_grad()
        made = generator(noise)
        (judged(critic(real), 1.0) + judged(critic(made), 0.0)).backward()
        judges.step()
        makes.zero_grad()
        judged(critic(generator(noise)), 1.0).backward()
        makes.step()

    return adversaries(step)


@design
def generator_with_a_loss_before_its_critics_step():
    def step(generator, critic, makes, judges, noise, real):
        makes.zero_grad()
        made = generator(noise)
        F.mse_loss(made, real).backward(retain_graph=True)
        judges.zero_grad()
        (judged(critic(real), 1.0) + judged(critic(made.detach()), 0.0)).backward()
        judges.step()
        judged(critic(made), 1.0).backward()
        makes.step()

    return adversaries(step)


@design
def two_heads_with_an_optimizer_each():
    model = Classifier()
    second = nn.Linear(4, 4)
    whole = nn.ModuleDict({"model": model, "second": second})
    body, head = (torch.optim.SGD(part.parameters(), lr=0.05) for part in (model, second))

    def train_step(inputs, targets):
        body.zero_grad()
        head.zero_grad()
        F.cross_entropy(second(model(inputs)), targets).backward()
        head.step()
        F.cross_entropy(model(inputs), targets).backward()
        body.step()

    return {"model": whole, "inputs": images(), "targets": labels(), "train_step": train_step}


@design
def sharpness_aware_minimisation():
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            moves = [0.05 * p.grad / (p.grad.norm() + 1e-12) for p in model.parameters()]
            for p, move in zip(model.parameters(), moves, strict=True):
                p.data.add_(move)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            for p, move in zip(model.parameters(), moves, strict=True):
                p.data.sub_(move)
        optimizer.step()

    return looped(Classifier(), step)


@design
def gradients_of_two_tasks_put_together():
    def step(model, inputs, targets, optimizer):
        collected = []
        for wanted in (targets, 3 - targets):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), wanted).backward()
            collected.append([p.grad.clone() for p in model.parameters()])
        for p, first, second in zip(model.parameters(), *collected, strict=True):
            p.grad = first + second
        optimizer.step()

    return looped(Classifier(), step)


@design
def adversarial_training():
    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        attacked = inputs.clone().requires_grad_()
        F.cross_entropy(model(attacked), targets).backward()
        attacked = (inputs + 0.03 * attacked.grad.sign()).detach()
        optimizer.zero_grad()
        F.cross_entropy(model(attacked), targets).backward()
        optimizer.step()

    return looped(Classifier(), step)


@design
def warm_up_whose_first_factor_is_the_rate():
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 100)
    )
    return classifier(model, optimizer=optimizer, scheduler=scheduler)


@design
def critic_with_clamped_weights():
    def step(model, inputs, targets, optimizer):
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(torch.randn_like(inputs)).mean() - model(inputs).mean()
            loss.backward()
            optimizer.step()
            for p in model.parameters():
                p.data.clamp_(-0.01, 0.01)
        return loss

    model = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(8, 16, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(256, 1),
    )
    return looped(model, step, optimizer=torch.optim.RMSprop(model.parameters(), lr=5e-5))


@design
def similarities_that_are_normalised_both_ways():
    def loss_fn(similarity, targets):
        return (
            -(
                F.log_softmax(similarity, 0).diag().mean()
                + F.log_softmax(similarity, 1).diag().mean()
            )
            / 2
        )

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.image, self.text = Classifier(), nn.Linear(6, 4)

        def forward(self, image, text):
            return (
                2.0 * F.normalize(self.image(image), dim=1) @ F.normalize(self.text(text), dim=1).T
            )

    return classifier(
        Pair(), inputs=(images(), torch.randn(8, 6)), targets=labels(), loss_fn=loss_fn
    )


@design
def scale_that_overflows_at_first():
    model = Classifier()
    optimizer, scaler = (
        torch.optim.SGD(model.parameters(), lr=0.05),
        torch.amp.GradScaler("cpu", init_scale=2.0**20),
    )

    def train_step(inputs, targets):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.float16):
            loss = F.cross_entropy(model(inputs), targets)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return classifier(model, optimizer=optimizer, loss_fn=None, train_step=train_step)
