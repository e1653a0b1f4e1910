"""Training loops that are healthy."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.parts import Classifier, classifier, images, labels


@design
def plain_cnn():
    return classifier(Classifier())


@design
def frozen_backbone():
    model = Classifier()
    model.backbone.requires_grad_(False)
    return classifier(model)


@design
def frozen_backbone_in_eval_with_all_parameters_in_the_optimizer():
    model = Classifier()
    model.backbone.requires_grad_(False).eval()
    return classifier(model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-3))


@design
def gradient_accumulation():
    model = Classifier()
    optimizer, count, loss_fn = (
        torch.optim.SGD(model.parameters(), lr=0.01),
        [0],
        nn.CrossEntropyLoss(),
    )

    def train_step(x, y):
        (loss_fn(model(x), y) / 4).backward()
        count[0] += 1
        if count[0] % 4 == 0:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "train_step": train_step,
    }


@design
def one_cycle_with_every_batch():
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=20)

    def train_step(x, y):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        return loss

    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "scheduler": scheduler,
        "train_step": train_step,
    }


@design
def warm_up_from_zero():
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 10))

    def train_step(batch):
        x, y = batch
        model.train()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()

    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "scheduler": scheduler,
        "train_step": train_step,
    }


@design
def momentum_teacher():
    student = Classifier()
    teacher = copy.deepcopy(student).requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01)

    def train_step(x, y):
        optimizer.zero_grad()
        with torch.no_grad():
            soft = teacher(x).softmax(1)
        output = student(x)
        loss = F.cross_entropy(output, y) + F.kl_div(
            output.log_softmax(1), soft, reduction="batchmean"
        )
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for a, b in zip(teacher.parameters(), student.parameters()):
                a.lerp_(b, 0.01)

    return {
        "model": student,
        "inputs": images(),
        "targets": labels(),
        "optimizer": optimizer,
        "train_step": train_step,
    }


@design
def regression_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 1))
    return {
        "model": model,
        "inputs": images(),
        "targets": torch.randn(8),
        "loss_fn": lambda p, y: ((p.squeeze(1) - y) ** 2).mean(),
        "optimizer": torch.optim.Adam(model.parameters()),
    }


@design
def policy_gradient():
    model = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 2))
    advantage = torch.randn(8)

    def loss_fn(logits, actions):
        return -(
            logits.log_softmax(1).gather(1, actions.unsqueeze(1)).squeeze(1) * advantage
        ).mean()

    return {
        "model": model,
        "inputs": torch.randn(8, 4),
        "targets": labels(8, 2),
        "loss_fn": loss_fn,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
    }


@design
def trained_to_the_end():
    given = plain_cnn()
    for _ in range(60):
        given["optimizer"].zero_grad()
        given["loss_fn"](given["model"](given["inputs"]), given["targets"]).backward()
        given["optimizer"].step()
    return given


# -- several optimizers ----------------------------------------------------------------------------


@design
def generator_every_second_call():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    model = nn.ModuleDict({"fake": nn.Linear(4, 6), "real": critic})
    makers = {name: torch.optim.SGD(model[name].parameters(), lr=1e-2) for name in model}
    seen = {"calls": 0}

    def step(model, inputs, targets, optimizer):
        seen["calls"] += 1
        made = model["fake"](inputs[:, :4])
        scores = model["real"](torch.cat([inputs, made.detach()]))
        makers["real"].zero_grad()
        F.binary_cross_entropy_with_logits(scores, targets).backward()
        makers["real"].step()
        if seen["calls"] % 2 == 0:
            makers["fake"].zero_grad()
            F.binary_cross_entropy_with_logits(model["real"](made), torch.ones(8, 1)).backward()
            makers["fake"].step()

    targets = torch.cat([torch.ones(8, 1), torch.zeros(8, 1)])
    given = {"inputs": torch.randn(8, 6), "targets": targets, "optimizer": makers["real"]}
    return looped(model, step, steps=6) | given
