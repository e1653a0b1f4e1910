"""Statistics of a tensor, against NumPy in double precision; and merged parts against the whole."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnprobe.stats import Statistics, merge, summarise

KEYS = ["count", "mean", "std", "min", "max", "zeros", "nan", "inf", "l2"]


def assert_close(actual: Statistics, expected: Statistics, rtol=1e-6) -> None:
    for key in KEYS:
        x, y = getattr(actual, key), getattr(expected, key)
        spread = rtol * max(expected.l2, 1e-300)
        assert math.isclose(x, y, rel_tol=rtol, abs_tol=spread) or (
            math.isnan(x) and math.isnan(y)
        ), (key, x, y)


def test_statistics_are_given_by_name_as_plain_numbers():
    stats = summarise(torch.tensor([0.0, 3.0, float("nan"), float("-inf")]))
    expected = {
        "count": 4,
        "mean": 1.5,
        "std": 1.5,
        "min": 0.0,
        "max": 3.0,
        "zeros": 1,
        "nan": 1,
        "inf": 1,
        "l2": 3.0,
    }
    assert expected == stats.as_mapping()
    assert [int, float, float, float, float, int, int, int, float] == [
        type(v) for v in stats.as_mapping().values()
    ]


def test_histogram_counts_powers_of_two_by_sign():
    stats = summarise(
        torch.tensor([1.0, 1.5, 2.0, -4.0, -7.9, 0.0, -0.0, float("nan"), float("inf")]),
        histogram=True,
    )
    assert (0, (0, 0, 2), (2, 1, 0)) == (
        stats.histogram.lowest,
        stats.histogram.negative,
        stats.histogram.positive,
    )


def test_histogram_puts_what_float32_has_no_exponent_for_into_its_outer_buckets():
    stats = summarise(torch.tensor([1e-300, -1e300], dtype=torch.float64), histogram=True)
    assert -127 == stats.histogram.lowest
    assert (1, 1) == (stats.histogram.positive[0], stats.histogram.negative[-1])


def test_channels_tell_which_never_fired():
    x = torch.zeros(2, 3, 4, 4)
    x[:, 0] = 1.0
    x[0, 1] = 2.0
    channels = summarise(x, channels=True).channels
    assert (0.0, 0.5, 1.0) == channels.zero_fraction
    assert (False, False, True) == channels.all_zero
    assert ((1.0, 1.0, 0.0), (0.0, 1.0, 0.0)) == (channels.mean, channels.std)


def test_channels_are_none_where_there_is_no_such_dimension():
    assert summarise(torch.ones(3), channels=True).channels is None


finite = st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda v: float(np.float32(v)))
numbers = st.lists(
    st.one_of(finite, st.sampled_from([0.0, -0.0, 1e19, -1e30, math.nan, math.inf, -math.inf])),
    max_size=30,
)


@given(numbers, numbers)
@settings(max_examples=200, deadline=None)
def test_merged_parts_equal_the_whole(left, right):
    a, b, whole = (
        summarise(torch.tensor(v, dtype=torch.float32), histogram=True)
        for v in (left, right, left + right)
    )
    assert_close(merge(a, b), whole)
    assert whole.histogram == merge(a, b).histogram


@given(st.lists(numbers.filter(lambda v: len(v) > 2).map(lambda v: v[:3]), min_size=2, max_size=6))
@settings(max_examples=100, deadline=None)
def test_merged_channels_equal_those_of_the_whole(rows):
    x = torch.tensor(rows).reshape(len(rows), 3)
    a, b, whole = (summarise(part, channels=True).channels for part in (x[:1], x[1:], x))
    merged = merge(summarise(x[:1], channels=True), summarise(x[1:], channels=True)).channels
    assert (whole.count, whole.zeros, whole.nonfinite) == (
        merged.count,
        merged.zeros,
        merged.nonfinite,
    )
    largest = x.nan_to_num(0, 0, 0).abs().max().item()
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-6, atol=1e-6 * largest)
    np.testing.assert_allclose(merged.std, whole.std, rtol=1e-6, atol=1e-6 * largest)
    assert len(a.count) == len(b.count) == 3


def test_merging_numbers_whose_squares_overflow_keeps_their_std():
    low, high = (summarise(torch.tensor([v], dtype=torch.float64)) for v in (1e300, 3e300))
    assert (2e300, 1e300) == (merge(low, high).mean, merge(low, high).std)
