"""Faults of what can be reached: by an output, a rate, a gradient."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped
from bench.parts import Backbone, Classifier, classifier, images


class Candidates(nn.Module):
    """The mean of candidates, weighed by a softmax."""

    def __init__(self, least, most):
        super().__init__()
        self.register_buffer("candidates", torch.arange(least, most + 1).float())
        self.backbone, self.fc = Backbone(), nn.Linear(16, most - least + 1)

    def forward(self, x):
        return (self.fc(self.backbone(x)).softmax(1) * self.candidates).sum(1)


@case("loss-activation-mismatch", "", None)
def disparities_on_one_side_only(sick):
    torch.manual_seed(0)
    targets = torch.tensor([-4.0, 3, -2, 1, 4, -3, 2, -1])
    model = Candidates(0 if sick else -4, 4)
    return classifier(model, targets=targets, loss_fn=nn.SmoothL1Loss())


@case("lr-collapsed", None)
def rate_with_a_bracket_in_the_wrong_place(sick):
    torch.manual_seed(0)
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    epochs = []

    def step(model, x, y, optimizer):
        epoch = len(epochs)
        epochs.append(epoch)
        factor = 0.001**epoch / 50 if sick else 0.001 ** (epoch / 50)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1.0 if epoch < 1 else factor)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()

    return looped(model, step, optimizer=optimizer)


class Signs(torch.autograd.Function):
    """The signs of weights, times their mean size."""

    @staticmethod
    def forward(ctx, weight, sick):
        ctx.save_for_backward(weight)
        ctx.sick = sick
        return weight.sign() * weight.abs().mean()

    @staticmethod
    def backward(ctx, gradient):
        (weight,) = ctx.saved_tensors
        passed = (weight.abs() < 1).to(weight)
        return (passed * weight if ctx.sick else passed * gradient), None


class SignConv(nn.Conv2d):
    sick = False

    def forward(self, x):
        return F.conv2d(x, Signs.apply(self.weight, self.sick), self.bias, padding=1)


@case("wrong-backward", None)
def backward_that_leaves_out_the_incoming_gradient(sick):
    torch.manual_seed(0)
    layer = SignConv(3, 8, 3)
    layer.sick = sick
    end = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    return classifier(nn.Sequential(layer, end))


@case("sigmoid-before-bcewl", None, "", "1")
def sigmoid_before_a_soft_margin_of_several_labels(sick):
    torch.manual_seed(0)
    model = nn.Sequential(Classifier(), *((nn.Sigmoid(),) if sick else ()))
    targets = (torch.rand(8, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    return classifier(model, targets=targets, loss_fn=nn.MultiLabelSoftMarginLoss())


@case("input-range", None)
def constants_of_whole_pixels_for_pixels_up_to_1(sick):
    torch.manual_seed(0)
    pixels = images().sigmoid()
    flat = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 4))
    return classifier(flat, inputs=(pixels - 127.5) / 128 if sick else (pixels - 0.5) / 0.5)
