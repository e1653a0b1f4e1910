"""Faults of what is registered, trained and reached by a gradient."""

import torch
import torch.nn.functional as F
from torch import nn

from bench.case import case, net
from bench.parts import Backbone, Classifier, classifier


@case("unregistered-module", "")
def blocks_in_a_dict(sick):
    blocks = {"first": nn.Linear(768, 32), "second": nn.Linear(32, 32)}

    def forward(self, x):
        x = x.flatten(1)
        for name in ("first", "second"):
            x = F.relu(self.blocks[name](x))
        return self.head(x)

    return classifier(
        net(forward, blocks=blocks if sick else nn.ModuleDict(blocks), head=nn.Linear(32, 4))
    )


@case("unregistered-parameter", "")
def parameter_that_was_moved(sick):
    scale = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.fc(self.backbone(x) * self.scale)

    return classifier(
        net(forward, backbone=Backbone(), fc=nn.Linear(16, 4), scale=scale * 0.5 if sick else scale)
    )


@case("unoptimized-params", "fc")
def optimizer_of_the_backbone_only(sick):
    model = Classifier()
    trained = model.backbone.parameters() if sick else model.parameters()
    return classifier(model, optimizer=torch.optim.Adam(trained, lr=1e-3))


@case("stale-optimizer", "fc")
def head_replaced_after_the_optimizer(sick):
    model = Classifier()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    if sick:
        model.fc = nn.Linear(16, 4)
    return classifier(model, optimizer=optimizer)


@case("unused-module", "bn2")
def forgotten_layer(sick):
    def forward(self, x):
        x = self.conv2(F.relu(self.bn1(self.conv1(x))))
        x = F.relu(x if sick else self.bn2(x))
        return self.fc(x.mean((2, 3)))

    parts = {
        "conv1": nn.Conv2d(3, 8, 3, bias=False),
        "bn1": nn.BatchNorm2d(8),
        "conv2": nn.Conv2d(8, 8, 3, bias=False),
        "bn2": nn.BatchNorm2d(8),
    }
    return classifier(net(forward, **parts, fc=nn.Linear(8, 4)))


@case("shared-module", "body.0")
def repeated_block(sick):
    def block():
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())

    one = block()
    body = [one] * 3 if sick else [block() for _ in range(3)]

    def forward(self, x):
        x = F.relu(self.stem(x))
        return self.fc(self.body(x).mean((2, 3)))

    return classifier(
        net(forward, stem=nn.Conv2d(3, 8, 3), body=nn.Sequential(*body), fc=nn.Linear(8, 4))
    )


@case("no-grad-path", "backbone", "", "backbone.conv1")
def features_under_no_grad(sick):
    def forward(self, x):
        with torch.set_grad_enabled(not sick and torch.is_grad_enabled()):
            x = self.backbone(x)
        return self.fc(x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("no-grad-path", "")
def data_in_the_forward(sick):
    def forward(self, x):
        x = self.backbone(x)
        return self.fc(x.data if sick else x)

    return classifier(net(forward, backbone=Backbone(), fc=nn.Linear(16, 4)))


@case("frozen-params", "fc")
def everything_but_the_backbone_frozen(sick):
    model = Classifier()
    (model.fc if sick else model.backbone).requires_grad_(False)
    if not sick:
        model.backbone.eval()
    return classifier(model)


@case("unregistered-tensor", "")
def class_weights_as_a_plain_tensor(sick):
    model = Classifier()
    if sick:
        model.mean = torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1)
    else:
        model.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x):
        return self.fc(self.backbone(x - self.mean))

    type(model).forward, kept = type(model).forward, type(model).forward
    model.__class__ = type("Normalising", (Classifier,), {"forward": forward})
    assert type(model).forward is not kept
    return classifier(model)
