"""Whether two models are the same: verdict, place and mapping, held against models whose sameness
is known by how they were made.
"""

import copy
import gc

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from cnnprobe import compare
from cnnprobe.errors import ProbeError
from cnnprobe.records.differences import LEVELS
from tests.support.compared import noise, state_of
from tests.support.pairs import REORDERED, SAME, WRONG, Net, conv, give_weights, plain, small
from tests.support.twins import CNNModel, CNNModelAsWritten, SimpleCNN, pictures


@pytest.mark.parametrize("name", SAME)
def test_same_model_is_equivalent_at_every_level_with_transferred_weights(name):
    make_actual, make_expected, shape = SAME[name]
    actual, expected, x = make_actual(), make_expected(), noise(*shape)
    comparison = compare(actual, expected, x, level="operations")
    actual.load_state_dict(comparison.transfer(strict=False), strict=False)
    found = compare(actual, expected, x)
    assert () == found.outcome.unmapped
    assert {} == {level: holds for level, holds in found.levels.items() if holds is False}, str(
        found
    )
    assert True is found.levels["numbers"]
    assert torch.equal(actual.eval()(x), expected.eval()(x))


@pytest.mark.parametrize("name", REORDERED)
def test_order_of_independent_branches_makes_no_difference(name):
    make_actual, make_expected, shape = REORDERED[name]
    actual, expected, x = make_actual(), make_expected(), noise(*shape)
    actual.load_state_dict(compare(actual, expected, x).transfer())
    found = compare(actual, expected, x)
    assert {"c1": "c1", "c2": "c2", "cd": "cd"} == {
        a.split(".")[0]: b.split(".")[0] for a, b in found.mapping.items() if "c" in a.split(".")[0]
    }
    assert all(found.levels[level] for level in LEVELS if level != "autograd"), str(found)


@pytest.mark.parametrize("name", WRONG)
def test_faulty_copy_fails_at_the_right_level_and_place(name):
    make, failing, holding, where, message = WRONG[name]
    actual, expected, x = make(), SimpleCNN(), pictures()
    give_weights(actual, expected, compare(actual, expected, x, level="operations"))
    found = compare(actual, expected, x)
    assert failing <= {level for level, holds in found.levels.items() if holds is False}, str(found)
    assert holding <= {level for level, holds in found.levels.items() if holds}, str(found)
    here = [
        difference
        for difference in found.differences
        if difference.position == found.differences[0].position
    ]
    assert where in {difference.expected for difference in here}, str(found)
    assert any(message in difference.message for difference in here), str(found)
    assert not found.equivalent


def test_simple_cnn_and_its_refactoring_have_fourteen_aligned_operations_and_equal_totals():
    found = compare(CNNModel(), SimpleCNN(), pictures(), level="parameters")
    pairs = [pair for pair in found.outcome.pairs if None not in (pair.actual, pair.expected)]
    assert 14 == len(pairs) == len(found.outcome.pairs)
    assert (1_147_466, 1_147_466) == found.outcome.parameters
    assert {
        "features.0.block.0.weight": "conv1.weight",
        "classifier.3.bias": "fc2.bias",
    }.items() <= dict(found.mapping).items()


def test_refactoring_as_written_has_the_parameters_and_diverges_at_the_missing_flatten():
    actual, expected = CNNModelAsWritten(), SimpleCNN()
    give_weights(actual, expected, compare(actual, expected, pictures(), level="operations"))
    found = compare(actual, expected, pictures())
    assert (
        found.levels["parameters"] and not found.levels["operations"] and found.levels["state_dict"]
    )
    first, second = found.differences[:2]
    assert ("operations", "", "'flatten' (Flatten)", "flatten is missing") == (
        first.level,
        first.actual,
        first.expected,
        first.message,
    )
    assert "raised RuntimeError" in second.message and "'classifier.0' (Linear)" == second.actual


def test_first_divergence_of_numbers_has_equal_inputs_and_later_ones_have_not():
    actual, expected = SimpleCNN(), SimpleCNN()
    actual.load_state_dict(expected.state_dict())
    with torch.no_grad():
        actual.conv2.weight[5, 3, 1, 2] += 0.25
    apart = [
        d
        for d in compare(actual, expected, pictures()).differences
        if d.level == "numbers" and d.expected
    ]
    assert "'conv2' (Conv2d)" == apart[0].expected
    assert [True] + [False] * (len(apart) - 1) == [d.inputs_equal for d in apart]


