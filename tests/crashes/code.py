"""Mistakes in the code of the model rather than in its numbers."""

import torch
from torch import nn

from crashes.table import crashes


class Misspelt(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def foward(self, x):
        return self.fc(x)


class Spelt(Misspelt):
    def forward(self, x):
        return self.fc(x)


@crashes("missing-forward", "inner", repair="rename")
def misspelt_forward_inside(fixed):
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Spelt() if fixed else Misspelt()

        def forward(self, x):
            return self.inner(x) * 2

    return Outer(), (torch.randn(3, 4),)


class CommaBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return torch.relu(self.conv(x)),  # fmt: skip  # noqa: COM818


class PlainBlock(CommaBlock):
    def forward(self, x):
        return torch.relu(self.conv(x))


@crashes("trailing-comma", "0", repair="trailing comma")
def trailing_comma_in_a_return(fixed):
    return nn.Sequential(PlainBlock() if fixed else CommaBlock(), nn.Conv2d(4, 2, 3)), (
        torch.randn(2, 3, 8, 8),
    )


@crashes("tuple-for-tensor", "0", repair="[0]")
def lstm_in_a_sequential(fixed):
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x):
            return self.lstm(x)[0]

    return nn.Sequential(First() if fixed else nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)), (
        torch.randn(2, 5, 4),
    )


class Forgetful(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        y = self.fc(x)
        if self.fixed:
            return y
        return None


@crashes("none-for-tensor", "0", repair="")
def block_without_a_return(fixed):
    return nn.Sequential(Forgetful(fixed), nn.Linear(4, 2)), (torch.randn(3, 4),)


class Masking(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x, mask):
        return self.fc(x * mask)


@crashes("call-signature", "", repair="")
def argument_is_missing(fixed):
    return Masking(), (torch.randn(3, 4), torch.ones(4))[: 2 if fixed else 1]


@crashes("call-signature", "", repair="")
def argument_too_many(fixed):
    return Spelt(), (torch.randn(3, 4), torch.ones(4))[: 1 if fixed else 2]
