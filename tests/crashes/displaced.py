"""Crashes whose fault is not where they raise: a layer before it gives channels, sizes, patches or
rows that the rest was not written for.
"""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import crashes


class Pyramid(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.low = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.high = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.lateral1 = nn.Conv2d(8, 6, 1)
        self.lateral2 = nn.Conv2d(16, 6 if fixed else 12, 1)
        self.smooth = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        low = self.low(x)
        top = self.lateral2(self.high(low))
        return self.smooth(F.interpolate(top, size=low.shape[2:]) + self.lateral1(low))


@crashes("residual-mismatch", "lateral2", repair="out_channels=6 in 'lateral2'")
def pyramid_with_a_lateral_of_other_channels(fixed):
    return Pyramid(fixed), (torch.randn(2, 3, 16, 16),)


class Decoding(nn.Module):
    def __init__(self, kernel, stride, padding):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 16, 3, padding=1)
        self.up2 = nn.ConvTranspose2d(16, 8, kernel, stride=stride, padding=padding)
        self.merge2 = nn.Conv2d(16, 8, 3, padding=1)
        self.up1 = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.merge1 = nn.Conv2d(8, 2, 3, padding=1)

    def forward(self, x):
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        third = self.third(F.max_pool2d(second, 2))
        merged = self.merge2(torch.cat([self.up2(third), second], dim=1))
        return self.merge1(torch.cat([self.up1(merged), first], dim=1))


@crashes("cat-mismatch", "up2", repair="kernel_size=2 in 'up2'")
def transposed_convolution_of_a_kernel_too_large(fixed):
    return Decoding(2 if fixed else 3, 2, 0), (torch.randn(2, 3, 16, 16),)


@crashes("cat-mismatch", "up2", repair="padding=1 in 'up2'")
def transposed_convolution_without_padding(fixed):
    return Decoding(4, 2, 1 if fixed else 0), (torch.randn(2, 3, 16, 16),)


@crashes("cat-mismatch", "up2", repair="stride=2 in 'up2'")
def transposed_convolution_without_stride(fixed):
    return Decoding(2, 2 if fixed else 1, 0), (torch.randn(2, 3, 16, 16),)


class Patches(nn.Module):
    def __init__(self, stride):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, kernel_size=4, stride=stride)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.places = nn.Parameter(torch.zeros(1, 17, 8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        return self.head(x[:, 0])


@crashes("parameter-size", "embed", repair="stride=4 in 'embed'")
def patches_that_leave_pixels_out(fixed):
    return Patches(4 if fixed else 8), (torch.randn(2, 3, 16, 16),)


class Rows(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.channels = channels
        self.fc = nn.Linear(10, 8 * 4 * 4)
        self.up = nn.ConvTranspose2d(8, 3, 4, stride=2, padding=1)

    def forward(self, x):
        return self.up(self.fc(x).view(-1, self.channels, 4, 4))


@crashes(
    "batch-merge-view", "", repair="view(-1, 8, 4, 4)", on_meta=False
)  # torch checks no channels of it on meta
def decoder_view_of_too_few_channels(fixed):
    return Rows(8 if fixed else 4), (torch.randn(2, 10),)


class Clips(nn.Module):
    def __init__(self, halvings):
        super().__init__()
        sizes = [3, 4, 4, 4]
        self.convs = nn.ModuleList(
            nn.Conv3d(a, b, 3, padding=1) for a, b in itertools.pairwise(sizes)
        )
        self.pools = nn.ModuleList(nn.MaxPool3d(2 if i < halvings else (1, 2, 2)) for i in range(3))
        self.head = nn.Linear(4 * 4 * 4, 5)

    def forward(self, x):
        for conv, pool in zip(self.convs, self.pools, strict=True):
            x = pool(F.relu(conv(x)))
        return self.head(x.flatten(1))


@crashes("spatial-collapse", "pools.2", repair="an input of at least 8 x 32 x 32")
def clip_too_short_for_its_poolings(fixed):
    return Clips(2 if fixed else 3), (torch.randn(2, 3, 4, 32, 32),)


class Narrow(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3)
        self.conv2 = nn.Conv2d(4, channels, 3)
        self.fc = nn.Linear(6 * 5 * 5, 3)

    def forward(self, x):
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.fc(torch.flatten(x, 1))


@crashes("linear-in-features", "fc", repair="out_channels=6 in 'conv2'")
def last_convolution_of_too_few_channels(fixed):
    return Narrow(6 if fixed else 4), (torch.randn(2, 3, 9, 9),)


class Branching(nn.Module):
    def __init__(self, channels, planes, expansion):
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(channels, planes, 1), nn.BatchNorm2d(planes), nn.ReLU()
        )
        self.expand = nn.Sequential(
            nn.Conv2d(planes, planes * expansion, 1), nn.BatchNorm2d(planes * expansion)
        )
        self.downsample = nn.Conv2d(channels, planes * 4, 1)

    def forward(self, x):
        return F.relu(self.expand(self.reduce(x)) + self.downsample(x))


class Bottlenecks(nn.Module):
    def __init__(self, expansion):
        super().__init__()
        self.first = Branching(3, 4, expansion)
        self.second = Branching(16, 8, expansion)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        return self.head(self.second(self.first(x)).mean((2, 3)))


@crashes("residual-mismatch", "first.expand.0", repair="out_channels=16 in 'first.expand.0'")
def bottlenecks_that_do_not_expand(fixed):
    return Bottlenecks(4 if fixed else 1), (torch.randn(2, 3, 8, 8),)


class Heads(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        n, length, channels = x.shape
        q, k, v = (
            self.qkv(x)
            .reshape(n, length, 3, self.heads, channels // self.heads)
            .permute(2, 0, 3, 1, 4)
        )
        return x + ((q @ k.transpose(-2, -1)).softmax(-1) @ v).transpose(1, 2).reshape(
            n, length, channels
        )


class Headed(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(Heads(heads), Heads(heads))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x).flatten(2).transpose(1, 2)).mean(1))


@crashes("heads-do-not-divide", "blocks.0", repair="set heads=4 in the 2 modules like 'blocks.0'")
def heads_that_do_not_divide_the_channels(fixed):
    return Headed(4 if fixed else 5), (torch.randn(2, 3, 16, 16),)


class Scaling(nn.Module):
    def __init__(self, up, pool):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 3, padding=1)
        self.pool = pool
        self.middle = nn.Conv2d(4, 8, 3, padding=1)
        self.up = up
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x):
        skip = F.relu(self.down(x))
        return self.out(torch.cat([skip, self.up(self.middle(self.pool(skip)))], dim=1))


@crashes("cat-mismatch", "up.0", repair="set scale_factor=2 in 'up.0'")
def upsampling_by_another_factor(fixed):
    up = nn.Sequential(nn.Upsample(scale_factor=2 if fixed else 4), nn.Conv2d(8, 4, 3, padding=1))
    return Scaling(up, nn.MaxPool2d(2)), (torch.randn(2, 3, 16, 16),)


@crashes("cat-mismatch", "pool", repair="padding=1 in 'pool'")
def pooling_that_does_not_halve(fixed):
    return Scaling(nn.ConvTranspose2d(8, 4, 2, 2), nn.MaxPool2d(3, 2, padding=1 if fixed else 0)), (
        torch.randn(2, 3, 16, 16),
    )
