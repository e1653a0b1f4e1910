"""Initialisations that leave weights as they are, and statements that call nothing."""

import torch
from torch import nn

import cnnprobe


def find(model, name, **given):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    report = cnnprobe.diagnose(
        model, torch.randn(8, 6), torch.arange(8) % 3, loss_fn=nn.CrossEntropyLoss(),
        optimizer=optimizer, trials=0, steps=2, **given,
    )  # fmt: skip
    return [f for f in report.findings if f.rule == name]


def make_net():
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3))


def draw(m):
    if isinstance(m, nn.Linear):
        nn.init.xavier_uniform_(m.weight)


def draw_aside(m):
    if isinstance(m, nn.Linear):
        weight = m.weight.detach().clone()
        return weight.normal_(0, 0.1)
    return None


def draw_biases_only(m):
    if isinstance(m, nn.Linear):
        m.weight.data.clone().normal_(0, 0.1)
        m.bias.data.fill_(0.01)


def draw_convolutions(m):
    if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.kaiming_normal_(m.weight)


def draw_norms(m):
    if isinstance(m, nn.LayerNorm):
        nn.init.normal_(m.weight, 1.0, 0.02)


def fill(m):
    if isinstance(m, nn.Conv2d):
        nn.init.zeros_(m.bias)


class Aside(nn.Sequential):
    def __init__(self):
        super().__init__(*make_net())
        self.apply(draw_aside)


class Biases(nn.Sequential):
    def __init__(self):
        super().__init__(*make_net())
        self.apply(draw_biases_only)


class Others(nn.Sequential):
    def __init__(self):
        super().__init__(*make_net())
        self.apply(draw_convolutions)


class Right(nn.Sequential):
    def __init__(self):
        super().__init__(*make_net())
        self.apply(draw)
        self.apply(draw_norms)
        self.apply(fill)


def test_function_that_draws_into_copies_is_found():
    (finding,) = find(Aside(), "init-ineffective")
    assert finding.kind == "init-of-copies"
    assert "what draw_aside draws goes to copies" in finding.message


def test_function_that_writes_biases_alone_is_found():
    assert find(Biases(), "init-ineffective")


def test_function_for_other_layers_is_found():
    (finding,) = find(Others(), "init-ineffective")
    assert "asks for Conv2d, ConvTranspose2d" in finding.message


def test_functions_that_do_what_they_say_are_no_finding():
    assert not find(Right(), "init-ineffective")


def test_weights_and_generators_are_as_before():
    model = Right()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = torch.get_rng_state()
    inputs, targets = torch.ones(8, 6), torch.arange(8) % 3
    cnnprobe.diagnose(
        model, inputs, targets, loss_fn=nn.CrossEntropyLoss(), steps=2, trials=0,
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), expected)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = make_net()
        self.start

    def start(self):
        self.body.apply(draw)

    @property
    def size(self):
        return 3

    def forward(self, x):
        self.size
        return self.body(x)


def test_method_that_is_named_and_not_called_is_found():
    found = find(Named(), "function-uncalled")
    assert [f.fix for f in found] == ["self.start()"]
