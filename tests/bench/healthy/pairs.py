"""Models that see two pictures and are healthy."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.design import design
from bench.parts import Backbone, images, labels


class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = Backbone()
        self.project = nn.Linear(16, 8)

    def forward_once(self, x):
        return F.normalize(self.project(self.encoder(x)), dim=1)

    def forward(self, a, b):
        return self.forward_once(a), self.forward_once(b)


@design
def siamese():
    model = Siamese()

    def contrastive(outputs, same):
        distance = F.pairwise_distance(*outputs)
        return (same * distance**2 + (1 - same) * F.relu(1.0 - distance) ** 2).mean()

    return {
        "model": model,
        "inputs": (images(), images().flip(3)),
        "targets": (labels() > 1).float(),
        "loss_fn": contrastive,
        "optimizer": torch.optim.Adam(model.parameters()),
    }


class SimSiam(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(
            Backbone(), nn.Linear(16, 16), nn.BatchNorm1d(16, affine=False)
        )
        self.predictor = nn.Sequential(
            nn.Linear(16, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 16)
        )

    def forward(self, a, b):
        za, zb = self.encoder(a), self.encoder(b)
        return self.predictor(za), self.predictor(zb), za.detach(), zb.detach()


@design
def stop_gradient_as_in_simsiam():
    model = SimSiam()

    def loss_fn(outputs):
        pa, pb, za, zb = outputs
        return -(F.cosine_similarity(pa, zb).mean() + F.cosine_similarity(pb, za).mean()) / 2

    return {
        "model": model,
        "inputs": (images(), images().flip(3)),
        "loss_fn": loss_fn,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }


@design
def contrastive_similarities():
    model = Siamese()

    def clip_loss(outputs):
        a, b = outputs
        logits = a @ b.t() / 0.1
        return (
            F.cross_entropy(logits, torch.arange(8)) + F.cross_entropy(logits.t(), torch.arange(8))
        ) / 2

    return {
        "model": model,
        "inputs": (images(), images() * 0.9),
        "loss_fn": clip_loss,
        "optimizer": torch.optim.Adam(model.parameters()),
    }
