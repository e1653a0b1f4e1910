"""How far two tensors are apart, held against the message that torch.testing.assert_close raises,
in the C kernel and without it.
"""

import re

import numpy as np
import pytest
import torch
from torch import nn

from cnnprobe import compare
from cnnprobe.comparison.numbers import Tolerance, measure
from cnnprobe.stats import native

torch.manual_seed(0)
SHAPES = [(7,), (3, 1_024), (2, 3, 130, 91), (70_001,)]
NAN, INF = float("nan"), float("inf")


@pytest.fixture(params=["kernel", "torch"])
def engine(request, monkeypatch):
    if request.param == "torch":
        monkeypatch.setattr(native, "load_kernel", lambda: None)
    elif native.load_kernel() is None:
        pytest.skip("there is no C kernel here")


def told_by_torch(actual, expected, **options):
    """The figures of assert_close's message: mismatched, greatest absolute difference, its index,
    greatest relative; None where it passes.
    """
    try:
        torch.testing.assert_close(actual, expected, **options)
    except AssertionError as error:
        text = str(error)
        count = re.search(r"Mismatched elements: (\d+) / (\d+)", text)
        absolute = re.search(r"Greatest absolute difference: (\S+) at index \((.*?),?\)", text)
        relative = re.search(r"Greatest relative difference: (\S+) at", text)
        index = tuple(int(i) for i in absolute[2].split(","))
        return int(count[1]), int(count[2]), float(absolute[1]), index, float(relative[1])
    return None


def told(actual, expected, tolerance=Tolerance()):
    found = measure(actual, expected, tolerance, 1)
    return found and (
        found.mismatched,
        found.elements,
        found.greatest_absolute,
        found.index,
        found.greatest_relative,
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_figures_are_those_of_assert_close(shape, dtype, engine):
    expected = torch.randn(shape, dtype=dtype)
    for noise in (1e-9, 1e-7, 3e-6, 1e-5, 1.0):
        actual = expected + noise * torch.randn(shape, dtype=dtype)
        assert told_by_torch(actual, expected, equal_nan=True) == told(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_figures_of_halves_are_those_of_assert_close_in_float32(dtype, engine):
    expected = torch.randn(3, 40_001).to(dtype)
    actual = (expected.float() * (1 + 0.01 * torch.randn(3, 40_001))).to(dtype)
    rtol, atol = Tolerance().bounds(actual, expected, 1)
    assert told_by_torch(actual.float(), expected.float(), rtol=rtol, atol=atol) == told(
        actual, expected
    )


@pytest.mark.parametrize("position", [0, 17, 1_023, 1_024, 5_000])
@pytest.mark.parametrize("both", [(NAN, NAN), (INF, INF), (-INF, -INF)])
def test_same_value_that_is_not_finite_is_close(both, position, engine):
    actual, expected = torch.randn(5_001), torch.zeros(5_001)
    expected.copy_(actual)
    actual[position], expected[position] = both
    actual[3] += 0.5
    assert told_by_torch(actual, expected, equal_nan=True) == told(actual, expected)
    actual[3] = expected[3]
    assert told(actual, expected) is None


@pytest.mark.parametrize("position", [0, 1_024, 5_000])
@pytest.mark.parametrize(
    "pair", [(NAN, 1.0), (1.0, NAN), (INF, 1.0), (1.0, INF), (INF, -INF), (NAN, INF)]
)
def test_value_that_is_not_finite_on_one_side_is_infinitely_far(pair, position, engine):
    expected = torch.randn(5_001)
    actual = expected.clone()
    actual[position], expected[position] = pair
    actual[40] += 0.5
    torchs, ours = told_by_torch(actual, expected, equal_nan=True), told(actual, expected)
    assert torchs[:2] == ours[:2] == (2, 5_001)
    assert (INF, (position,)) == ours[2:4] and torchs[3] == ours[3]


def test_nan_on_both_sides_differs_where_asked_for(engine):
    actual = torch.randn(3_000)
    actual[1_500] = NAN
    assert told(actual, actual.clone()) is None
    assert (1, 3_000, INF, (1_500,), INF) == told(
        actual, actual.clone(), Tolerance(equal_nan=False)
    )
    assert told_by_torch(actual, actual.clone(), equal_nan=False)[0] == 1


def test_difference_from_an_exact_zero_is_relatively_infinite_as_in_assert_close(engine):
    actual, expected = torch.zeros(2, 3_000), torch.zeros(2, 3_000)
    actual[1, 7] = 0.25
    assert (
        told_by_torch(actual, expected) == told(actual, expected) == (1, 6_000, 0.25, (1, 7), INF)
    )


def test_values_on_the_bound_itself_are_judged_as_by_torch(engine):
    expected = torch.randn(200_000) * 8
    actual = (
        expected + (1e-5 + 1.3e-6 * expected.abs()) * torch.randn(200_000).sign()
    )  # half of them a rounding beyond
    assert 0 < told_by_torch(actual, expected)[0] < 200_000
    assert told_by_torch(actual, expected) == told(actual, expected)


def test_layout_and_threads_change_no_figure(engine):
    expected = torch.randn(4, 16, 200, 200)
    actual = expected + 1e-5 * torch.randn(4, 16, 200, 200)
    one = told(actual, expected)
    assert (
        one
        == told(actual.to(memory_format=torch.channels_last), expected)
        == told_by_torch(actual, expected)
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert one == told(actual, expected)
    finally:
        torch.set_num_threads(threads)


def test_tensors_without_values_or_elements_are_no_matter_for_the_kernel(engine):
    assert told(torch.empty(0, 3), torch.empty(0, 3)) is None
    assert told(torch.tensor(1.0), torch.tensor(1.5))[:4] == (1, 1, 0.5, ())
    assert told(torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]))[:4] == (1, 3, 1, (2,))
    assert told(torch.tensor([True, False]), torch.tensor([True, True]))[:2] == (1, 2)


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        x = self.first(x + float(np.random.standard_normal()))
        return self.second(x * float(np.random.standard_normal()) + float(np.random.rand()))


@pytest.mark.parametrize("drawn", [0, 1])
def test_models_that_draw_from_numpy_are_given_the_same_numbers_and_leave_its_generator_as_it_was(
    drawn,
):
    before = np.random.get_state()
    try:
        np.random.seed(3)
        for _ in range(drawn):  # NumPy makes normal numbers in pairs, and keeps the second one
            np.random.standard_normal()
        state = np.random.get_state()
        found = compare(Noisy(), Noisy(), torch.randn(2, 5), level="numbers")
        after = np.random.get_state()
    finally:
        np.random.set_state(before)
    assert found.levels["numbers"]
    assert np.array_equal(state[1], after[1]) and state[2:] == after[2:]
