"""A long run keeps its size, and loses no extreme, no first and no NaN."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnprobe.records import ledger as ledgers
from cnnprobe.records import thinning
from cnnprobe.records.averages import Averages, join
from cnnprobe.records.history import STATISTICS, Curve, History, Series, unify_nan
from cnnprobe.records.ledger import COLUMNS, EXTRA, Ledger, Slot
from cnnprobe.records.statistics import COUNT, INF, MAX, MEAN, MIN, NAN, ZEROS
from cnnprobe.records.thinning import thin_history, thin_points

NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)
GAPS = st.lists(st.tuples(st.integers(1, 5), NUMBERS), min_size=1, max_size=120)


def find_firsts(steps, values):
    """The first step of the least, of the greatest and of what is not finite."""
    pairs = list(zip(steps, values, strict=True))
    finite = [pair for pair in pairs if math.isfinite(pair[1])]
    odd = [step for step, value in pairs if not math.isfinite(value)]
    ends = [choose(finite, key=lambda pair: pair[1]) for choose in (min, max) if finite]
    return ends, odd[:1], pairs[0][0], pairs[-1][0]


@settings(deadline=None)
@given(GAPS, st.integers(6, 30))
def test_a_thinned_curve_has_both_extremes_both_ends_and_the_first_nan_at_their_steps(points, most):
    steps = list(itertools.accumulate(gap for gap, _ in points))
    values = [value for _, value in points]
    short = thin_points(steps, values, most)
    assert len(short[0]) <= most
    assert find_firsts(steps, values) == find_firsts(*short)
    known = dict(zip(steps, values, strict=True))
    assert list(map(str, short[1])) == [str(known[step]) for step in short[0]]


@settings(deadline=None)
@given(GAPS, st.sampled_from([2, 4, 8]))
def test_each_bucket_of_a_thinned_curve_has_the_extremes_of_the_whole_curve_there(points, width):
    steps = list(itertools.accumulate(gap for gap, _ in points))
    values = [value for _, value in points]
    kept = thinning._choose_points(steps, values, width)
    for _, bucket in itertools.groupby(range(len(steps)), key=lambda i: steps[i] // width):
        inside = list(bucket)
        finite = [values[i] for i in inside if math.isfinite(values[i])]
        left = [values[i] for i in inside if i in kept and math.isfinite(values[i])]
        assert (min(finite, default=0), max(finite, default=0)) == (
            min(left, default=0),
            max(left, default=0),
        )


@settings(max_examples=40, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=300))
def test_a_curve_that_is_thinned_as_it_grows_loses_nothing_either(values):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_POINTS", 24)
        ledger = Ledger(model="Net")
        for step, value in enumerate(values):
            ledger.put("loss", step, value)
            assert len(ledger.curves["loss"][0]) <= 24
            assert ledger.curves["loss"][0][-1] == step
    assert find_firsts(range(len(values)), values) == find_firsts(*ledger.curves["loss"])


def fill(ledger, rows):
    """A ledger with one slot and these rows, one a step."""
    ledger.place(Slot(fqn="a", what="activation"))
    for step, row in enumerate(rows):
        ledger.add(step, [0], np.array([row], dtype=np.float64))
    return ledger.history()


def row(mean, zeros, nan, count=100):
    numbers = dict.fromkeys(range(len(COLUMNS)), 0.0)
    numbers |= {COUNT: count, MEAN: mean, MIN: mean - 1, MAX: mean + 1, ZEROS: zeros, NAN: nan}
    return [numbers[i] for i in range(len(COLUMNS))]


ROWS = st.tuples(st.floats(-1e6, 1e6) | st.just(math.nan), st.integers(0, 100), st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=150))
def test_each_number_of_a_thinned_layer_keeps_its_least_and_its_greatest(rows):
    full = [row(*numbers) for numbers in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_ENTRIES", (16, 16))
        history = fill(Ledger(model="Net"), full)
    assert len(history.steps) <= 16
    assert len(full) == len(history.steps) + history.thinned
    assert list(history.steps) == sorted(set(history.steps) & set(range(len(full))))
    for i, name in enumerate(STATISTICS):
        kept = [n for n in history.of("a")[name] if not math.isnan(n)]
        seen = [n[i] for n in full if not math.isnan(n[i])]
        if name != "norm":  # NaN where nothing was finite
            assert (min(seen, default=0), max(seen, default=0)) == (
                min(kept, default=0),
                max(kept, default=0),
            )


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=20, max_size=150))
def test_the_first_steps_and_the_latest_ones_stay_as_they_were(rows):
    full = [row(*numbers) for numbers in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_ENTRIES", (16, 16))
        history = fill(Ledger(model="Net"), full)
    ends = [*range(2), *range(len(full) - 4, len(full))]
    assert ends == [*history.steps[:2], *history.steps[-4:]]
    kept = history.of("a")["zeros"]
    assert [full[step][ZEROS] for step in ends] == [*kept[:2], *kept[-4:]]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 1)), min_size=20, max_size=150))
def test_batches_of_different_sizes_keep_the_extremes_of_their_shares(batches):
    full = [row(0.0, round(share * count), 0, count) for count, share in batches]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ledgers, "_ENTRIES", (16, 16))
        series = fill(Ledger(model="Net"), full).of("a")
    seen = [numbers[ZEROS] / numbers[COUNT] for numbers in full]
    kept = [zeros / count for zeros, count in zip(series["zeros"], series["count"], strict=True)]
    assert [min(seen), max(seen)] == pytest.approx([min(kept), max(kept)])
    assert all(share <= 1 + 1e-9 for share in kept)


def test_the_two_that_stand_for_a_bucket_come_in_the_order_in_which_they_were():
    rows = np.array([[row(mean, 0, 0)] for mean in (3.0, 9.0, 1.0, 5.0)])
    first, second = thinning.envelop(rows)
    assert (9.0, 1.0) == (first[0, MEAN], second[0, MEAN])


@settings(deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), st.integers(1, 59))
def test_averages_of_neighbours_are_those_of_all_their_points(values, cut):
    averages = Averages()
    for step, value in enumerate(values):
        averages.add(step, value)
    halves = [half for half in (averages.stretches[:cut], averages.stretches[cut:]) if half]
    whole = join([join(half) for half in halves])
    assert len(values) == whole.points
    assert (np.mean(values), np.var(values)) == (
        pytest.approx(whole.mean, abs=1e-9),
        pytest.approx(whole.squares / whole.points, rel=1e-6, abs=1e-6),
    )


def test_a_million_steps_take_the_memory_of_some_thousand():
    ledger = Ledger(model="Net")
    slots = [ledger.place(Slot(fqn=f"layer{i}", what="activation")) for i in range(8)]
    rows = np.random.default_rng(0).random((8, len(COLUMNS)))
    sizes = []
    for step in range(1_000_000):
        ledger.put("loss", step, 1.0 if step != 654_321 else -5.0)
        if step % 250 == 0:
            ledger.add(step, slots, rows)
        if step % 200_000 == 199_999:
            sizes.append((len(ledger.steps), len(ledger.curves["loss"][0])))
            assert len(ledger.losses.stretches) <= 4096
            assert ledger.losses.stretches[0].points == ledger.losses.stretches[1].points > 1
    assert all(steps <= 1024 and points <= 4096 for steps, points in sizes)
    history = ledger.history()
    assert 4000 == len(history.steps) + history.thinned
    curve = history.curve("loss")
    assert (654_321, -5.0) in zip(curve.steps, curve.values, strict=True)
    assert 999_999 == curve.steps[-1]
    mean = join(ledger.losses.stretches).mean
    assert pytest.approx(1.0 - 6e-6, rel=1e-12) == mean


def test_the_memory_of_a_ledger_is_the_same_after_ten_times_as_many_steps(monkeypatch):
    monkeypatch.setattr(ledgers, "_ENTRIES", (128, 128))
    monkeypatch.setattr(ledgers, "_POINTS", 256)
    ledger = Ledger(model="Net")
    slots = [ledger.place(Slot(fqn=f"layer{i}", what="activation")) for i in range(8)]
    rows = np.random.default_rng(0).random((8, len(COLUMNS)))
    most = []
    tracemalloc.start()
    try:
        for step in range(5000):
            ledger.put("seconds", step, step * 1.5)
            ledger.add(step, slots, rows + step)
            if step % 500 == 0:
                most.append(0)
            if step % 10 == 0:
                most[-1] = max(most[-1], tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert max(most[1:]) < 1.1 * most[1]


def make_history(length):
    numbers = {name: unify_nan(range(length)) for name in STATISTICS}
    numbers["nan"] = (0.0,) * (length - 10) + (2.0,) * 10
    series = tuple(
        Series(
            fqn=f"layer{i}",
            what="activation",
            kind="ReLU",
            numbers=numbers | {"dead": numbers["std"]},
        )
        for i in range(3)
    )
    curve = Curve(
        name="loss",
        steps=tuple(range(length)),
        values=unify_nan([math.sin(i) for i in range(length)]),
    )
    return History(
        model="Net", steps=tuple(range(length)), total=length, curves=(curve,), series=series
    )


def test_a_whole_history_is_thinned_to_a_size_and_keeps_its_names_and_extremes():
    history = make_history(2000)
    short = thin_history(history, numbers=3000, points=100)
    assert sum(len(values) for s in short.series for values in s.numbers.values()) <= 3000
    assert 2000 == len(short.steps) + short.thinned
    assert len(short.curve("loss").steps) <= 100
    assert (max(history.curve("loss").values), 0, 1999) == (
        max(short.curve("loss").values),
        min(short.of("layer1")["mean"]),
        max(short.of("layer1")["dead"]),
    )
    assert list(history.of("layer1").numbers) == list(short.of("layer1").numbers)
    assert 2 == max(short.of("layer2")["nan"])


def test_a_short_history_is_left_as_it_is():
    history = make_history(40)
    assert history == thin_history(history, numbers=100_000, points=1000)


def test_columns_stand_where_the_thinning_looks_for_them():
    assert (COLUMNS[COUNT], COLUMNS[ZEROS], COLUMNS[NAN], COLUMNS[INF], COLUMNS[EXTRA]) == (
        "count",
        "zeros",
        "nan",
        "inf",
        "extra",
    )
