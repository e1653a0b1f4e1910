"""Healthy set-ups that look like the quiet faults of the bench."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.faults.quiet import Reader, read_words
from bench.parts import Classifier, classifier

# -- attributes of one's own -----------------------------------------------------------------------


@design
def parameters_and_groups_with_marks_of_their_own():
    model = Classifier()
    model.name, model.requires_grad = "small", True
    for parameter in model.parameters():
        parameter.no_weight_decay, parameter.decay, parameter.grad_norm = True, 0.1, 1.0
    arguments = classifier(model)
    arguments["optimizer"].epoch = 3
    arguments["optimizer"].param_groups[0].update(name="all", lr_scale=0.5, initial_lr=1e-3)
    return arguments


@design
def mark_that_the_loop_reads():
    model = Classifier()
    model.trainable_head = model.is_training = False
    for parameter in model.backbone.parameters():
        parameter.trainable = False

    def step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        for parameter in model.parameters():
            if not getattr(parameter, "trainable", True):
                parameter.grad.mul_(0.1)
        if not model.is_training:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    return looped(model, step)


@design
def switch_of_a_class_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.training_mode, self.trainable = False, False
            self.body = Classifier()

        def forward(self, x):
            return self.body(x)

    return classifier(Net())


# -- frozen tables ---------------------------------------------------------------------------------


@design
def frozen_vectors_with_a_structure_as_of_words():
    generator = torch.Generator().manual_seed(3)
    topics = torch.randn(60, 3, generator=generator) @ torch.randn(3, 12, generator=generator)
    return read_words(topics + 0.5 * torch.randn(60, 12, generator=generator))


@design
def frozen_table_of_sines():
    angles = torch.arange(60)[:, None] / 100 ** (torch.arange(6) / 6)
    return read_words(torch.cat([angles.sin(), angles.cos()], dim=1))


@design
def teacher_with_a_frozen_table():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = Reader(torch.randn(60, 12))
            self.teacher.requires_grad_(False)
            self.student = Reader(torch.randn(60, 12), freeze=False)

        def forward(self, x):
            return self.student(x), self.teacher(x)

    def distil(outputs, targets):
        student, teacher = outputs
        return F.cross_entropy(student, targets) + F.mse_loss(student, teacher.detach())

    return read_words(torch.randn(60, 12)) | classifier_of(Pair(), distil)


def classifier_of(model, loss_fn):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    return {"model": model, "loss_fn": loss_fn, "optimizer": optimizer}