def test_discrepancy_is_what_torch_testing_says():
    actual, expected = nn.Linear(4, 3), nn.Linear(4, 3)
    x = noise(2, 4)
    first = next(
        d for d in compare(actual, expected, x).differences if d.level == "numbers"
    ).discrepancy
    with pytest.raises(AssertionError) as raised:
        torch.testing.assert_close(actual(x), expected(x))
    text = str(raised.value)
    assert f"Mismatched elements: {first.mismatched} / {first.elements}" in text
    assert f"at index {first.index}" in text
    difference = (actual(x) - expected(x)).abs()
    assert first.greatest_absolute == difference.max().item()
    assert first.greatest_relative == pytest.approx(
        (difference.double() / expected(x).double().abs()).max().item()
    )


def test_user_tolerance_decides():
    actual, expected, x = nn.Linear(4, 3), nn.Linear(4, 3), noise(2, 4)
    actual.load_state_dict(expected.state_dict())
    with torch.no_grad():
        actual.bias += 0.01
    assert not compare(actual, expected, x).levels["numbers"]
    assert compare(actual, expected, x, atol=0.02).levels["numbers"]


def test_models_are_bit_for_bit_as_they_were():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small()
            self.calls = []

        def forward(self, x):
            self.calls.append(1)
            return self.body(x)

    actual, expected, x = Counting(), small().train(), noise(2, 3, 8, 8)
    actual.body[1].eval()
    before, kept, generator = (
        [state_of(m) for m in (actual, expected)],
        x.clone(),
        torch.get_rng_state(),
    )
    compare(actual, expected, x)
    for model, old in zip((actual, expected), before, strict=True):
        new = state_of(model)
        assert all(torch.equal(a, b) for a, b in zip(old[0].values(), new[0].values(), strict=True))
        assert [flags[0] for flags in old[1]] == [flags[0] for flags in new[1]]
        assert all(
            a.keys() == b.keys() for (_, a, _), (_, b, _) in zip(old[1], new[1], strict=True)
        )
        assert old[2] == new[2]
    assert (
        [] == actual.calls
        and torch.equal(kept, x)
        and torch.equal(generator, torch.get_rng_state())
    )


def test_in_place_operations_do_not_change_what_was_kept():
    class InPlace(nn.Module):
        def __init__(self, inplace):
            super().__init__()
            self.c, self.b, self.r = conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=inplace)

        def forward(self, x):
            return self.r(self.b(self.c(x))).add_(1)

    actual, expected = InPlace(True), InPlace(False)
    actual.load_state_dict(expected.state_dict())
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert found.equivalent and not any("intermediate" in note for note in found.outcome.notes), (
        str(found)
    )


def test_change_without_effect_on_the_outputs_is_said_and_is_no_difference_of_numbers():
    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.a, self.b, self.factor = nn.Linear(4, 4), nn.Linear(4, 3), factor

        def forward(self, x):
            return self.b(self.a(x) * self.factor / self.factor)

    actual, expected = Scaled(2.0), Scaled(4.0)
    actual.load_state_dict(expected.state_dict())
    found = compare(actual, expected, noise(2, 4))
    assert found.levels["numbers"] and not found.levels["hyperparameters"]
    assert any("intermediate activation differs" in note for note in found.outcome.notes)


def test_skip_from_another_place_is_a_difference_of_the_operations():
    class Skip(nn.Module):
        def __init__(self, early):
            super().__init__()
            self.a, self.b, self.early = conv(3, 3), conv(3, 3), early

        def forward(self, x):
            y = self.a(x)
            return self.b(y) + (x if self.early else y)

    actual, expected = Skip(True), Skip(False)
    actual.load_state_dict(expected.state_dict())
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert {"operations", "numbers", "train_numbers", "gradients", "autograd"} == {
        level for level, holds in found.levels.items() if not holds
    }
    assert (
        "instead of" in found.differences[0].message
        and "'a' (Conv2d)" in found.differences[0].message
    )


def test_swapped_blocks_are_named_by_the_values_that_strayed():
    expected = plain(*[plain(conv(3, 3), nn.ReLU()) for _ in range(3)])
    actual = copy.deepcopy(expected)
    actual[0], actual[1] = actual[1], actual[0]
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert (
        found.levels["operations"]
        and found.levels["parameters"]
        and not found.levels["state_dict"]
        and not found.levels["numbers"]
    )
    assert (
        "its values are those of the expected model's '1.0.weight'" in found.differences[0].message
    )


def test_one_block_fewer_among_equal_ones_is_ambiguous_and_is_not_transferred():
    expected = Net(lambda m, x: m.t(m.u(m.s(x))), s=conv(3, 3), t=conv(3, 3), u=conv(3, 3))
    actual = plain(conv(3, 3), conv(3, 3))
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert found.outcome.unmapped and "ambiguous" in found.outcome.unmapped[0]
    with pytest.raises(ProbeError, match="have no counterpart"):
        found.transfer()


