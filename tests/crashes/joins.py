"""Tensors that do not fit each other: concatenations, additions, products, views."""

import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import crashes


class UNet(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.middle = nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = self.down(x)
        up = self.up(self.middle(F.max_pool2d(skip, 2)))
        if self.fixed:
            up = F.interpolate(up, size=skip.shape[2:])
        return self.out(torch.cat([skip, up], dim=1))


@crashes("cat-mismatch", "", repair="F.interpolate")
def unet_with_an_odd_size(fixed):
    return UNet(fixed), (torch.randn(2, 3, 25, 25),)


class Heads(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.conv = nn.Conv2d(3, 6, 3)
        self.meta = nn.Linear(4, 5)
        self.out = nn.Linear(11, 2)

    def forward(self, x, extra):
        pooled = F.adaptive_avg_pool2d(self.conv(x), 1)
        if self.fixed:
            pooled = pooled.flatten(1)
        return self.out(torch.cat([pooled, self.meta(extra)], dim=1))


@crashes("cat-mismatch", "", repair="flatten")
def map_concatenated_with_features(fixed):
    return Heads(fixed), (torch.randn(2, 3, 8, 8), torch.randn(2, 4))


class TwoPaths(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.a = nn.Linear(6, 4)
        self.b = nn.Linear(6, 8)
        self.out = nn.Linear(12, 2)

    def forward(self, x):
        return self.out(torch.cat([self.a(x), self.b(x)], dim=1 if self.fixed else 0))


@crashes("cat-mismatch", "", repair="dim=1")
def concatenation_along_the_batch(fixed):
    return TwoPaths(fixed), (torch.randn(3, 6),)


class Block(nn.Module):
    def __init__(self, c_in, c_out, stride, fixed):
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.down = nn.Conv2d(c_in, c_out, 1, stride=stride) if fixed else nn.Identity()

    def forward(self, x):
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.down(x))


@crashes("residual-mismatch", "layer2", repair="nn.Conv2d(8, 16, kernel_size=1, stride=2)")
def residual_block_without_downsample(fixed):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer1 = Block(8, 8, 1, fixed)
            self.layer2 = Block(8, 16, 2, fixed)

        def forward(self, x):
            return self.layer2(self.layer1(x))

    return Net(), (torch.randn(2, 8, 16, 16),)


class Shrinking(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=padding)

    def forward(self, x):
        return x + self.second(F.relu(self.first(x)))


@crashes("residual-mismatch", "second", repair="padding=1")
def residual_branch_without_padding(fixed):
    return Shrinking(1 if fixed else 0), (torch.randn(2, 4, 12, 12),)


class Excited(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.conv = nn.Conv2d(3, 8, 3)
        self.gate = nn.Linear(8, 8)

    def forward(self, x):
        x = self.conv(x)
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        return x * (gate[:, :, None, None] if self.fixed else gate)


@crashes("shape-mismatch", "", repair="None, None")
def gate_without_spatial_axes(fixed):
    return Excited(fixed), (torch.randn(2, 3, 9, 9),)


class Positioned(nn.Module):
    def __init__(self, length):
        super().__init__()
        self.position = nn.Parameter(torch.zeros(1, length, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head((x + self.position).mean(1))


@crashes("shape-mismatch", "", repair="the shape (1, 17, 8)")
def position_table_of_another_length(fixed):
    return Positioned(17 if fixed else 16), (torch.randn(2, 17, 8),)


class Attention(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)

    def forward(self, x):
        q, k = self.query(x), self.key(x)
        return torch.softmax(q @ (k.transpose(-2, -1) if self.fixed else k), -1) @ x


@crashes("shape-mismatch", "", repair="transpose(-2, -1)")
def attention_scores_without_transpose(fixed):
    return Attention(fixed), (torch.randn(2, 5, 8),)


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


class Inception(nn.Module):
    def __init__(self, padding):
        super().__init__()
        self.one = nn.Conv2d(3, 8, 1)
        self.three = nn.Conv2d(3, 8, 3, padding=1)
        self.five = nn.Conv2d(3, 8, 5, padding=padding)

    def forward(self, x):
        return torch.cat([self.one(x), self.three(x), self.five(x)], 1)


@crashes("cat-mismatch", "five", repair="padding=2")
def branch_of_another_size(fixed):
    return Inception(2 if fixed else 1), (torch.randn(2, 3, 16, 16),)


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
