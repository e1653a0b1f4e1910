"""Faults beside a right loss: in metrics, in thresholds, in the mode of a validation."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, images, looped
from bench.parts import Backbone


class Detector(nn.Module):
    """One logit for each image."""

    def __init__(self):
        super().__init__()
        self.backbone, self.fc = Backbone(), nn.Linear(16, 1)

    def forward(self, x):
        return self.fc(self.backbone(x))


def measuring(metric):
    def train_step(model, inputs, targets, optimizer):
        optimizer.zero_grad()
        output = model(inputs)
        F.binary_cross_entropy_with_logits(output, targets.unsqueeze(1)).backward()
        optimizer.step()
        return metric(output.detach(), targets).item()

    signs = (images().mean((1, 2, 3)) > 0).float()
    return looped(Detector(), train_step, targets=signs)


@case("metric-across-samples", None)
def accuracy_of_a_column_against_a_row(sick):
    def compare(output, targets):
        return (torch.sigmoid(output).round() == targets).float().mean()

    def compare_alike(output, targets):
        return (torch.sigmoid(output).round().view(-1) == targets).float().mean()

    return measuring(compare if sick else compare_alike)


@case("threshold-misplaced", None)
def precision_of_logits_above_a_half(sick):
    def choose(output, targets):
        chosen = output.squeeze(1) >= 0.5
        return (chosen * targets).sum() / chosen.sum().clamp(min=1)

    def choose_probable(output, targets):
        chosen = output.squeeze(1).sigmoid() >= 0.5
        return (chosen * targets).sum() / chosen.sum().clamp(min=1)

    return measuring(choose if sick else choose_probable)


class Dropped(Detector):
    def forward(self, x):
        return self.fc(F.dropout(self.backbone(x), 0.2, self.training))


@case("measured-in-train-mode", None)
def validation_in_the_mode_of_the_training(sick):
    def train_and_validate(model, inputs, targets, optimizer):
        model.train()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs), targets).backward()
        optimizer.step()
        with torch.inference_mode():
            return F.binary_cross_entropy_with_logits(model(inputs), targets).item()

    def train_and_evaluate(model, inputs, targets, optimizer):
        model.train()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(inputs), targets).backward()
        optimizer.step()
        model.eval()
        with torch.inference_mode():
            return F.binary_cross_entropy_with_logits(model(inputs), targets).item()

    signs = (images().mean((1, 2, 3)) > 0).float().unsqueeze(1)
    return looped(Dropped(), train_and_validate if sick else train_and_evaluate, targets=signs)
