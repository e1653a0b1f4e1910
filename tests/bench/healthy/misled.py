"""What looked like a fault because something else was asked than is meant."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import looped
from bench.design import design
from bench.parts import Classifier, classifier, images, labels


@design
def student_of_a_teacher_that_knows_better_than_the_labels():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(768, 4)).requires_grad_(False)
    teacher[1].weight.mul_(20)
    wrong = (teacher(images()).argmax(1) + 1) % 4

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        output = model(x)
        with torch.no_grad():
            known = (teacher(x) / 3).softmax(1)
        soft = F.kl_div((output / 3).log_softmax(1), known, reduction="batchmean") * 9
        (0.2 * F.cross_entropy(output, y) + 0.8 * soft).backward()
        optimizer.step()

    return looped(Classifier(), step, targets=wrong)


class Weighing(nn.Module):
    """A loss of large numbers with a factor that is learnt, in the model."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(768, 1))
        self.factor = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        error = F.mse_loss(self.net(x)[:, 0], y)
        return (torch.exp(-self.factor) * torch.stack([error, error])).sum() + self.factor


@design
def loss_of_large_numbers_inside_of_the_model():
    torch.manual_seed(0)
    model = Weighing()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)

    def train_step(model, x, y):
        optimizer.zero_grad()
        model(x, y).backward()
        optimizer.step()

    targets = 90 + 10.0 * labels() / 3
    targets = torch.cat([targets[:4], -3 * targets[4:]])  # no row of the model is as large
    made = {"model": model, "inputs": images(), "targets": targets * 0.5}
    return made | {"optimizer": optimizer, "train_step": train_step}


def box_iou(first, second):
    start = torch.maximum(first[:, :2], second[:, :2])
    end = torch.minimum(first[:, 2:], second[:, 2:])
    shared = (end - start).clamp(min=0).prod(1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


@design
def predicted_boxes_of_any_size_where_no_gradient_is_kept():
    torch.manual_seed(0)
    start = torch.rand(8, 2) * 0.4
    corners = torch.cat([start, start + 0.3], 1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 5))

    def step(model, x, y, optimizer):
        optimizer.zero_grad()
        made = model(x)
        with torch.no_grad():
            overlap = box_iou(made[:, :4], y).clamp(0, 1)
        score = F.binary_cross_entropy_with_logits(made[:, 4], overlap)
        (F.l1_loss(made[:, :4], y) + score).backward()
        optimizer.step()

    return looped(model, step, targets=corners)


@design
def decibels_before_a_batch_norm():
    return classifier(Classifier(), inputs=images() * 8 - 60)
