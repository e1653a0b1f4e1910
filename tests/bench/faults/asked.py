"""Losses that ask for something else than what the targets say."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped, net
from bench.parts import Backbone, Classifier, classifier, images, labels


def by_steps():
    """Twelve sequences of twelve steps, labelled at each step, with the steps first."""

    def forward(self, x):
        return self.head(self.cell(x.transpose(0, 1))[0])

    return net(forward, cell=nn.GRU(3, 8), head=nn.Linear(8, 4))


@case("minimum-elsewhere", None)
def scores_of_steps_beside_labels_of_samples(sick):
    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        labels = y if sick else y.T
        F.cross_entropy(model(x).flatten(0, 1), labels.flatten()).backward()
        optimizer.step()

    generator = torch.Generator().manual_seed(0)
    steps = torch.randint(0, 4, (8, 12), generator=generator)
    given = torch.randn(8, 12, 3, generator=generator)
    return looped(by_steps(), step, inputs=given, targets=steps)


@case("minimum-elsewhere", None)
def targets_in_the_order_of_an_earlier_shuffle(sick):
    def step(model, x, y, optimizer):
        order = torch.randperm(len(x))
        optimizer.zero_grad()
        F.cross_entropy(model(x), y[order] if sick else y).backward()
        optimizer.step()

    return looped(Classifier(), step)


@case("minimum-elsewhere", None)
def rows_and_columns_exchanged_in_the_points(sick):
    def loss_fn(points, wanted):
        return F.smooth_l1_loss(points, wanted[:, [1, 0]] if sick else wanted)

    def forward(self, x):
        return self.head(self.backbone(x))

    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, 2))
    return classifier(model, targets=points, loss_fn=loss_fn)


@case("minimum-elsewhere", None)
def error_of_the_sum_of_output_and_target(sick):
    def loss_fn(output, wanted):
        return torch.log(torch.cosh(output + wanted if sick else output - wanted)).mean()

    def forward(self, x):
        return self.head(self.backbone(x))

    wanted = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model = net(forward, backbone=Backbone(), head=nn.Linear(16, 3))
    return classifier(model, targets=wanted, loss_fn=loss_fn)


@case("samples-left-out", None)
def return_inside_of_the_loop_over_the_samples(sick):
    def loss_fn(scores, labels):
        total = 0.0
        for score, label in zip(scores, labels, strict=True):
            total = total + F.cross_entropy(score[None], label[None])
            if sick:
                return total
        return total / len(scores)

    return classifier(Classifier(), inputs=images(8), targets=labels(8), loss_fn=loss_fn)
