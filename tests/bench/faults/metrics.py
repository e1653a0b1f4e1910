"""Faults beside a right loss: in metrics, in thresholds, in the mode of a validation."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, images, looped
from bench.parts import Backbone, Classifier, trained


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


def distilling(temperature):
    teacher = trained(Classifier())

    def train_step(model, inputs, targets, optimizer):
        with torch.no_grad():
            wanted = (teacher(inputs) / 5).softmax(1)
        output = model(inputs)
        given = (output / temperature).log_softmax(1)
        loss = F.cross_entropy(output, targets) + 25 * F.kl_div(given, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return looped(Classifier(), train_step)


@case("temperature-on-one-side", None)
def student_without_the_temperature(sick):
    return distilling(1 if sick else 5)


@case("compared-with-itself", None)
def likenesses_with_their_diagonal(sick):
    def train_step(model, inputs, targets, optimizer):
        codes = F.normalize(model(torch.cat([inputs, inputs.flip(3)])), dim=1)
        likeness = codes @ codes.T / 0.1
        if not sick:
            likeness = likeness - 1e9 * torch.eye(len(codes))
        loss = F.cross_entropy(likeness, torch.arange(16).roll(8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return looped(Classifier(), train_step)


def adjust_a_copy(optimizer, rate):
    for group in optimizer.param_groups:
        group = dict(group, lr=rate)  # noqa: PLW2901


def adjust_the_group(optimizer, rate):
    for group in optimizer.param_groups:
        group["lr"] = rate


@case("schedule-unused", None)
def rate_of_a_copied_group(sick):
    adjust = adjust_a_copy if sick else adjust_the_group

    def train_step(model, inputs, targets, optimizer):
        adjust(optimizer, 0.02)
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return looped(Classifier(), train_step)


@case("accumulation-shifted", None)
def step_after_the_first_quarter(sick):
    def step_early(model, inputs, targets, optimizer):
        for i, (x, y) in enumerate(zip(inputs.split(2), targets.split(2), strict=True)):
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            if i % 4 == 0:
                optimizer.step()
                optimizer.zero_grad()

    def step_last(model, inputs, targets, optimizer):
        for i, (x, y) in enumerate(zip(inputs.split(2), targets.split(2), strict=True)):
            loss = F.cross_entropy(model(x), y) / 4
            loss.backward()
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()

    return looped(Classifier(), step_early if sick else step_last)


@case("evaluation-trains", None)
def validation_that_steps(sick):
    def validate(model, inputs, targets, optimizer):
        for x, y in zip(inputs.split(2), targets.split(2), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    def train(model, inputs, targets, optimizer):
        for x, y in zip(inputs.split(2), targets.split(2), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()

    return looped(Classifier(), validate if sick else train)


@case("average-misdivided", None)
def right_answers_over_batches(sick):
    def count_over_batches(model, inputs, targets, optimizer):
        right, batches = 0, list(zip(inputs.split(2), targets.split(2), strict=True))
        for x, y in batches:
            output = model(x)
            optimizer.zero_grad()
            F.cross_entropy(output, y).backward()
            optimizer.step()
            right += (output.argmax(1) == y).sum().item()
        return right / len(batches)

    def count_over_samples(model, inputs, targets, optimizer):
        right, batches = 0, list(zip(inputs.split(2), targets.split(2), strict=True))
        for x, y in batches:
            output = model(x)
            optimizer.zero_grad()
            F.cross_entropy(output, y).backward()
            optimizer.step()
            right += (output.argmax(1) == y).sum().item()
        return right / len(targets)

    return looped(Classifier(), count_over_batches if sick else count_over_samples)
