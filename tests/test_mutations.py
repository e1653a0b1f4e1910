"""Single edits of SimpleCNN, each caught by the assertion that is for it, and the unedited model by
none.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe import testing
from reference_models import SimpleCNN

LABELS = torch.tensor([0, 1, 2, 3])
LOSS = nn.CrossEntropyLoss()
OWN = torch.Generator()
MACS = 4 * (
    1024 * 32 * 27 + 256 * 64 * 288 + 64 * 128 * 576 + 2048 * 512 + 512 * 10
)  # by hand, for four images


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
    "fewer channels": (
        "shapes",
        lambda m: (
            replaced("conv3", nn.Conv2d(64, 96, 3, padding=1))(m),
            replaced("fc1", nn.Linear(96 * 16, 512))(m),
        ),
    ),
    "more channels": (
        "memory",
        lambda m: (
            replaced("conv1", nn.Conv2d(3, 48, 3, padding=1))(m),
            replaced("conv2", nn.Conv2d(48, 64, 3, padding=1))(m),
        ),
    ),
    "larger kernel": ("macs", replaced("conv2", nn.Conv2d(32, 64, 5, padding=2))),
    "smaller kernel": ("parameters", replaced("conv2", nn.Conv2d(32, 64, 1))),
    "no padding": (
        "shapes",
        lambda m: (
            replaced("conv3", nn.Conv2d(64, 128, 3))(m),
            replaced("fc1", nn.Linear(128 * 9, 512))(m),
        ),
    ),
    "other padding mode": (
        "architecture",
        replaced("conv1", nn.Conv2d(3, 32, 3, padding=1, padding_mode="reflect")),
    ),
    "stride for pooling": (
        "macs",
        lambda m: (
            replaced("conv1", nn.Conv2d(3, 32, 3, stride=2, padding=1))(m),
            replaced("pool1", nn.Identity())(m),
        ),
    ),
    "grouped convolution": (
        "parameters",
        replaced("conv2", nn.Conv2d(32, 64, 3, padding=1, groups=2)),
    ),
    "dilated convolution": (
        "architecture",
        replaced("conv2", nn.Conv2d(32, 64, 3, padding=2, dilation=2)),
    ),
    "other dropout": ("architecture", replaced("dropout", nn.Dropout(0.4))),
    "no dropout": ("operations", replaced("dropout", nn.Identity())),
    "other activation": ("operations", replaced("relu2", nn.LeakyReLU())),
    "in-place activation": ("architecture", replaced("relu1", nn.ReLU(inplace=True))),
    "no activation": ("healthy", replaced("relu4", nn.Identity())),
    "average pooling": ("operations", replaced("pool2", nn.AvgPool2d(2, 2))),
    "pooling of another stride": (
        "memory",
        lambda m: (
            replaced("pool3", nn.MaxPool2d(2, 1))(m),
            replaced("fc1", nn.Linear(128 * 49, 512))(m),
        ),
    ),
    "no bias": ("parameters", replaced("conv2", nn.Conv2d(32, 64, 3, padding=1, bias=False))),
    "one class more": ("shapes", replaced("fc2", nn.Linear(512, 11))),
    "batch norm for dropout": ("operations", replaced("dropout", nn.BatchNorm1d(512))),
    "frozen layer": ("parameters", lambda m: m.conv1.requires_grad_(requires_grad=False)),
    "frozen bias": ("architecture", lambda m: m.fc2.bias.requires_grad_(requires_grad=False)),
    "constant init": ("gradients", lambda m: nn.init.zeros_(m.fc2.weight)),
    "huge init": ("healthy", lambda m: nn.init.normal_(m.fc1.weight, std=3.0)),
    "NaN in a weight": ("finite", lambda m: m.conv3.weight.data.view(-1)[7].fill_(float("nan"))),
    "tied layer": ("architecture", lambda m: setattr(m, "relu3", m.relu2)),
    "order of activation and pooling": ("operations", forward_of(pooled_first)),
    "order of dropout": (
        "operations",
        forward_of(lambda m, x: m.fc2(m.relu4(m.dropout(m.fc1(body(m, x)))))),
    ),
    "detached features": ("change", forward_of(lambda m, x: head(m, body(m, x).detach()))),
    "skipped layer": ("operations", forward_of(lambda m, x: m.fc2(m.dropout(m.fc1(body(m, x)))))),
    "dropout in eval": (
        "eval",
        forward_of(lambda m, x: m.fc2(F.dropout(m.relu4(m.fc1(body(m, x)))))),
    ),
    "softmax over the batch": ("batch", forward_of(lambda m, x: head(m, body(m, x)).softmax(0))),
    "batch mean subtracted": (
        "batch",
        forward_of(lambda m, x: head(m, body(m, x) - body(m, x).mean(0))),
    ),
    "view that mixes the batch": (
        "batch",
        forward_of(lambda m, x: head(m, body(m, x).view(2048, -1).t())),
    ),
    "softmax twice": ("healthy", forward_of(lambda m, x: head(m, body(m, x)).softmax(1))),
    "noise": ("eval", forward_of(lambda m, x: head(m, body(m, x)) + torch.randn(1) * 1e-3)),
    "generator of its own": (
        "deterministic",
        forward_of(lambda m, x: head(m, body(m, x)) + torch.rand(1, generator=OWN)),
    ),
    "activation lost in eval": (
        "operations",
        forward_of(lambda m, x: head(m, body(m, x)) if m.training else m.fc2(m.fc1(body(m, x)))),
    ),
    "eval-only bug": (
        "operations",
        forward_of(lambda m, x: head(m, body(m, x) if m.training else body(m, x).roll(1, 0))),
    ),
}


CHECKS = {
    "parameters": lambda m, _: testing.assert_parameters(m, total=1_147_466, trainable=1_147_466),
    "architecture": lambda m, _: testing.assert_same_architecture(m, SimpleCNN(10)),
    "shapes": lambda m, x: testing.assert_shapes(
        m, x, {"conv*": ("N", None, None, None), "pool3": ("N", 128, "H/8", "W/8"), "": ("N", 10)}
    ),
    "macs": lambda m, x: testing.assert_macs(m, x, total=MACS),
    "memory": lambda m, x: testing.assert_memory(m, x, at_most="7 MiB"),
    "finite": lambda m, x: testing.assert_finite(m, x, LABELS, loss_fn=LOSS),
    "gradients": lambda m, x: testing.assert_gradients_reach(m, x, LABELS, loss_fn=LOSS),
    "change": lambda m, x: testing.assert_parameters_change(
        m,
        x,
        LABELS,
        loss_fn=LOSS,
        optimizer=torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.1),
    ),
    "deterministic": testing.assert_deterministic,
    "eval": testing.assert_eval_is_stable,
    "batch": testing.assert_batch_independent,
    "healthy": lambda m, x: testing.assert_healthy(m, x, LABELS, loss_fn=LOSS),
    "operations": lambda m, x: testing.assert_equivalent(m, twin_of(m), x, level="operations"),
}


def twin_of(model):
    twin = SimpleCNN(10)
    twin.train(model.training)
    return twin


def is_caught(check, model):
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    try:
        CHECKS[check](model, images)
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("check", CHECKS)
def test_unedited_model_passes_every_assertion(check):
    assert not is_caught(check, SimpleCNN(10))


def test_there_are_enough_edits_and_every_assertion_catches_one():
    assert len(EDITS) >= 25
    assert set(CHECKS) == {check for check, _ in EDITS.values()}


@pytest.mark.parametrize(("check", "edit"), EDITS.values(), ids=EDITS)
def test_single_edit_is_caught_by_the_assertion_for_it(check, edit):
    model = SimpleCNN(10)
    edit(model)
    assert is_caught(check, model)
