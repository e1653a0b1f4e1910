"""Faults of how tensors flow through a model."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, net
from bench.parts import Backbone, classifier, images


@case("missing-nonlinearity", "conv1", "conv2")
def convolutions_in_a_row(sick):
    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(self.conv2(x if sick else F.relu(x)))
        return self.fc(x.mean((2, 3)))

    return classifier(
        net(forward, conv1=nn.Conv2d(3, 8, 3), conv2=nn.Conv2d(8, 16, 3), fc=nn.Linear(16, 4))
    )


@case("missing-nonlinearity", "fc1", "fc2")
def functional_linear_layers_in_a_row(sick):
    def forward(self, x):
        x = F.relu(self.conv(x)).flatten(1)
        x = self.fc1(x)
        return self.fc2(F.dropout(x, 0.2, self.training) if sick else F.relu(x))

    return classifier(
        net(forward, conv=nn.Conv2d(3, 4, 3), fc1=nn.Linear(784, 32), fc2=nn.Linear(32, 4))
    )


@case("dead-output", "bn", "")
def batch_norm_that_is_dropped(sick):
    def forward(self, x):
        x = self.conv(x)
        if sick:
            self.bn(x)
        else:
            x = self.bn(x)
        return self.fc(F.relu(x).mean((2, 3)))

    return classifier(
        net(forward, conv=nn.Conv2d(3, 8, 3, bias=False), bn=nn.BatchNorm2d(8), fc=nn.Linear(8, 4))
    )


@case("inplace-skip", "", "relu")
def identity_overwritten(sick):
    def forward(self, x):
        x = self.stem(x)
        identity = x
        y = F.relu(x, inplace=sick)
        y = self.conv(y)
        y = y + identity
        return self.fc(y.mean((2, 3)))

    return classifier(
        net(
            forward, stem=nn.Conv2d(3, 8, 3), conv=nn.Conv2d(8, 8, 3, padding=1), fc=nn.Linear(8, 4)
        )
    )


@case("input-mutated", "")
def normalised_in_place(sick):
    def forward(self, x):
        if sick:
            x -= 0.1
        else:
            x = x - 0.1
        return self.fc(self.backbone(x))

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("reshape-scramble", "")
def tokens_by_view(sick):
    def forward(self, x):
        x = F.relu(self.conv(x))
        n, c, h, w = x.shape
        x = x.reshape(n, h, w, c) if sick else x.permute(0, 2, 3, 1)
        return self.fc(x).mean((1, 2))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("batch-as-time", "lstm")
def lstm_without_batch_first(sick):
    def forward(self, x):
        out, _ = self.lstm(x[:, 0])
        return self.fc(out[:, -1])

    return classifier(net(forward, lstm=nn.LSTM(16, 8, batch_first=not sick), fc=nn.Linear(8, 4)))


@case("batch-leak", "")
def normalised_over_the_batch(sick):
    def forward(self, x):
        x = self.backbone(x)
        x = (x - x.mean(0 if sick else 1, keepdim=True)) / (
            x.std(0 if sick else 1, keepdim=True) + 1e-5
        )
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("ignored-input", "")
def second_input_overwritten(sick):
    def forward(self, image, extra):
        a = self.backbone(image)
        b = F.relu(self.side(a[:, :5] if sick else extra))
        return self.fc(torch.cat([a, b], 1))

    model = net(forward, backbone=Backbone(), side=nn.Linear(5, 8), fc=nn.Linear(24, 4))
    return classifier(model, inputs=(images(), torch.randn(8, 5)))
