"""Faults of initialisation, normalisation and the numbers that follow."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, net
from bench.parts import Backbone, Classifier, classifier, images


@case("functional-dropout", "")
def dropout_that_stays_on(sick):
    def forward(self, x):
        x = F.relu(self.fc1(x.flatten(1)))
        x = F.dropout(x, p=0.3) if sick else F.dropout(x, p=0.3, training=self.training)
        return self.fc2(x)

    return classifier(net(forward, fc1=nn.Linear(768, 32), fc2=nn.Linear(32, 4)))


@case("input-range", None)
def raw_pixels(sick):
    x = (images().sigmoid() * 255).round()
    return classifier(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
        ),
        inputs=x if sick else x / 255,
    )


@case("bn-reused", "bn")
def one_batch_norm_for_two_convolutions(sick):
    def forward(self, x):
        x = F.relu(self.bn(self.conv1(x)))
        x = F.relu((self.bn if sick else self.bn2)(self.conv2(x)))
        return self.fc(x.mean((2, 3)))

    parts = {
        "conv1": nn.Conv2d(3, 8, 3, bias=False),
        "conv2": nn.Conv2d(8, 8, 3, bias=False),
        "bn": nn.BatchNorm2d(8),
    }
    return classifier(
        net(forward, **parts, **({} if sick else {"bn2": nn.BatchNorm2d(8)}), fc=nn.Linear(8, 4))
    )


@case("bn-momentum-zero", "backbone.bn1")
def momentum_zero(sick):
    model = Classifier()
    model.backbone.bn1.momentum = 0.0 if sick else 0.1
    return classifier(model)


@case("nan-forward", "")
def logarithm_of_zero(sick):
    def forward(self, x):
        x = F.relu(self.conv(x)).mean((2, 3))
        return self.fc(torch.log(F.relu(x - 0.2) if sick else F.relu(x - 0.2) + 1e-3))

    return classifier(net(forward, conv=nn.Conv2d(3, 8, 3), fc=nn.Linear(8, 4)))


@case("dead-relu", "", "1")
def bias_of_minus_a_hundred(sick):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 4))
    nn.init.constant_(model[0].bias, -100.0 if sick else 0.0)
    return classifier(model)


@case("vanishing-gradient", "0", "1", "2", "3")
def deep_sigmoids(sick):
    layers = [
        layer
        for _ in range(14)
        for layer in (nn.Linear(32, 32), nn.Sigmoid() if sick else nn.ReLU())
    ]
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 32), nn.ReLU(), *layers, nn.Linear(32, 4))
    if not sick:
        for layer in model:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight)
    return classifier(model)


@case("bad-init", "fc1")
def standard_normal_weights(sick):
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

    model = net(forward, fc1=nn.Linear(768, 64), fc2=nn.Linear(64, 4))
    nn.init.normal_(model.fc1.weight, std=1.0 if sick else 0.05)
    return classifier(model)


@case("constant-init", "fc1", "fc2")
def everything_zero(sick):
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x.flatten(1))))

    model = net(forward, fc1=nn.Linear(768, 64), fc2=nn.Linear(64, 4))
    if sick:
        for p in model.parameters():
            nn.init.zeros_(p)
    return classifier(model)


@case("dropout-rate", "drop")
def keep_probability_as_rate(sick):
    def forward(self, x):
        return self.fc2(self.drop(F.relu(self.fc1(x.flatten(1)))))

    return classifier(
        net(
            forward,
            fc1=nn.Linear(768, 64),
            drop=nn.Dropout(0.95 if sick else 0.05),
            fc2=nn.Linear(64, 4),
        )
    )


@case("eval-nondeterminism", "")
def noise_in_eval_mode(sick):
    def forward(self, x):
        x = self.backbone(x)
        if self.training or sick:
            x = x + 0.1 * torch.randn_like(x)
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("zero-grad", "backbone", "backbone.conv1", "")
def rounded_features(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(torch.round(x * 4) if sick else x * 4)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("exploding-activation", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12")
def deep_network_of_standard_normal_weights(sick):
    layers = [layer for _ in range(5) for layer in (nn.Linear(64, 64, bias=False), nn.ReLU())]
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), *layers, nn.Linear(64, 4))
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1.5) if sick else nn.init.kaiming_normal_(
                layer.weight
            )
    return classifier(model)


@case("constant-output", "", "1", "2")
def mean_over_everything(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(x * 0 if sick else x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))
