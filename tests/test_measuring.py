"""The statistics of a data set are those of torch over all of it."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

import cnnprobe
from cnnprobe.errors import TargetError, UnknownNameError, UsageError
from cnnprobe.measuring import load_measurements, make_observer
from cnnprobe.measuring.totals import Total, to_measured
from cnnprobe.records.measured import find_percentile
from tests.support.measured import Images, make_net


def collect(model, data, *, batch_size):
    """By torch alone: each layer's outputs over all samples, in eval mode."""
    model.eval()
    found = {}
    with torch.no_grad():
        for start in range(0, len(data), batch_size):
            x = torch.stack([data[i][0] for i in range(start, min(start + batch_size, len(data)))])
            found.setdefault("", []).append(x)
            for name, layer in model.named_children():
                x = layer(x)
                found.setdefault(name, []).append(x)
    return {name: torch.cat(parts) for name, parts in found.items()}


@pytest.fixture(scope="module")
def expected():
    return collect(make_net(), Images(10), batch_size=4)


@pytest.fixture(scope="module")
def measured():
    return cnnprobe.measure(make_net(), Images(10), batch_size=4)


def look_up(measured, name):
    return measured.of(name, "activation" if name else "input")


# -- the numbers -----------------------------------------------------------------------------------


def test_counts_and_extrema_are_those_of_torch(expected, measured):
    for name, values in expected.items():
        found = look_up(measured, name).statistics
        assert (values.numel(), int((values == 0).sum())) == (found.count, found.zeros)
        assert (values.min().item(), values.max().item()) == (found.min, found.max)
        assert (values.double().mean().item(), values.double().std(correction=0).item()) == (
            pytest.approx(found.mean, abs=1e-6),
            pytest.approx(found.std, rel=1e-6),
        )


def test_each_channel_has_its_range_and_its_share_of_zeros(expected, measured):
    for name, values in expected.items():
        found, rows = look_up(measured, name), values.transpose(0, 1).flatten(1)
        assert (rows.amin(1).tolist(), rows.amax(1).tolist()) == (list(found.low), list(found.high))
        share = (rows == 0).double().mean(1).tolist()
        assert share == pytest.approx(found.statistics.channels.zero_fraction)
    assert (False, False, True, False) == measured.of("2").statistics.channels.all_zero


def test_histograms_count_each_value_under_its_upper_half(expected, measured):
    for name, values in expected.items():
        found = look_up(measured, name)
        bits = values.flatten().view(torch.int32).numpy().view(np.uint32) >> 16
        counts = np.bincount(bits, minlength=2**16)
        assert np.flatnonzero(counts).tolist() == list(found.buckets)
        assert counts[counts > 0].tolist() == list(found.counts)


NUMBERS = st.floats(-(2.0**100), 2.0**100, width=32)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=50), st.floats(0, 100))
def test_a_percentile_lies_within_a_128th_of_the_value_of_that_rank(values, percent):
    total = Total("ReLU")
    assert total.add(torch.tensor(values))
    found = find_percentile(to_measured(("activation", "a", 0, ""), total), percent)
    ordered = np.sort(np.array(values, dtype=np.float32)).astype(float)
    exact = ordered[math.ceil(percent / 100 * (len(values) - 1))]
    assert abs(found - exact) <= abs(exact) / 128 + 1e-38


def test_a_percentile_among_zeros_is_zero(expected, measured):
    relu = expected["2"].flatten()
    share = 100 * float((relu == 0).double().mean())
    assert (0.0, 0.0) == (find_percentile(measured.of("2"), 0.1), measured.of("2").percentiles["1"])
    assert find_percentile(measured.of("2"), share + 1) > 0


def test_progress_is_told_from_the_beginning_to_the_end():
    told = []
    cnnprobe.measure(make_net(), Images(10), batch_size=4, progress=lambda *n: told.append(n))
    assert [(0, 10), (4, 10), (8, 10), (10, 10)] == told


def test_percentiles_of_what_has_no_finite_value_are_nan():
    total = Total("ReLU")
    total.add(torch.tensor([[math.nan], [math.inf]]))
    found = to_measured(("activation", "a", 0, ""), total)
    assert math.isnan(find_percentile(found, 50))
    assert (1, 1) == (found.statistics.nan, found.statistics.inf)
    assert (True, True) == (math.isnan(found.low[0]), math.isnan(found.high[0]))
    with pytest.raises(UsageError, match="no percentile 101"):
        find_percentile(found, 101)


def test_nan_and_inf_are_counted_and_kept_out_of_the_ranges():
    values = torch.tensor([[1.0, math.nan], [-2.0, 5.0], [math.inf, 7.0], [0.5, -math.inf]])
    found = cnnprobe.measure(nn.Identity(), TensorDataset(values), batch_size=3).of("")
    assert (1, 2) == (found.statistics.nan, found.statistics.inf)
    assert ((-2.0, 5.0), (1.0, 7.0)) == (found.low, found.high)
    assert 5 == sum(found.counts)


def test_double_precision_keeps_its_extrema():
    values = torch.tensor([[1.0 + 2**-40], [-3.0 - 2**-40]], dtype=torch.float64)
    found = cnnprobe.measure(nn.Identity(), TensorDataset(values)).of("")
    assert ((-3.0 - 2**-40,), (1.0 + 2**-40,)) == (found.low, found.high)


