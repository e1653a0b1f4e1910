"""A comparison as a user holds it: of reports and recordings, by level, as text and JSON, and of
torchvision's models.
"""

import copy
import json
import math
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe import compare
from cnnprobe.comparison import Tolerance, numbers, passes
from cnnprobe.errors import TargetError, UnknownNameError
from cnnprobe.records import reading, schema
from cnnprobe.records.differences import Outcome
from cnnprobe.testing import assert_equivalent
from tests.support.compared import noise, state_of
from tests.support.pairs import WRONG, Net, plain, small
from tests.support.twins import CNNModelAsWritten, SimpleCNN, pictures
from tests.support.written_out import resnet18_by_functions


def test_model_against_its_saved_report(tmp_path):
    model, x = small().eval(), noise(2, 3, 8, 8)
    cnnprobe.probe(model, x).save(tmp_path / "before.json")
    assert compare(model, tmp_path / "before.json", x).equivalent
    with torch.no_grad():
        model[0].weight[:] = 0
    found = compare(model, tmp_path / "before.json", x)
    assert found.levels["operations"] and not found.levels["numbers"]
    assert ("'0' (Conv2d)", True) == (
        found.differences[0].actual,
        found.differences[0].inputs_equal,
    )
    assert "mean" in found.differences[0].message


def test_two_recordings_are_compared_without_running_anything():
    model, x = small(), noise(2, 3, 8, 8)
    with cnnprobe.record(model) as first:
        model(x)
    with cnnprobe.record(model) as second:
        model(x + 1)
    assert compare(first, first).levels["numbers"]
    assert not compare(second, first).levels["numbers"]


def test_level_goes_no_further_than_it_needs():
    ran = []
    actual = Net(lambda m, x: (ran.append(m.a.weight.device.type), m.a(x))[1], a=nn.Linear(2, 2))
    found = compare(actual, nn.Linear(2, 2), noise(1, 2), level="shapes")
    assert {"meta"} == set(ran)
    assert {"operations": True, "shapes": True, "parameters": True, "hyperparameters": True} == {
        k: v for k, v in found.levels.items() if v is not None
    }


def test_assert_equivalent_at_a_level_and_its_text():
    actual, expected = SimpleCNN(), SimpleCNN()
    assert_equivalent(actual, expected, pictures(), level="parameters")
    with pytest.raises(AssertionError) as raised:
        assert_equivalent(actual, expected, pictures(), level="numbers")
    assert str(compare(actual, expected, pictures(), level="numbers")) == str(raised.value)


def test_unknown_level_and_no_model_are_said():
    with pytest.raises(UnknownNameError, match="did you mean 'numbers'"):
        compare(nn.ReLU(), nn.ReLU(), noise(1), level="number")
    with pytest.raises(TargetError, match="pass an instance"):
        compare(nn.ReLU, nn.ReLU(), noise(1))
    with pytest.raises(TargetError, match="call it once"):
        compare(nn.LazyLinear(2), nn.Linear(2, 2), noise(1, 2))


def test_both_forwards_raising_is_a_failure_of_both():
    found = compare(nn.Linear(3, 2), nn.Linear(3, 2), noise(1, 2))
    assert not found.equivalent
    assert ["actual", "expected"] == [
        d.message.split("of the ")[1].split()[0]
        for d in found.differences
        if "raised RuntimeError" in d.message
    ]


def test_train_mode_that_both_refuse_is_not_compared_and_said():
    model = plain(
        nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3)
    )  # torch refuses one value a channel in train mode
    found = compare(model, copy.deepcopy(model), noise(1, 3, 8, 8))
    assert found.levels["train_numbers"] is None and found.levels["numbers"]
    assert any("both models raise" in note for note in found.outcome.notes)


@pytest.mark.parametrize("width", [80, 120])
def test_text_fits_the_width(width):
    text = compare(CNNModelAsWritten(), SimpleCNN(), pictures()).to("text", width=width)
    assert max(map(len, text.splitlines())) <= width


