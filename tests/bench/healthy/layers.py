"""Layers and blocks that are healthy."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.design import design
from bench.parts import classifier, images


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = self.double(3, 8), self.double(8, 16)
        self.up, self.up1, self.out = (
            nn.ConvTranspose2d(16, 8, 2, stride=2),
            self.double(16, 8),
            nn.Conv2d(8, 2, 1),
        )

    @staticmethod
    def double(a, b):
        return nn.Sequential(
            nn.Conv2d(a, b, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(b, b, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        a = self.down1(x)
        b = self.down2(F.max_pool2d(a, 2))
        return self.out(self.up1(torch.cat([a, self.up(b)], dim=1)))


@design
def unet():
    return classifier(UNet(), targets=(images()[:, 0] > 0).long())


class InvertedResidual(nn.Module):
    def __init__(self):
        super().__init__()
        self.expand, self.depthwise, self.project = (
            nn.Conv2d(8, 32, 1),
            nn.Conv2d(32, 32, 3, padding=1, groups=32),
            nn.Conv2d(32, 8, 1),
        )
        self.norms = nn.ModuleList([nn.BatchNorm2d(32), nn.BatchNorm2d(32), nn.BatchNorm2d(8)])
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x):
        y = self.act(self.norms[0](self.expand(x)))
        y = self.act(self.norms[1](self.depthwise(y)))
        return x + self.norms[2](self.project(y))


@design
def linear_bottlenecks_as_in_mobilenet():
    return classifier(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            InvertedResidual(),
            InvertedResidual(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )


@design
def separable_convolutions():
    body = [
        nn.Conv2d(3, 3, 3, groups=3),
        nn.Conv2d(3, 8, 1),
        nn.ReLU(),
        nn.Conv2d(8, 8, (1, 3)),
        nn.Conv2d(8, 8, (3, 1)),
        nn.ReLU(),
    ]
    return classifier(nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)))


class Lora(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base, self.a, self.b = (
            base.requires_grad_(False),
            nn.Linear(base.in_features, 4, bias=False),
            nn.Linear(4, base.out_features, bias=False),
        )
        nn.init.zeros_(self.b.weight)

    def forward(self, x):
        return self.base(x) + self.b(self.a(x))


@design
def low_rank_adapters_beside_frozen_layers():
    return classifier(
        nn.Sequential(
            nn.Flatten(),
            Lora(nn.Linear(768, 32)),
            nn.ReLU(),
            Lora(nn.Linear(32, 32)),
            nn.ReLU(),
            Lora(nn.Linear(32, 4)),
        )
    )


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(768, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x):
        from torch.utils.checkpoint import checkpoint

        x = torch.relu(self.a(x.flatten(1)))
        x = checkpoint(lambda h: torch.relu(self.b(h)), x, use_reentrant=False)
        return self.c(x)


@design
def checkpointed_segment():
    return classifier(Checkpointed())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        y = self.conv1(self.relu(self.bn1(x)))
        y = self.conv2(self.relu(self.bn2(y)))
        y += x
        return self.relu(y)


@design
def preactivated_residual_blocks():
    return classifier(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            Residual(),
            Residual(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        )
    )


class WithDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(768, 32), nn.Linear(32, 4)

    def forward(self, x):
        x = F.dropout(F.relu(self.a(x.flatten(1))), 0.5, training=self.training)
        return F.log_softmax(self.b(x), dim=1)


@design
def log_softmax_and_nll_with_guarded_dropout():
    return classifier(WithDropout(), loss_fn=F.nll_loss)


class Pyramid(nn.Module):
    """One head for maps of five sizes; on the smallest, of 1 x 1, none of its few distances happens
    to be positive.
    """

    def __init__(self):
        super().__init__()
        self.body, self.head, self.score = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.Conv2d(8, 1, 1),
            nn.Conv2d(8, 4, 1),
        )
        nn.init.constant_(self.head.bias, -0.1)

    def forward(self, x):
        maps = [F.relu(self.body(x))]
        while maps[-1].shape[-1] > 1:
            maps.append(F.avg_pool2d(maps[-1], 2))
        distances = [F.relu(self.head(each)) for each in maps]
        return sum(
            (self.score(each) * (1 + distance)).mean((2, 3))
            for each, distance in zip(maps, distances)
        )


@design
def one_head_for_maps_of_all_sizes():
    torch.manual_seed(2)
    return classifier(Pyramid())


@design
def last_layer_of_a_flow_that_starts_next_to_nothing():
    """VoxelMorph: the field of displacements starts at N(0, 1e-5)."""
    flow = nn.Conv2d(8, 2, 3, padding=1)
    nn.init.normal_(flow.weight, std=1e-5)
    nn.init.zeros_(flow.bias)
    body = []
    for c in (3, 8, 8):
        body += [nn.Conv2d(c, 8, 3, padding=1), nn.LeakyReLU(0.2)]
    model = nn.Sequential(*body, flow)
    return classifier(model, targets=0.1 * images()[:, :2], loss_fn=nn.MSELoss())


@design
def embedding_that_is_normalised_in_the_forward():
    table = nn.Embedding(20, 16, max_norm=1.0)
    model = nn.Sequential(table, nn.Flatten(), nn.Linear(96, 4))
    return classifier(model, inputs=torch.arange(48).view(8, 6) % 20)
