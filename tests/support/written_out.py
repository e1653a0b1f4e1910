"""Models written out layer by layer, as they look before anybody has seen their pattern."""

import torch
import torch.nn.functional as F
from torch import nn


class WrittenOut(nn.Module):
    """Layers under numbers, called one after the other."""

    def __init__(self, *layers):
        super().__init__()
        self.count = len(layers)
        for k, layer in enumerate(layers):
            setattr(self, f"layer{k}", layer)

    def forward(self, x):
        for k in range(self.count):
            x = getattr(self, f"layer{k}")(x)
        return x


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = x.view(x.shape[0], -1)
        x = torch.tanh(self.fc1(x))
        x = torch.tanh(self.fc2(x))
        return self.fc3(x)


class ResNet20(nn.Module):
    """He et al. 2015, section 4.2, with projections, without a single block."""

    def __init__(self):
        super().__init__()
        self.conv0, self.bn0 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.names = []
        width = 16
        for stage, out in enumerate((16, 32, 64)):
            for k in range(3):
                stride, name = (2 if stage and not k else 1), f"s{stage}b{k}"
                setattr(self, f"{name}conv1", nn.Conv2d(width, out, 3, stride, 1, bias=False))
                setattr(self, f"{name}bn1", nn.BatchNorm2d(out))
                setattr(self, f"{name}conv2", nn.Conv2d(out, out, 3, 1, 1, bias=False))
                setattr(self, f"{name}bn2", nn.BatchNorm2d(out))
                if stride != 1:
                    setattr(self, f"{name}down", nn.Conv2d(width, out, 1, stride, bias=False))
                    setattr(self, f"{name}downbn", nn.BatchNorm2d(out))
                self.names.append(name)
                width = out
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = F.relu(self.bn0(self.conv0(x)))
        for name in self.names:
            y = F.relu(getattr(self, f"{name}bn1")(getattr(self, f"{name}conv1")(x)))
            y = getattr(self, f"{name}bn2")(getattr(self, f"{name}conv2")(y))
            if hasattr(self, f"{name}down"):
                x = getattr(self, f"{name}downbn")(getattr(self, f"{name}down")(x))
            x = F.relu(y + x)
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def mobile_stack():
    """MobileNet's pairs of a depthwise and a pointwise convolution (Howard et al. 2017), written
    out.
    """
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    width = 8
    for out, stride in ((16, 1), (32, 2), (32, 1), (64, 2)):
        layers += [
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        ]
        layers += [nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        width = out
    return WrittenOut(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def flattened(model):
    """torchvision's vgg and alexnet without their containers."""
    return WrittenOut(*model.features, model.avgpool, nn.Flatten(), *model.classifier)


def resnet18_by_functions(model):
    """torchvision's resnet18 (its layers as they are registered), run by functions alone."""

    def norm(m, x):
        return F.batch_norm(
            x, m.running_mean, m.running_var, m.weight, m.bias, m.training, m.momentum, m.eps
        )

    def conv(m, x):
        return F.conv2d(x, m.weight, None, m.stride, m.padding)

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(model.modules())

        def forward(self, x):
            x = F.max_pool2d(norm(model.bn1, conv(model.conv1, x)).relu(), 3, 2, 1)
            for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
                for block in stage:
                    shortcut = (
                        x
                        if block.downsample is None
                        else norm(block.downsample[1], conv(block.downsample[0], x))
                    )
                    y = torch.relu(norm(block.bn1, conv(block.conv1, x)))
                    x = torch.relu(norm(block.bn2, conv(block.conv2, y)) + shortcut)
            return F.linear(
                x.mean((2, 3), keepdim=True).view(len(x), -1), model.fc.weight, model.fc.bias
            )

    return Functional()
