"""Single edits of SimpleCNN, each caught by at least one assertion, and the unedited model by none."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe import testing
from reference_models import SimpleCNN

LABELS = torch.tensor([0, 1, 2, 3])
LOSS = nn.CrossEntropyLoss()
LIKE_NEW = 0.5  # of the standard deviation that torch's own initialisation gives, either way


def replaced(name, module):
    return lambda model: setattr(model, name, module)


def forward_of(change):
    """An edit of the forward pass: `change(model, x)` in its place."""

    def edit(model):
        kind = type("SimpleCNN", (SimpleCNN,), {"forward": change})
        model.__class__ = kind

    return edit


def body(model, x):
    for i in (1, 2, 3):
        x = getattr(model, f"pool{i}")(getattr(model, f"relu{i}")(getattr(model, f"conv{i}")(x)))
    return model.flatten(x)


def head(model, x):
    return model.fc2(model.dropout(model.relu4(model.fc1(x))))


def pooled_first(model, x):
    x = model.pool1(model.conv1(x))
    x = model.pool2(model.relu2(model.conv2(model.relu1(x))))
    return head(model, model.flatten(model.pool3(model.relu3(model.conv3(x)))))


EDITS = {
    "fewer channels": lambda m: (replaced("conv3", nn.Conv2d(64, 96, 3, padding=1))(m), replaced("fc1", nn.Linear(96 * 16, 512))(m)),
    "more channels": lambda m: (
        replaced("conv1", nn.Conv2d(3, 48, 3, padding=1))(m),
        replaced("conv2", nn.Conv2d(48, 64, 3, padding=1))(m),
    ),
    "larger kernel": replaced("conv2", nn.Conv2d(32, 64, 5, padding=2)),
    "smaller kernel": replaced("conv2", nn.Conv2d(32, 64, 1)),
    "no padding": lambda m: (replaced("conv3", nn.Conv2d(64, 128, 3))(m), replaced("fc1", nn.Linear(128 * 9, 512))(m)),
    "other padding mode": replaced("conv1", nn.Conv2d(3, 32, 3, padding=1, padding_mode="reflect")),
    "stride for pooling": lambda m: (replaced("conv1", nn.Conv2d(3, 32, 3, stride=2, padding=1))(m), replaced("pool1", nn.Identity())(m)),
    "grouped convolution": replaced("conv2", nn.Conv2d(32, 64, 3, padding=1, groups=2)),
    "dilated convolution": replaced("conv2", nn.Conv2d(32, 64, 3, padding=2, dilation=2)),
    "other dropout": replaced("dropout", nn.Dropout(0.4)),
    "no dropout": replaced("dropout", nn.Identity()),
    "other activation": replaced("relu2", nn.LeakyReLU()),
    "in-place activation": replaced("relu1", nn.ReLU(inplace=True)),
    "no activation": replaced("relu4", nn.Identity()),
    "average pooling": replaced("pool2", nn.AvgPool2d(2, 2)),
    "pooling of another stride": lambda m: (replaced("pool3", nn.MaxPool2d(2, 1))(m), replaced("fc1", nn.Linear(128 * 49, 512))(m)),
    "no bias": replaced("conv2", nn.Conv2d(32, 64, 3, padding=1, bias=False)),
    "one class more": replaced("fc2", nn.Linear(512, 11)),
    "batch norm for dropout": replaced("dropout", nn.BatchNorm1d(512)),
    "frozen layer": lambda m: m.conv1.requires_grad_(requires_grad=False),
    "frozen bias": lambda m: m.fc2.bias.requires_grad_(requires_grad=False),
    "constant init": lambda m: nn.init.zeros_(m.fc2.weight),
    "huge init": lambda m: nn.init.normal_(m.fc1.weight, std=3.0),
    "NaN in a weight": lambda m: m.conv3.weight.data.view(-1)[7].fill_(float("nan")),
    "tied layer": lambda m: setattr(m, "relu3", m.relu2),
    "order of activation and pooling": forward_of(pooled_first),
    "order of dropout": forward_of(lambda m, x: m.fc2(m.relu4(m.dropout(m.fc1(body(m, x)))))),
    "detached features": forward_of(lambda m, x: head(m, body(m, x).detach())),
    "skipped layer": forward_of(lambda m, x: m.fc2(m.dropout(m.fc1(body(m, x))))),
    "dropout in eval": forward_of(lambda m, x: m.fc2(F.dropout(m.relu4(m.fc1(body(m, x)))))),
    "softmax over the batch": forward_of(lambda m, x: head(m, body(m, x)).softmax(0)),
    "batch mean subtracted": forward_of(lambda m, x: head(m, body(m, x) - body(m, x).mean(0))),
    "view that mixes the batch": forward_of(lambda m, x: head(m, body(m, x).view(2048, -1).t())),
    "softmax twice": forward_of(lambda m, x: head(m, body(m, x)).softmax(1)),
    "noise": forward_of(lambda m, x: head(m, body(m, x)) + torch.randn(1) * 1e-3),
    "eval-only bug": forward_of(lambda m, x: head(m, body(m, x) if m.training else body(m, x).roll(1, 0))),
}


def assert_initialised_like_new(model, _images):
    for name, fresh in SimpleCNN(10).named_parameters():
        own = dict(model.named_parameters()).get(name)
        if own is not None and own.dim() > 1:
            ratio = float(own.detach().std() / fresh.detach().std())
            assert LIKE_NEW < ratio < 1 / LIKE_NEW, f"'{name}' has {ratio:.2f} times the spread of a new one"


CHECKS = {
    "parameters": lambda m, _: testing.assert_parameters(m, total=1_147_466, trainable=1_147_466),
    "architecture": lambda m, _: testing.assert_same_architecture(m, SimpleCNN(10)),
    "shapes": lambda m, x: testing.assert_shapes(
        m, x, {"conv*": ("N", None, None, None), "pool3": ("N", 128, "H/8", "W/8"), "": ("N", 10)}
    ),
    "finite": testing.assert_finite,
    "init": assert_initialised_like_new,
    "gradients": lambda m, x: testing.assert_gradients_reach(m, x, LABELS, loss_fn=LOSS),
    "eval": testing.assert_eval_is_stable,
    "batch": testing.assert_batch_independent,
    "operations": lambda m, x: testing.assert_equivalent(m, twin_of(m), x, level="operations"),
}


def twin_of(model):
    twin = SimpleCNN(10)
    twin.train(model.training)
    return twin


def caught_by(model):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = []
    for name, check in CHECKS.items():
        try:
            check(copy.deepcopy(model), images)
        except AssertionError:
            found.append(name)
    return found


def test_unedited_model_passes_every_assertion():
    assert [] == caught_by(SimpleCNN(10))


def test_there_are_enough_edits():
    assert len(EDITS) >= 25


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_single_edit_is_caught_by_an_assertion(edit):
    model = SimpleCNN(10)
    edit(model)
    assert [] != caught_by(model)