def test_json_holds_all_of_it_and_reads_back():
    found = compare(CNNModelAsWritten(), SimpleCNN(), pictures())
    data = json.loads(found.to("json"))
    assert data["levels"]["parameters"] is True and data["equivalent"] is False
    assert found.outcome == reading.read_plain(Outcome, schema.to_plain(found.outcome))


@pytest.mark.slow
def test_torchvision_resnet18_and_its_functional_rewrite_are_the_same():
    torchvision = pytest.importorskip("torchvision")
    expected = torchvision.models.resnet18(num_classes=10)
    actual = resnet18_by_functions(copy.deepcopy(expected))
    found = compare(actual, expected, noise(2, 3, 64, 64))
    assert not [level for level, holds in found.levels.items() if holds is False], str(found)
    assert 69 == sum(1 for pair in found.outcome.pairs if None not in (pair.actual, pair.expected))
    assert "fc.weight" in set(found.mapping.values())


@pytest.mark.slow
def test_torchvision_resnet18_with_two_blocks_swapped_is_told_apart():
    torchvision = pytest.importorskip("torchvision")
    expected = torchvision.models.resnet18(num_classes=10)
    actual = copy.deepcopy(expected)
    actual.layer1[0], actual.layer1[1] = actual.layer1[1], actual.layer1[0]
    found = compare(actual, expected, noise(2, 3, 64, 64))
    assert (
        found.levels["operations"]
        and found.levels["shapes"]
        and found.levels["parameters"]
        and found.levels["autograd"]
    )
    assert not found.levels["state_dict"] and not found.levels["numbers"]
    first = found.differences[0]
    assert (
        "'layer1.0.conv1' (Conv2d)" == first.actual and "'layer1.1.conv1.weight'" in first.message
    )
    here = next(d for d in found.differences if d.level == "numbers")
    assert ("'layer1.0.conv1' (Conv2d)", True) == (here.actual, here.inputs_equal)


@pytest.mark.slow
def test_bfloat16_resnet18_agrees_within_its_rounding():
    torchvision = pytest.importorskip("torchvision")
    model = torchvision.models.resnet18(num_classes=10).eval()
    assert compare(
        copy.deepcopy(model).bfloat16(), model, noise(2, 3, 64, 64), level="numbers"
    ).levels["numbers"]


@pytest.mark.parametrize("shape", [(70_000,), (3, 40_000), (2, 3, 120, 120)])
def test_discrepancy_in_pieces_is_that_of_the_whole(shape):
    actual, expected = noise(*shape), noise(*shape)
    actual.view(-1)[[5, 40_000, -1]] += torch.tensor([1e-3, 0.5, 0.25])
    expected.view(-1)[7] = 0.0
    pieces, whole = (
        measure(actual, expected, (1e-6, 1e-5))
        for measure in (numbers._measure_in_pieces, numbers._measure_whole)
    )
    assert whole == pieces
    assert (4, float("inf")) == (pieces.mismatched, pieces.greatest_relative)


def test_values_that_are_not_finite_are_told_apart_by_place():
    expected = torch.zeros(100_000)
    actual = expected.clone()
    actual[70_001] = float("nan")
    model = lambda value: Net(lambda m, x: x + m.v, v=nn.Parameter(value))
    first = next(
        d
        for d in compare(
            model(actual), model(expected), torch.zeros(1), level="numbers"
        ).differences
        if d.level == "numbers"
    )
    assert (1, (70_001,), float("inf")) == (
        first.discrepancy.mismatched,
        first.discrepancy.index,
        first.discrepancy.greatest_absolute,
    )
    assert compare(model(actual), model(actual.clone()), torch.zeros(1), level="numbers").levels[
        "numbers"
    ]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name", ["relu after pooling", "AvgPool for MaxPool", "no bias", "other dropout", "padding 0"]
)
def test_taking_turns_finds_what_keeping_one_models_activations_finds(name, training):
    actual, expected, x = WRONG[name][0](), SimpleCNN(), pictures()
    subjects = [passes.Side(model=model, args=(x,), kwargs={}) for model in (actual, expected)]
    together = passes._run_side_by_side(*subjects, Tolerance(), training=training)
    apart = passes._run_one_after_the_other(*subjects, Tolerance(), training=training)
    assert apart.activations == together.activations and apart.outputs == together.outputs
    assert len(apart.activations) >= 13


