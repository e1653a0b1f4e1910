"""Boxes and pairs of another form than the loss reads."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, looped
from bench.parts import Backbone, classifier, images


def corners_of(boxes):
    return torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)


def cxcywh_to_xyxy(boxes):
    return corners_of(boxes)


@case("inverted-boxes", None)
def corners_and_sizes_for_centers_and_sizes(sick):
    def loss_fn(made, boxes):
        a, b = cxcywh_to_xyxy(made), cxcywh_to_xyxy(boxes)
        shared = (torch.min(a[:, 2:], b[:, 2:]) - torch.max(a[:, :2], b[:, :2])).clamp(0).prod(1)
        union = (a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - shared
        return F.l1_loss(made, boxes) + (1 - shared / union).mean()

    generator = torch.Generator().manual_seed(0)
    size = 0.2 + 0.3 * torch.rand(32, 2, generator=generator)
    corner = (1 - size) * torch.rand(32, 2, generator=generator)
    boxes = torch.cat([corner if sick else corner + size / 2, size], 1)
    model = nn.Sequential(Backbone(), nn.Linear(16, 4), nn.Sigmoid())
    return classifier(model, inputs=images(32), targets=boxes, loss_fn=loss_fn)


class Views(nn.Module):
    """The codes of a batch, below them those of a second view."""

    def __init__(self):
        super().__init__()
        self.backbone = Backbone()

    def forward(self, x, other):
        return torch.cat([self.backbone(x), self.backbone(other)])


@case("broken-formula", None)
def positives_of_views_that_alternate(sick):
    def nt_xent(codes, _, temperature=0.5):
        codes = F.normalize(codes, dim=1)
        scores = codes @ codes.T / temperature
        scores = scores.masked_fill(torch.eye(len(codes), dtype=torch.bool), -1e9)
        rows = torch.arange(len(codes))
        return F.cross_entropy(scores, rows ^ 1 if sick else rows.roll(len(codes) // 2))

    torch.manual_seed(0)
    views = images(16), images(16) + 0.05 * torch.randn(16, 3, 16, 16)
    return classifier(Views(), inputs=views, targets=torch.zeros(16), loss_fn=nt_xent)


def denoise(model, noisy):
    return noisy - model(noisy)


@case("noisy-target", None)
def data_for_an_output_that_is_taken_off_as_noise(sick):
    def step(model, x, y, optimizer):
        noise = 0.3 * torch.randn_like(x)
        optimizer.zero_grad()
        F.mse_loss(model(x + noise), x if sick else noise).backward()
        optimizer.step()

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    return looped(model, step)
