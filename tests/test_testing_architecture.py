"""The assertion that two models have the same architecture."""

import pytest
import torch
from torch import nn

from cnnprobe import testing
from cnnprobe.errors import UsageError
from tests.support.asserted import message_of
from tests.support.models import Small


def test_same_architecture_ignores_values_and_sees_configuration():
    testing.assert_same_architecture(Small(), Small())
    other = Small()
    other.pool = nn.AvgPool2d(2)
    text = message_of(testing.assert_same_architecture, other, Small())
    assert "-pool  MaxPool2d" in text
    assert "+pool  AvgPool2d" in text
    testing.assert_same_architecture(other, Small(), ignore=["pool"])


def test_same_architecture_sees_through_wrappers_and_renaming():
    testing.assert_same_architecture(nn.DataParallel(Small()), Small())
    testing.assert_same_architecture(torch.compile(Small(), backend="eager"), Small())
    first, second = nn.ModuleDict({"a": nn.Linear(2, 2)}), nn.ModuleDict({"b": nn.Linear(2, 2)})
    testing.assert_same_architecture(first, second, rename={"a": "b"})


def test_same_architecture_sees_sharing():
    shared = nn.Linear(2, 2)
    text = message_of(
        testing.assert_same_architecture,
        nn.Sequential(shared, shared),
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
    )
    assert "+1  the same module as 0" in text


class Own(nn.Module):
    """A module with parameters of its own, which no constructor tells."""

    def __init__(self, rows=2, columns=6, heads=2):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, columns))
        self.register_buffer("mask", torch.ones(rows))
        self.attention = nn.MultiheadAttention(4, heads)
        self.slope = 0.1


def test_architecture_tells_parameters_that_no_constructor_tells():
    lines = testing.architecture_text(Own()).splitlines()
    assert "(model)  Own(slope=0.1)  12 weight (2, 6) buffer mask (2,)" == lines[0]
    assert "num_heads=2" in lines[1]


@pytest.mark.parametrize("other", [Own(3, 4), Own(heads=1)], ids=["shape", "heads"])
def test_same_architecture_sees_what_parameter_counts_do_not(other):
    assert "the architectures differ in 2 lines" in message_of(
        testing.assert_same_architecture, nn.Sequential(other), nn.Sequential(Own())
    )


def test_architecture_tells_frozen_halved_and_tied_parameters():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2).half(), nn.Linear(2, 2))
    model[0].requires_grad_(requires_grad=False)
    model[1].bias.requires_grad_(requires_grad=False)
    model[3].weight = model[1].weight
    ends = [
        line.rpartition(")  ")[2]
        for line in testing.architecture_text(model).replace("(2 frozen)", "2 frozen").splitlines()
    ]
    assert ["0", "6 frozen", "6 2 frozen", "6 float16", "2 weight = 1.weight"] == ends


def test_wrappers_inside_a_model_and_a_child_called_module_are_told_apart():
    model = nn.Sequential(torch.compile(nn.ReLU(), backend="eager"))
    assert testing.architecture_text(model) == testing.architecture_text(nn.Sequential(nn.ReLU()))
    named = nn.ModuleDict({"module": nn.ReLU(), "conv": nn.ReLU()})
    assert ["(model)", "module", "conv"] == [
        line.split("  ")[0] for line in testing.architecture_text(named).splitlines()
    ]


def test_renaming_of_what_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="no module named 'convolution' to rename"):
        testing.assert_same_architecture(Small(), Small(), rename={"convolution": "conv"})
