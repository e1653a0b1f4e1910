"""SimpleCNN, its twins and its faulty copies, small: 3 x 32 x 32 images, as the figures of
1,147,466 parameters ask.
"""

import torch
import torch.nn.functional as F
from torch import nn


class SimpleCNN(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2, 2)
        self.conv3 = nn.Conv2d(64, 128, 3, padding=1)
        self.relu3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2, 2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(128 * 4 * 4, 512)
        self.relu4 = nn.ReLU()
        self.dropout = nn.Dropout(0.5)
        self.fc2 = nn.Linear(512, classes)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        x = self.flatten(x)
        x = self.dropout(self.relu4(self.fc1(x)))
        return self.fc2(x)


class ConvLayer(nn.Module):
    def __init__(self, channel_in, channel_out, **config):
        super().__init__()
        config = {"kernel_size": 3, "padding": 1, **config}
        self.block = nn.Sequential(
            nn.Conv2d(channel_in, channel_out, **config), nn.ReLU(), nn.MaxPool2d(2, 2)
        )

    def forward(self, x):
        return self.block(x)


class CNNModelAsWritten(nn.Module):
    """The refactoring as first written: no flatten, so that it crashes."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(ConvLayer(3, 32), ConvLayer(32, 64), ConvLayer(64, 128))
        self.classifier = nn.Sequential(
            nn.Linear(128 * 4 * 4, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10)
        )

    def forward(self, x):
        return self.classifier(self.features(x))


class CNNModel(CNNModelAsWritten):
    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


class FunctionalCNN(nn.Module):
    """Parameters of its own and functions only."""

    def __init__(self, drop=0.5):
        super().__init__()
        self.drop = drop
        for name, shape in (
            ("a", (32, 3, 3, 3)),
            ("b", (64, 32, 3, 3)),
            ("c", (128, 64, 3, 3)),
            ("d", (512, 2048)),
            ("e", (10, 512)),
        ):
            self.register_parameter(f"weight_{name}", nn.Parameter(torch.randn(shape) * 0.05))
            self.register_parameter(f"bias_{name}", nn.Parameter(torch.zeros(shape[0])))

    def forward(self, x):
        x = F.max_pool2d(F.relu(F.conv2d(x, self.weight_a, self.bias_a, padding=1)), 2)
        x = F.max_pool2d(torch.relu(F.conv2d(x, self.weight_b, self.bias_b, 1, 1)), 2)
        x = F.max_pool2d(
            F.conv2d(x, self.weight_c, self.bias_c, stride=(1, 1), padding=(1, 1)).relu(), (2, 2)
        )
        x = x.view(x.size(0), -1)
        x = F.dropout(F.relu(F.linear(x, self.weight_d, self.bias_d)), self.drop, self.training)
        return F.linear(x, self.weight_e, self.bias_e)


def pictures(n=2):
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