def test_one_block_fewer_is_decided_by_equal_names():
    expected = plain(conv(3, 3), conv(3, 3), conv(3, 3))
    actual = Net(
        lambda m, x: getattr(m, "2")(getattr(m, "0")(x)), **{"0": conv(3, 3), "2": conv(3, 3)}
    )
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert {
        "0.weight": "0.weight",
        "0.bias": "0.bias",
        "2.weight": "2.weight",
        "2.bias": "2.bias",
    } == dict(found.mapping)
    assert "'1' (Conv2d)" == next(d for d in found.differences if d.level == "operations").expected


def test_transfer_to_the_other_side_refuses_two_values_for_one_tensor():
    layer = conv(3, 3)
    tied, loose = plain(layer, layer), plain(conv(3, 3), conv(3, 3))
    found = compare(loose, tied, noise(1, 3, 8, 8))
    assert not found.levels["parameters"]
    loose.load_state_dict(found.transfer())
    assert torch.equal(loose[0].weight, layer.weight) and torch.equal(loose[1].weight, layer.weight)
    with torch.no_grad():
        loose[1].weight += 1
    with pytest.raises(ProbeError, match="hold different values"):
        found.transfer(to="expected")


def test_transfer_to_the_expected_model_carries_the_actual_values():
    actual, expected, x = CNNModel(), SimpleCNN(), pictures()
    expected.load_state_dict(
        compare(actual, expected, x, level="operations").transfer(to="expected")
    )
    assert torch.equal(actual.eval()(x), expected.eval()(x))


def test_transfer_without_the_models_says_so():
    found = compare(nn.Linear(2, 2), nn.Linear(2, 2), noise(1, 2))
    gc.collect()
    with pytest.raises(ProbeError, match="no longer exists"):
        found.transfer()


def test_running_statistics_belong_to_the_state():
    actual, expected = small(), small()
    actual.load_state_dict(expected.state_dict())
    actual[1].running_var += 0.5
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert (
        "1.running_var has different values"
        in next(d for d in found.differences if d.level == "state_dict").message
    )
    assert not found.levels["numbers"] and found.levels["train_numbers"]


def test_dropout_that_never_stops_differs_in_eval_mode_alone():
    expected = plain(conv(), nn.Dropout(0.5))
    actual = Net(lambda m, x: F.dropout(m.c(x), 0.5), c=conv())
    actual.load_state_dict(compare(actual, expected, noise(2, 3, 8, 8)).transfer())
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert not found.levels["numbers"] and found.levels["train_numbers"]
    assert (
        "training True instead of False"
        in next(d for d in found.differences if d.level == "hyperparameters").message
    )


def test_detached_branch_differs_in_gradients_and_graph_only():
    def run(stop):
        return lambda m, x: m.a(x) + (m.b(x).detach() if stop else m.b(x).clone())

    actual, expected = (Net(run(stop), a=conv(), b=conv()) for stop in (True, False))
    actual.load_state_dict(expected.state_dict())
    found = compare(actual, expected, noise(2, 3, 8, 8))
    assert (
        found.levels["numbers"] and not found.levels["gradients"] and not found.levels["autograd"]
    )
    assert any("gradient of b.weight" in d.message for d in found.differences)


def test_parameters_and_their_grad_fields_survive_the_gradient_level():
    model = nn.Linear(2, 2)
    model(noise(1, 2)).sum().backward()
    gradient = model.weight.grad
    kept = gradient.clone()
    compare(model, copy.deepcopy(model), noise(1, 2))
    assert model.weight.grad is gradient and torch.equal(kept, gradient)


def test_control_flow_that_depends_on_values_is_followed():
    run = lambda m, x: m.a(x) if x.sum() > 0 else m.b(m.a(x))
    actual, expected = (Net(run, a=nn.Linear(2, 2), b=nn.ReLU()) for _ in range(2))
    actual.load_state_dict(expected.state_dict())
    for x in (torch.ones(1, 2), -torch.ones(1, 2)):
        assert compare(actual, expected, x).equivalent


def test_bfloat16_copy_agrees_within_its_rounding_and_another_model_does_not():
    model = SimpleCNN().eval()
    half = copy.deepcopy(model).bfloat16()
    found = compare(half, model, pictures(), level="numbers")
    assert found.levels["numbers"], str(found)
    assert not compare(half, SimpleCNN(), pictures(), level="numbers").levels["numbers"]
    with torch.no_grad():
        half.fc2.bias[3] += 0.5
    assert not compare(half, model, pictures(), level="numbers").levels["numbers"]


def test_compiled_model_is_compared_by_its_outputs():
    model = small().eval()
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    found = compare(compiled, model, noise(2, 3, 8, 8), level="numbers")
    assert found.levels["numbers"] and any("compiled code" in note for note in found.outcome.notes)
    with torch.no_grad():
        compiled._orig_mod[5].bias += 1
    assert not compare(compiled, model, noise(2, 3, 8, 8), level="numbers").levels["numbers"]
