"""What has no memory as a function of the batch says why, and a crash is explained."""

import time

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError
from tests.support.memory import Blocks, images


def test_model_that_cannot_be_trained_so_is_measured_in_inference():
    model = nn.Embedding(10, 4, sparse=True)
    found = cnnprobe.memory(model, torch.zeros(3, 7, dtype=torch.long))
    assert {"inference"} == {way.name for way in found.data.ways}
    assert (
        "training is left out: a pass with 256 samples raised RuntimeError" in found.data.notes[0]
    )
    own = cnnprobe.memory(model, torch.zeros(3, 7, dtype=torch.long), optimizer="sgd")
    assert 160 < own.at(1)
    number = nn.Linear(4, 2, dtype=torch.complex64)
    # 10 complex numbers as parameters and 2 an output
    found = cnnprobe.memory(number, torch.zeros(3, 4, dtype=torch.complex64))
    assert 80 + (4 + 2) * 8 * 5 == found.at(5, "inference")


class Asking(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum().item() > 0 else x


def test_refusals_say_what_and_what_to_do():
    x = torch.zeros(4, 3, 8, 8)
    with pytest.raises(TargetError, match="asks for the value of a tensor"):
        cnnprobe.memory(nn.Sequential(nn.Conv2d(3, 2, 1), Asking()), x)
    with pytest.raises(TargetError, match="a pass with 256 samples raised IndexError"):
        cnnprobe.memory(nn.Conv2d(3, 2, 1), x, loss_fn=lambda y: y[0, 0, 0, 99])
    with pytest.raises(TargetError, match="no tensor with a batch"):
        cnnprobe.memory(nn.Linear(5, 2))
    with pytest.raises(TargetError, match=r"'1' \(LazyLinear\) is lazy and"):
        cnnprobe.memory(OnlyFirst(nn.LazyConv2d(5, 1), nn.LazyLinear(5)), x)
    with pytest.raises(UnknownNameError, match="no optimizer named 'adm'"):
        cnnprobe.memory(Blocks(), x, optimizer="adm")
    with pytest.raises(UsageError, match="the optimizer is a int"):
        cnnprobe.memory(Blocks(), x, optimizer=3)
    with pytest.raises(UnknownNameError, match="no module named 'boddy'"):
        cnnprobe.memory(Blocks(), x, checkpoint="boddy")
    with pytest.raises(UsageError, match="'much' is not a size"):
        cnnprobe.memory(Blocks(), x, fits="much")
    found = cnnprobe.memory(Blocks(), x)
    with pytest.raises(ProbeError, match="no limit was given"):
        found.fits()
    with pytest.raises(UnknownNameError, match="trainig was not measured"):
        found.at(3, "trainig")


class OnlyFirst(nn.Sequential):
    def forward(self, x):
        return self[0](x)


def make_lazy(first=nn.LazyConv2d, norm=nn.LazyBatchNorm2d, last=nn.LazyLinear):
    return nn.Sequential(first(8, 3), norm(), nn.ReLU(), nn.Flatten(), last(10))


def test_memory_of_a_lazy_model_is_that_of_the_model_that_its_forward_makes():
    """Its parameters are, by hand, 3 * 8 * 9 + 8, 2 * 8 and 8 * 14 * 14 * 10 + 10 numbers."""
    made = make_lazy(
        lambda *args: nn.Conv2d(3, *args),
        lambda: nn.BatchNorm2d(8),
        lambda features: nn.Linear(8 * 14 * 14, features),
    )
    found = cnnprobe.memory(make_lazy(), torch.empty(4, 3, 16, 16)).data
    assert 4 * (3 * 8 * 9 + 8 + 2 * 8 + 8 * 14 * 14 * 10 + 10) == found.parameters
    expected = cnnprobe.memory(made, torch.empty(4, 3, 16, 16)).data
    assert (expected.ways, expected.state) == (found.ways, found.state)
    assert "the model is lazy" in found.notes[0]


def test_memory_leaves_a_lazy_model_and_the_random_generator_as_they_were():
    model, before = make_lazy(), torch.get_rng_state()
    names = [type(module).__name__ for module in model]
    cnnprobe.memory(model, torch.empty(4, 3, 16, 16))
    assert names == [type(module).__name__ for module in model]
    assert all(len(module._forward_pre_hooks) for module in (model[0], model[1], model[4]))
    assert torch.equal(before, torch.get_rng_state())


def test_crash_of_a_lazy_model_is_explained_as_any_other():
    model = nn.Sequential(nn.LazyLinear(3), nn.Linear(4, 2))
    with pytest.raises(TargetError) as caught:
        cnnprobe.memory(model, torch.empty(4, 6))
    assert "'1' (Linear) should have in_features 3, not 4" in caught.value.what
    assert caught.value.where == "memory(Sequential), module '1'"


def test_memory_is_linear_in_the_number_of_outputs():
    def run(count):
        model = nn.Sequential(nn.Linear(4, 4), Unbound(count))
        start = time.process_time()
        cnnprobe.memory(model, torch.empty(2, 4), loss_fn=lambda y: y[0].mean())
        return time.process_time() - start

    run(10)
    assert run(4000) < 4 * 2.5 * run(1000)  # the exponent is below 1.66


class Unbound(nn.Module):
    def __init__(self, count):
        super().__init__()
        self.count = count

    def forward(self, x):
        return [x, *torch.zeros(self.count).unbind()]


def test_crash_is_explained_as_any_other():
    """The message is that of `probe`, with the input as it was given."""
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(12, 2), nn.Linear(3, 1)), torch.zeros(4, 3, 4)
    with pytest.raises(TargetError) as caught:
        cnnprobe.memory(model, x)
    explanation = cnnprobe.probe(model, x).explanation
    assert "in_features" in explanation.message
    assert f"the forward raises: {explanation.message}" == caught.value.what
    assert "memory(Sequential), module '2'" == caught.value.where
    assert explanation.repairs[0].title == caught.value.fix


class Fixed(nn.Module):
    """Accepts one batch alone."""

    def forward(self, x):
        return x.reshape(4, -1).sum() * x.reshape(4, 3, -1)


def test_batch_that_cannot_vary_is_named():
    with pytest.raises(TargetError) as caught:
        cnnprobe.memory(nn.Sequential(nn.Conv2d(3, 3, 1), Fixed(), nn.Linear(64, 2)), images())
    assert "the forward accepts the batch of 4 that it is given, but not one of 256" in str(
        caught.value
    )
    assert "Linear" in caught.value.what and "module '2'" in caught.value.where


class Curvature(nn.Module):
    """Takes a Hessian in its forward, which torch cannot without data."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        hessian = torch.func.hessian(lambda row: self.fc(row).tanh().sum())
        return torch.func.vmap(hessian)(x)


def test_what_torch_cannot_run_without_data_is_said_so():
    x = torch.zeros(3, 4)
    found = cnnprobe.memory(Curvature(), x)
    said = "training is left out: "  # and what torch said, which is another sentence in torch 2.6
    # or a later torch can
    assert found.find_way("inference") and (len(found.data.ways) > 2 or said in found.data.notes[0])
