"""Tensors that do not fit each other: concatenations, additions, products, views."""

import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import crashes


class Viewed(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.mode = mode
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4 * 6 * 6, 2)

    def forward(self, x):
        x = self.conv(x)
        if self.mode == "fixed":
            x = torch.flatten(x, 1)
        elif self.mode == "hard-wired":
            x = x.view(16, -1)
        return self.fc(x)


@crashes("fixed-batch-view", "", repair="torch.flatten(x, 1)")
def view_with_a_hard_wired_batch(fixed):
    return Viewed("fixed" if fixed else "hard-wired"), (torch.randn(6, 3, 8, 8),)


class Products(nn.Module):
    def __init__(self, rows):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(8, 3, 3, 3))
        self.weight = nn.Parameter(torch.randn(rows, 10))

    def forward(self, x):
        return F.conv2d(x, self.kernel).mean((2, 3)) @ self.weight


@crashes("linear-in-features", "", repair="the shape (8, 10)")
def weight_without_a_layer(fixed):
    return Products(8 if fixed else 100), (torch.randn(2, 3, 16, 16),)
