"""Pairs of models written differently that are the same, and copies of one model with one fault
each.
"""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from tests.support.twins import CNNModel, ConvLayer, FunctionalCNN, SimpleCNN


class Net(nn.Module):
    """Any forward over any layers: `Net(lambda m, x: m.a(x), a=nn.ReLU())`."""

    def __init__(self, run, **layers):
        super().__init__()
        self._run = run
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self._run(self, x)


def conv(i=3, o=4, **config):
    return nn.Conv2d(i, o, **{"kernel_size": 3, "padding": 1, **config})


def plain(*layers):
    return nn.Sequential(*layers)


def small():
    """conv, bn, relu, pool, flatten, linear on 3 x 8 x 8."""
    return plain(
        conv(), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 5)
    )


def parts(*order):
    """The layers of `small` by name."""
    layers = dict(zip(("c", "b", "r", "p", "f", "l"), small(), strict=True))
    return {name: layers[name] for name in order or layers}


def bare_norm(m, x):
    return F.batch_norm(
        x,
        m.b.running_mean,
        m.b.running_var,
        m.b.weight,
        m.b.bias,
        m.training,
        m.b.momentum,
        m.b.eps,
    )


def residual(m, x):
    return F.relu(m.b2(m.c2(F.relu(m.b1(m.c1(x))))) + x)


class Residual(nn.Module):
    def __init__(self, late=False, swapped=False, source="x"):
        super().__init__()
        self.c1, self.b1 = conv(3, 4, stride=2), nn.BatchNorm2d(4)
        self.c2, self.b2 = conv(4, 4), nn.BatchNorm2d(4)
        self.cd, self.bd = conv(3, 4, kernel_size=1, padding=0, stride=2), nn.BatchNorm2d(4)
        self.late, self.swapped = late, swapped

    def forward(self, x):
        if not self.late:
            shortcut = self.bd(self.cd(x))
        y = self.b2(self.c2(torch.relu(self.b1(self.c1(x)))))
        if self.late:
            shortcut = self.bd(self.cd(x))
        return torch.relu(shortcut + y if self.swapped else y + shortcut)


def shared(count):
    layer = conv(3, 3)
    return plain(*[layer] * count)


def chain(m, x, *names):
    for name in names:
        x = getattr(m, name)(x)
    return x


EIGHT, THIRTY_TWO = (2, 3, 8, 8), (2, 3, 32, 32)

