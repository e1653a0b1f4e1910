"""Graphs that tests draw."""

import torch
from torch import nn

import cnnprobe


class Block(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self, blocks=5):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.blocks = nn.Sequential(*[Block() for _ in range(blocks)])
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def recorded(model, *inputs):
    with cnnprobe.record(model, statistics=False) as recording:
        model(*inputs)
    return recording.trace


def image():
    return torch.ones(1, 1, 8, 8)
