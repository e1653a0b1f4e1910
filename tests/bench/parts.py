"""Pictures, labels and small models that the cases and the designs share."""

import torch
import torch.nn.functional as F
from torch import nn


def images(n=8, c=3, size=16):
    return torch.randn(n, c, size, size, generator=torch.Generator().manual_seed(0))


def labels(n=8, classes=4):
    return torch.arange(n) % classes


def classifier(model, **others):
    trained = [p for p in model.parameters() if p.requires_grad]
    return {
        "model": model,
        "inputs": images(),
        "targets": labels(),
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.Adam(trained, lr=1e-3),
    } | others


class Backbone(nn.Module):
    def __init__(self, c=3):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(c, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        return F.adaptive_avg_pool2d(F.relu(self.bn2(self.conv2(x))), 1).flatten(1)


def trained(network):
    """A network with weights that torch does not draw, as after a training."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    return network


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone, self.fc = Backbone(), nn.Linear(16, 4)

    def forward(self, x):
        return self.fc(self.backbone(x))
