"""Small models that recording must cope with, shared by the tests."""

import torch
import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    """conv, BatchNorm, in-place ReLU, pooling, a flatten by function, a linear layer: the usual
    things.
    """

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        x = self.pool(self.relu(self.bn(self.conv(x))))
        return self.fc(self.drop(torch.flatten(x, 1)))


class Functional(nn.Module):
    """Everything by functions and operators."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(5, 48))

    def forward(self, x, *, scale=2.0):
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = x.view(x.size(0), -1)
        return {"logits": x @ self.weight.t() * scale, "pair": (x, None)}


class Broken(nn.Module):
    """The second layer does not fit the first."""

    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(5, 6, 3))

    def forward(self, x):
        return self.block(x)


def images(n=2):
    return torch.randn(n, 3, 8, 8, generator=torch.Generator().manual_seed(0))