# -- quantization ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric}]
)
def test_an_observer_is_that_of_torch_after_the_same_data(expected, measured, options):
    from torch.ao.quantization import MinMaxObserver

    for name, values in expected.items():
        theirs = MinMaxObserver(**options)
        for batch in values.split(4):
            theirs(batch)
        ours = make_observer(look_up(measured, name), **options)
        assert torch.equal(theirs.min_val, ours.min_val)
        assert torch.equal(theirs.max_val, ours.max_val)
        for a, b in zip(theirs.calculate_qparams(), ours.calculate_qparams(), strict=True):
            assert torch.equal(a, b)


def test_an_observer_of_channels_is_that_of_torch_after_the_same_data(expected, measured):
    from torch.ao.quantization import PerChannelMinMaxObserver

    for name, values in expected.items():
        theirs = PerChannelMinMaxObserver(ch_axis=1)
        for batch in values.split(4):
            theirs(batch)
        ours = make_observer(look_up(measured, name), per_channel=True)
        for a, b in zip(theirs.calculate_qparams(), ours.calculate_qparams(), strict=True):
            assert torch.equal(a, b)
        x = values[:2]
        assert torch.equal(theirs(x), ours(x))


def test_an_observer_of_percentiles_cuts_the_tails_off(expected, measured):
    observer = make_observer(measured.of("1"), percentile=99)
    values = expected["1"].flatten().numpy()
    low, high = np.quantile(values, [0.01, 0.99])
    assert (low, high) == (
        pytest.approx(observer.min_val.item(), rel=1 / 64),
        pytest.approx(observer.max_val.item(), rel=1 / 64),
    )


def test_channels_that_are_not_known_are_refused(measured):
    with pytest.raises(UsageError, match="percentiles are known of the whole tensor alone"):
        make_observer(measured.of("1"), per_channel=True, percentile=99)
    flat = cnnprobe.measure(nn.Flatten(0), Images(3)).of("")
    with pytest.raises(UsageError, match="its channels are not known"):
        make_observer(flat, per_channel=True)


# -- the model -------------------------------------------------------------------------------------


class Counting(nn.Module):
    """Counts its passes in a buffer, and draws a random number, in eval mode too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return x + torch.rand(1)


@pytest.mark.parametrize("broken", [None, 5])
def test_the_model_is_afterwards_as_it_was(broken):
    model = nn.Sequential(*make_net(), Counting()).train()
    model[1].eval()
    model[5].weight.grad = torch.ones(3, 144)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    try:
        cnnprobe.measure(model, Images(10, broken=broken), batch_size=4)
    except ValueError:
        assert broken == 5
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())
    assert [True, False, True] == [model[i].training for i in range(3)]
    assert torch.equal(torch.ones(3, 144), model[5].weight.grad)
    assert not any(module._forward_hooks for module in model.modules())


def test_layers_that_are_called_twice_or_give_several_tensors_are_told_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.rnn = nn.ReLU(), nn.GRU(3, 2, batch_first=True)

        def forward(self, x):
            return self.rnn(self.act(self.act(x) - 1))[0]

    x = torch.ones(2, 4, 3) * 3
    found = cnnprobe.measure(Twice(), TensorDataset(x))
    assert (3.0, 2.0) == (found.of("act").statistics.max, found.of("act", call=1).statistics.max)
    assert {"[0]", "[1]"} == {t.output for t in found.tensors if t.fqn == "rnn"}
    with pytest.raises(UnknownNameError, match="no activation of 'cat'"):
        found.of("cat")


def test_what_is_not_of_floating_point_is_said():
    class Rounds(nn.Module):
        def forward(self, x):
            return x.round().long()

    found = cnnprobe.measure(
        nn.Sequential(nn.Linear(3, 3), Rounds()), TensorDataset(torch.ones(2, 3))
    )
    assert ("not measured, as it gives no floating point numbers: 1",) == found.notes
    assert ["", "0"] == [t.fqn for t in found.tensors]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([torch.ones(3)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Endless(), "a Endless has no samples by number"),
        ([], "the data set is empty"),
        ([{"x": torch.ones(3)}], "the first part of a batch is a dict, not a tensor"),
    ],
)
def test_data_that_cannot_be_measured_is_refused(data, message):
    with pytest.raises(UsageError, match=message):
        cnnprobe.measure(nn.Linear(3, 3), data)


class Later(nn.Linear):
    async def forward(self, x):
        return super().forward(x)


@pytest.mark.filterwarnings("error")
def test_forward_that_runs_only_when_it_is_awaited_is_not_measured():
    with pytest.raises(TargetError, match="the forward returns a coroutine: it runs only when"):
        cnnprobe.measure(Later(3, 3), [torch.ones(3)])


# -- shown, saved, asked for -----------------------------------------------------------------------


def test_measurements_are_saved_loaded_and_shown(measured, tmp_path):
    measured.save(tmp_path / "found.json")
    assert measured == load_measurements(tmp_path / "found.json")
    text = measured.to("text", width=120)
    assert "10 samples of Images of 10 samples, in eval mode" in text
    row = next(line for line in text.splitlines() if line.startswith("2 "))
    assert "1 of 4" in row
    measured.save(tmp_path / "found.html")
    assert "<!doctype html" in (tmp_path / "found.html").read_text().lower()
    assert "| 5" in measured.to("markdown")
    assert "<Measurements of Sequential: 7 tensors, 10 samples>" == repr(measured)
