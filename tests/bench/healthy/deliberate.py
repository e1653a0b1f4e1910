"""What is written as a fault would be, and says in its code that it is meant."""

import random

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped, net
from bench.design import design
from bench.parts import Classifier, classifier, images, labels


@design
def gradients_of_two_losses_that_are_put_together_after_the_last_is_cleared():
    """Yu et al. 2020, "Gradient Surgery for Multi-Task Learning", algorithm 1."""

    def step(model, inputs, targets, optimizer):
        scores, kept = model(inputs), []
        for loss in (F.cross_entropy(scores, targets), scores.square().mean()):
            optimizer.zero_grad()
            loss.backward(retain_graph=True)
            kept.append([p.grad.clone() for p in model.parameters()])
        first, second = (torch.cat([g.flatten() for g in each]) for each in kept)
        if (product := first @ second) < 0:
            first = first - product / second.square().sum() * second
        optimizer.zero_grad()
        begun = 0
        for parameter in model.parameters():
            end = begun + parameter.numel()
            parameter.grad = (first + second)[begun:end].view_as(parameter).clone()
            begun = end
        optimizer.step()

    return looped(Classifier(), step)


class Ternary(torch.autograd.Function):
    """Li and Liu 2016, "Ternary Weight Networks", equations 5 and 6."""

    @staticmethod
    def forward(ctx, w):
        kept = (w.abs() > 0.7 * w.abs().mean()).to(w.dtype)
        return (w.abs() * kept).sum() / kept.sum() * kept * w.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class TernaryConv2d(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, Ternary.apply(self.weight), self.bias, padding=self.padding)


@design
def weights_of_three_levels_with_the_gradient_of_the_weights():
    body = nn.Sequential(TernaryConv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return classifier(nn.Sequential(body, nn.Flatten(), nn.Linear(64, 4)))


class Wavelet(nn.Module):
    """The four filters of Haar, which nobody trains."""

    def __init__(self, channels):
        super().__init__()
        signs = torch.tensor([[1.0, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        self.register_buffer("filters", signs.view(4, 1, 2, 2).repeat(channels, 1, 1, 1))
        self.channels = channels

    def forward(self, x):
        return F.conv2d(x, self.filters, stride=2, groups=self.channels)


@design
def wavelet_before_a_convolution():
    body = nn.Sequential(Wavelet(1), nn.Conv2d(4, 16, 3, padding=1), nn.ReLU())
    model = nn.Sequential(body, nn.Conv2d(16, 4, 3, padding=1))
    return classifier(
        model, inputs=images(c=1), targets=Wavelet(1)(images(c=1)), loss_fn=nn.MSELoss()
    )


@design
def dropout_that_stays_on_to_measure_how_sure_the_model_is():
    """Gal and Ghahramani 2016, "Dropout as a Bayesian Approximation"."""

    def forward(self, x):
        x = F.dropout(F.relu(self.first(x)), 0.1, training=True)
        return self.last(x.mean((2, 3)))

    return classifier(net(forward, first=nn.Conv2d(3, 16, 3), last=nn.Linear(16, 4)))


@design
def sizes_of_which_not_all_are_needed():
    model = nn.Conv1d(3, 4, 3, padding=1)

    def step(model, inputs, targets, optimizer):
        scores = model(inputs)
        n, classes, length = scores.shape  # noqa: RUF059  (what this is about)
        optimizer.zero_grad()
        loss = F.cross_entropy(scores.transpose(1, 2).reshape(-1, classes), targets.flatten())
        loss.backward()
        optimizer.step()

    return looped(model, step, inputs=images()[:, :, 0], targets=labels(128).view(8, 16))


class OneOfSeveral(nn.Module):
    """A draw chooses the layer at each place, as in a search for an architecture."""

    def __init__(self):
        super().__init__()
        self.places = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(9)]) for _ in range(2)
        )
        self.last = nn.ModuleList([nn.Linear(3, 4) for _ in range(9)])

    def forward(self, x):
        for choices in self.places:
            x = F.relu(random.choice(choices)(x))
        return self.last[int(torch.randint(9, ()))](x.mean((2, 3)))


@design
def layers_that_a_draw_chooses():
    return classifier(OneOfSeveral())
