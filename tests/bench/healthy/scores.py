"""Losses of scores, and models that choose from their input, that are healthy."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import net
from bench.design import design
from bench.parts import Classifier, classifier, images, labels


def segmenting(loss_fn):
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    masks = torch.bucketize(F.avg_pool2d(images(), 5, 1, 2).mean(1), torch.tensor([-0.05, 0.05]))
    return classifier(
        model, targets=F.one_hot(masks, 3).permute(0, 3, 1, 2).float(), loss_fn=loss_fn
    )


@design
def generalised_dice_whose_classes_are_weighted():
    def loss_fn(output, target):
        p, weight = output.softmax(1), 1 / (target.sum((0, 2, 3)) ** 2 + 1e-6)
        shared = (weight * (p * target).sum((0, 2, 3))).sum()
        return 1 - 2 * shared / (weight * (p + target).sum((0, 2, 3))).sum()

    return segmenting(loss_fn)


@design
def minus_the_overlap_of_probabilities():
    def loss_fn(output, target):
        p = output.softmax(1)
        return -((2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1))

    return segmenting(loss_fn)


@design
def expected_cost_of_a_wrong_class():
    costs = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).fill_diagonal_(0)

    def loss_fn(output, target):
        return (output.softmax(1) * costs[target]).sum(1).mean()

    return classifier(Classifier(), loss_fn=loss_fn)


@design
def mean_of_the_errors_within_a_mask():
    def loss_fn(output, target):
        mask = (target > -0.5).float()
        return ((output - target) ** 2 * mask).sum() / mask.sum()

    targets = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    return classifier(Classifier(), targets=targets, loss_fn=loss_fn)


@design
def batch_whose_labels_are_ignored_but_for_one():
    targets = torch.where(labels() == 3, labels(), -100)
    targets[3] = -100
    return classifier(Classifier(), targets=targets, loss_fn=nn.CrossEntropyLoss())


@design
def every_second_frame_of_a_film():
    def forward(self, film):
        frames = film[:, ::2]
        x = F.relu(self.conv(frames.flatten(0, 1))).mean((2, 3))
        return self.fc(x.unflatten(0, frames.shape[:2]).mean(1))

    film = torch.randn(8, 8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4))
    return classifier(model, inputs=film)


@design
def tanhs_at_the_default_initialisation():
    layers = [part for _ in range(6) for part in (nn.Linear(64, 64), nn.Tanh())]
    return classifier(
        nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.Tanh(), *layers, nn.Linear(64, 4))
    )