# name: (actual, expected, input shape). All must be equivalent at every level once the weights are
# transferred.
SAME = {
    "renested": (CNNModel, SimpleCNN, THIRTY_TWO),
    "renested the other way round": (SimpleCNN, CNNModel, THIRTY_TWO),
    "functions for layers": (FunctionalCNN, SimpleCNN, THIRTY_TWO),
    "layers for functions": (CNNModel, FunctionalCNN, THIRTY_TWO),
    "renamed": (lambda: Net(lambda m, x: chain(m, x, *"cbrpfl"), **parts()), small, EIGHT),
    "registered in another order": (lambda: Net(lambda m, x: chain(m, x, *"cbrpfl"), **parts(*"lfprbc")), small, EIGHT),
    "nested in a Sequential of one": (lambda: plain(plain(small())), small, EIGHT),
    "split in two Sequentials": (lambda: plain(plain(*small()[:3]), plain(*small()[3:])), small, EIGHT),
    "in a ModuleDict": (lambda: Net(lambda m, x: _through(m.d.values(), x), d=nn.ModuleDict(parts())), small, EIGHT),
    "in a ModuleList": (lambda: Net(lambda m, x: _through(m.d, x), d=nn.ModuleList(small())), small, EIGHT),
    "F.relu for nn.ReLU": (lambda: Net(lambda m, x: m.l(m.f(m.p(F.relu(m.b(m.c(x)))))), **parts(*"cbpfl")), small, EIGHT),
    "in-place relu method": (lambda: Net(lambda m, x: m.l(m.f(m.p(m.b(m.c(x)).relu_()))), **parts(*"cbpfl")), small, EIGHT),
    "torch.flatten for nn.Flatten": (lambda: Net(lambda m, x: m.l(torch.flatten(m.p(m.r(m.b(m.c(x)))), 1)), **parts(*"cbrpl")), small, EIGHT),
    "view for nn.Flatten": (lambda: Net(lambda m, x: m.l(m.p(m.r(m.b(m.c(x)))).view(x.size(0), -1)), **parts(*"cbrpl")), small, EIGHT),
    "reshape for nn.Flatten": (lambda: Net(lambda m, x: m.l(m.p(m.r(m.b(m.c(x)))).reshape((len(x), 64))), **parts(*"cbrpl")), small, EIGHT),
    "x.flatten for nn.Flatten": (lambda: Net(lambda m, x: m.l(m.p(m.r(m.b(m.c(x)))).flatten(start_dim=1)), **parts(*"cbrpl")), small, EIGHT),
    "F.max_pool2d for nn.MaxPool2d": (lambda: Net(lambda m, x: m.l(m.f(F.max_pool2d(m.r(m.b(m.c(x))), (2, 2)))), **parts(*"cbrfl")), small, EIGHT),
    "F.batch_norm for nn.BatchNorm2d": (lambda: Net(lambda m, x: m.l(m.f(m.p(m.r(bare_norm(m, m.c(x)))))), **parts()), small, EIGHT),
    "F.dropout for nn.Dropout": (lambda: Net(lambda m, x: F.dropout(m.c(x), 0.3, m.training), c=conv()), lambda: plain(conv(), nn.Dropout(0.3)), EIGHT),
    "padding same": (lambda: plain(conv(padding="same")), lambda: plain(conv()), EIGHT),
    "sizes as tuples": (lambda: plain(conv(kernel_size=(3, 3), padding=(1, 1)), nn.MaxPool2d((2, 2), (2, 2))), lambda: plain(conv(), nn.MaxPool2d(2)), EIGHT),
    "one relu for all": (
        lambda: Net(lambda m, x: m.r(m.c2(m.r(m.c1(x)))), c1=conv(), c2=conv(4, 4), r=nn.ReLU()),
        lambda: plain(conv(), nn.ReLU(), conv(4, 4), nn.ReLU()),
        EIGHT,
    ),
    "shared layer": (lambda: shared(3), lambda: Net(lambda m, x: m.c(m.c(m.c(x))), c=conv(3, 3)), EIGHT),
    "tied parameters": (lambda: Net(_tied, c=conv(3, 3)), lambda: shared(2), EIGHT),
    "residual": (
        lambda: Net(residual, c1=conv(3, 3), b1=nn.BatchNorm2d(3), c2=conv(3, 3), b2=nn.BatchNorm2d(3)),
        lambda: Net(lambda m, x: residual(m.body, x), body=Net(None, c1=conv(3, 3), b1=nn.BatchNorm2d(3), c2=conv(3, 3), b2=nn.BatchNorm2d(3))),
        EIGHT,
    ),
    "torch.add for +": (lambda: Net(lambda m, x: torch.add(m.c(x), x), c=conv(3, 3)), lambda: Net(lambda m, x: m.c(x) + x, c=conv(3, 3)), EIGHT),
    "in-place +=": (lambda: Net(_added_in_place, c=conv(3, 3)), lambda: Net(lambda m, x: m.c(x) + x, c=conv(3, 3)), EIGHT),
    "torch.cat by keyword": (
        lambda: Net(lambda m, x: torch.cat((m.c(x), x), dim=1), c=conv()),
        lambda: Net(lambda m, x: torch.cat([m.c(x), x], 1), c=conv()),
        EIGHT,
    ),
    "an Identity more": (lambda: plain(conv(), nn.Identity(), nn.ReLU()), lambda: plain(conv(), nn.ReLU()), EIGHT),
    "a contiguous more": (lambda: Net(lambda m, x: m.c(x.contiguous()), c=conv()), lambda: plain(conv()), EIGHT),
    "an empty Sequential": (lambda: plain(conv(), plain(), nn.ReLU()), lambda: plain(conv(), nn.ReLU()), EIGHT),
    "Dropout of 0": (lambda: plain(conv(), nn.Dropout(0.0)), lambda: plain(conv()), EIGHT),
    "leaky relu": (lambda: Net(lambda m, x: F.leaky_relu(m.c(x), 0.2), c=conv()), lambda: plain(conv(), nn.LeakyReLU(0.2)), EIGHT),
    "softmax of the last dimension": (lambda: plain(nn.Softmax(dim=-1)), lambda: Net(lambda m, x: F.softmax(x, 3)), EIGHT),
    "global mean": (lambda: Net(lambda m, x: x.mean((2, 3), keepdim=True)), lambda: plain(nn.AdaptiveAvgPool2d(1)), EIGHT),
    "depthwise": (lambda: Net(lambda m, x: F.conv2d(x, m.c.weight, m.c.bias, padding=1, groups=3), c=conv(3, 3, groups=3)), lambda: conv(3, 3, groups=3), EIGHT),
    "layer, group and instance of norm": (
        lambda: Net(lambda m, x: F.group_norm(x, 3, m.g.weight, m.g.bias), g=nn.GroupNorm(3, 3)),
        lambda: plain(nn.GroupNorm(3, 3)),
        EIGHT,
    ),
    "transposed convolution": (
        lambda: Net(lambda m, x: F.conv_transpose2d(x, m.t.weight, m.t.bias, stride=2), t=nn.ConvTranspose2d(3, 4, 2, stride=2)),
        lambda: plain(nn.ConvTranspose2d(3, 4, 2, stride=2)),
        EIGHT,
    ),
    "interpolate": (lambda: Net(lambda m, x: F.interpolate(x, scale_factor=2)), lambda: plain(nn.Upsample(scale_factor=2)), EIGHT),
}  # fmt: skip