def test_interrupt_in_either_forward_goes_on_and_leaves_nothing_behind():
    def interrupted(m, x):
        if m.armed and x.device.type != "meta":
            raise KeyboardInterrupt
        return m.a(x)

    for armed in ((True, False), (False, True)):
        models = [Net(interrupted, a=nn.BatchNorm1d(4)).train() for _ in armed]
        for model, arm in zip(models, armed, strict=True):
            model.armed = arm
        before, limit, generator = (
            [state_of(model)[0] for model in models],
            sys.getrecursionlimit(),
            torch.get_rng_state(),
        )
        with pytest.raises(KeyboardInterrupt):
            compare(*models, noise(3, 4))
        assert not [
            thread for thread in threading.enumerate() if thread.name.startswith("cnnprobe")
        ]
        assert limit == sys.getrecursionlimit() and torch.equal(generator, torch.get_rng_state())
        for model, old in zip(models, before, strict=True):
            assert model.training and not model._forward_hooks and not model.a._forward_hooks
            assert all(torch.equal(value, model.state_dict()[key]) for key, value in old.items())


def test_model_is_equivalent_to_itself_and_to_one_that_shares_its_layers():
    model = small().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert compare(model, model, noise(4, 3, 8, 8)).equivalent
    assert compare(plain(*model), model, noise(4, 3, 8, 8)).equivalent
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())


# -- outputs that are no tensors -------------------------------------------------------------------


class Returning(nn.Module):
    """Gives back what `make` makes of its layer's output."""

    def __init__(self, make):
        super().__init__()
        self.fc, self.make = nn.Linear(4, 2), make

    def forward(self, x):
        return self.make(self.fc(x))


async def give_later(output):
    return output


@pytest.mark.parametrize(
    "make",
    [lambda out: (row for row in out), give_later, lambda _: None, lambda _: object()],
    ids=["generator", "coroutine", "nothing", "an object"],
)
@pytest.mark.filterwarnings("error")
def test_numbers_of_outputs_that_nobody_can_read_are_not_called_the_same(make):
    model = Returning(make)
    found = compare(copy.deepcopy(model), model, torch.randn(3, 4))
    assert (found.levels["numbers"], found.levels["train_numbers"]) == (None, None)
    assert [note for note in found.outcome.notes if "no outputs were compared" in note]


def test_objects_of_classes_of_the_same_name_are_no_difference():
    ours, theirs = (type("Output", (), {})() for _ in range(2))
    a, b = Returning(lambda out: (out, ours)), Returning(lambda out: (out, theirs))
    b.load_state_dict(a.state_dict())
    assert compare(a, b, torch.randn(3, 4)).equivalent


def test_activations_tell_models_apart_that_return_nothing():
    found = compare(Returning(lambda _: None), Returning(lambda _: None), torch.randn(3, 4))
    assert not found.levels["numbers"]
    assert [d.level for d in found.differences].count("numbers") == 1


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (1.5, 1.5, True),
        (1.5, 2.5, False),
        (math.nan, math.nan, True),
        (math.nan, 1.0, False),
        (None, 3, False),
        (1, 1.0, True),
        ("cat", "dog", False),
        (np.arange(3), np.arange(3), True),
        (np.arange(3), np.arange(3) + 1, False),
        (np.ones(2), [1.0, 1.0], False),
        (1.0, 1.0 + 1e-7, True),  # as near as the numbers of tensors may be
        (np.float32(1), np.float32(2), False),
        (np.float32(2), np.float32(2), True),
        (np.float32(2), None, False),
    ],
)
def test_outputs_that_are_no_tensors_are_compared_too(ours, theirs, same):
    a, b = Returning(lambda _: {"given": ours}), Returning(lambda _: {"given": theirs})
    b.load_state_dict(a.state_dict())
    found = compare(a, b, torch.randn(3, 4))
    assert found.levels["numbers"] is same