# Branches that ran in another order: the numbers and the flow are the same, the autograd graph's
# first input may not be.
REORDERED = {
    "shortcut computed last": (lambda: Residual(late=True), Residual, EIGHT),
    "sum the other way round": (lambda: Residual(swapped=True), Residual, EIGHT),
}


def _through(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def _tied(m, x):
    return F.conv2d(m.c(x), m.c.weight, m.c.bias, padding=1)


def _added_in_place(m, x):
    y = m.c(x)
    y += x
    return y


def faulty(change):
    """SimpleCNN with one fault, and its weights as far as they fit."""

    def make():
        model = SimpleCNN()
        return change(model) or model

    return make


def _set(name, layer):
    return lambda model: setattr(model, name, layer())


class ReluAfterPool(SimpleCNN):
    def forward(self, x):
        x = self.relu1(self.pool1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        return self.fc2(self.dropout(self.relu4(self.fc1(self.flatten(x)))))


class DropoutBeforeRelu(SimpleCNN):
    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        return self.fc2(self.relu4(self.dropout(self.fc1(self.flatten(x)))))


class OnePoolFewer(SimpleCNN):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(128 * 8 * 8, 512)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        x = self.relu3(self.conv3(x))
        return self.fc2(self.dropout(self.relu4(self.fc1(self.flatten(x)))))


class PaddingZero(SimpleCNN):
    def __init__(self):
        super().__init__()
        self.conv2 = nn.Conv2d(32, 64, 3, padding=0)
        self.fc1 = nn.Linear(128 * 3 * 3, 512)


# name: (model, levels that must fail at least, levels that must hold, place of the first difference
# in SimpleCNN, word in its message)
WRONG = {
    "padding 0": (PaddingZero, {"hyperparameters", "shapes", "parameters"}, {"operations"}, "'conv2' (Conv2d)", "padding 0 instead of 1"),
    "other dropout": (faulty(_set("dropout", lambda: nn.Dropout(0.2))), {"hyperparameters", "train_numbers"},
                      {"operations", "shapes", "parameters", "state_dict", "numbers"}, "'dropout' (Dropout)", "p 0.2 instead of 0.5"),
    "dropout before relu": (DropoutBeforeRelu, {"operations"}, {"shapes", "parameters", "hyperparameters", "state_dict", "numbers"}, "'dropout' (Dropout)", "comes after"),
    "relu after pooling": (ReluAfterPool, {"operations"}, {"parameters", "hyperparameters", "state_dict", "numbers", "train_numbers"}, "'relu1' (ReLU)", "comes after"),
    "one pooling fewer": (OnePoolFewer, {"operations", "shapes", "parameters"}, set(), "'pool3' (MaxPool2d)", "is missing"),
    "no bias": (faulty(_set("conv2", lambda: nn.Conv2d(32, 64, 3, padding=1, bias=False))), {"parameters", "hyperparameters", "state_dict", "numbers"},
                {"operations", "shapes"}, "'conv2' (Conv2d)", "bias False instead of True"),
    "AvgPool for MaxPool": (faulty(_set("pool2", lambda: nn.AvgPool2d(2, 2))), {"operations", "numbers"},
                            {"shapes", "parameters", "hyperparameters", "state_dict"}, "'pool2' (MaxPool2d)", "AvgPool2d in place of MaxPool2d"),
    "other classes": (lambda: SimpleCNN(7), {"parameters", "hyperparameters", "shapes"}, {"operations"}, "'fc2' (Linear)", "outputs (2, 7)"),
    "wider kernel": (faulty(_set("conv3", lambda: nn.Conv2d(64, 128, 5, padding=2))), {"hyperparameters", "parameters"}, {"operations", "shapes"},
                     "'conv3' (Conv2d)", "kernel_size 5 instead of 3"),
    "sigmoid for relu": (faulty(_set("relu3", nn.Sigmoid)), {"operations", "numbers"}, {"shapes", "parameters", "state_dict"}, "'relu3' (ReLU)", "Sigmoid in place of ReLU"),
    "no dropout": (faulty(_set("dropout", nn.Identity)), {"operations", "train_numbers"}, {"numbers", "state_dict", "parameters"}, "'dropout' (Dropout)", "is missing"),
    "no relu": (faulty(_set("relu2", nn.Identity)), {"operations", "numbers"}, {"shapes", "state_dict"}, "'relu2' (ReLU)", "is missing"),
}  # fmt: skip


def give_weights(actual, expected, comparison):
    """As far as they fit."""
    theirs = expected.state_dict()
    fitting = {
        name: theirs[other]
        for name, other in comparison.mapping.items()
        if name in actual.state_dict() and theirs[other].shape == actual.state_dict()[name].shape
    }
    actual.load_state_dict(
        {name: copy.deepcopy(value) for name, value in fitting.items()}, strict=False
    )


__all__ = ["REORDERED", "SAME", "WRONG", "ConvLayer", "Net", "give_weights"]
