"""The statistics of a data set are those of torch over all of it, in one process as in several, and
outlive a kill.
"""

import itertools
import json
import math
import os
import signal
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import cnnprobe
from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError
from cnnprobe.measuring import load_measurements, make_observer
from cnnprobe.measuring import log as logs
from cnnprobe.measuring.passes import list_batches
from cnnprobe.measuring.totals import Total, to_measured
from cnnprobe.records.measured import find_percentile
from reference_models.cifar_pickles import UncheckedCIFAR10, write_cifar10
from tests.support.command import run
from tests.support.measured import Images, make_net
from tests.support.python import ROOT, run_python
from tests.support.ranks import run_ranks


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


# -- many processes --------------------------------------------------------------------------------


def is_same(one, other):
    """Whether all is equal, apart from moments, which are to rounding."""
    assert [(t.what, t.fqn) for t in one.tensors] == [(t.what, t.fqn) for t in other.tensors]
    for a, b in zip(one.tensors, other.tensors, strict=True):
        for name in ("low", "high", "buckets", "counts", "percentiles"):
            assert getattr(a, name) == getattr(b, name), (a.fqn, name)
        s, t = a.statistics, b.statistics
        for name in ("count", "zeros", "nan", "inf", "min", "max", "histogram"):
            assert getattr(s, name) == getattr(t, name), (a.fqn, name)
        assert (s.mean, s.std, s.l2) == pytest.approx((t.mean, t.std, t.l2), rel=1e-9, abs=1e-12)
        if s.channels is not None:
            assert (s.channels.count, s.channels.zeros) == (t.channels.count, t.channels.zeros)
            assert s.channels.std == pytest.approx(t.channels.std, rel=1e-9, abs=1e-12)
    return True


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 5), st.integers(0, 3))
def test_each_sample_is_in_one_batch_of_one_process(samples, size, of, done):
    parts = [list_batches(samples, size, rank=rank, of=of, done=0) for rank in range(of)]
    assert sorted(itertools.chain(*itertools.chain(*parts))) == list(range(samples))
    whole = list_batches(samples, size, rank=0, of=1, done=0)
    assert all(batch in whole for part in parts for batch in part)
    assert parts[0][done:] == list_batches(samples, size, rank=0, of=of, done=done)


@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_have_the_numbers_of_one(tmp_path, ranks, one_thread):
    for ended in run_ranks("measure", str(tmp_path), "10", ranks=ranks):
        assert 0 == ended.returncode, ended.stderr
    alone = cnnprobe.measure(make_net(), Images(10), batch_size=4)
    for rank in range(ranks):
        found = load_measurements(tmp_path / f"found{rank}.json")
        assert is_same(alone, found)
    assert {f"log.rank{rank}.jsonl" for rank in range(ranks)} <= set(os.listdir(tmp_path))


def test_a_process_that_fails_is_named_by_the_others(tmp_path):
    (tmp_path / "broken").touch()
    for ended in run_ranks("measure", str(tmp_path), "10", ranks=2):
        assert 0 == ended.returncode, ended.stderr
    assert "ValueError: sample 5 is broken" == (tmp_path / "error1.txt").read_text()
    assert (
        (tmp_path / "error0.txt")
        .read_text()
        .startswith("ProbeError: rank 1 failed: ValueError: sample 5 is broken")
    )


def test_workers_give_the_very_same(measured):
    assert measured == cnnprobe.measure(make_net(), Images(10), batch_size=4, workers=2)


def test_a_loader_gives_its_data_its_batch_size_and_how_it_collates(measured):
    loader = DataLoader(Images(10), batch_size=4, shuffle=True, drop_last=True)
    assert measured == cnnprobe.measure(make_net(), loader)


# -- logs ------------------------------------------------------------------------------------------

KILLED = """
    import sys, torch
    sys.path.insert(0, sys.argv[3])
    import cnnprobe
    from cnnprobe.measuring import log
    from tests.support.measured import Images, kill_after, make_net
    torch.set_num_threads(1)
    log.PAUSE = log.FACTOR = 0
    model = make_net()
    kill_after(model, int(sys.argv[2]))
    cnnprobe.measure(model, Images(23, seen=sys.argv[4]), batch_size=4, log=sys.argv[1])
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_measurement_goes_on_where_it_was(tmp_path, one_thread):
    log, seen = tmp_path / "log.jsonl", tmp_path / "seen.txt"
    killed = run_python("-c", textwrap.dedent(KILLED), str(log), "3", str(ROOT), str(seen))
    assert -signal.SIGKILL == killed.returncode, killed.stderr
    assert all(map(json.loads, log.read_text().splitlines()))
    seen.unlink()
    again = cnnprobe.measure(make_net(), Images(23, seen=seen), batch_size=4, log=log)
    assert list(range(12, 23)) == list(map(int, seen.read_text().split()))
    assert is_same(cnnprobe.measure(make_net(), Images(23), batch_size=4), again)
    seen.unlink()
    assert again == cnnprobe.measure(make_net(), Images(23, seen=seen), batch_size=4, log=log)
    assert not seen.exists()


def make_other_net():
    net = make_net()
    with torch.no_grad():
        net[5].bias += 1
    return net


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (make_other_net, {}, "the weights are not those of the log"),
        (make_net, {"samples": 9}, "the data is Images of 9 samples, that of the log Images of 10 samples"),
        (make_net, {"batch_size": 5}, "the batch size is 5, that of the log 4"),
    ],
)  # fmt: skip
def test_the_log_of_something_else_is_refused(tmp_path, model, options, message):
    log = tmp_path / "log.jsonl"
    cnnprobe.measure(make_net(), Images(10), batch_size=4, log=log)
    with pytest.raises(UsageError, match=message):
        cnnprobe.measure(
            model(),
            Images(options.get("samples", 10)),
            batch_size=options.get("batch_size", 4),
            log=log,
        )


def test_a_file_that_is_no_log_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("shopping\n")
    with pytest.raises(ProbeError, match="not a complete JSON"):
        cnnprobe.measure(make_net(), Images(3), log=tmp_path / "notes.txt")
    assert "shopping\n" == (tmp_path / "notes.txt").read_text()


def test_a_full_disk_is_said_once_and_the_measurement_goes_on(tmp_path, monkeypatch, measured):
    monkeypatch.setattr(logs, "PAUSE", 0)
    monkeypatch.setattr(logs, "FACTOR", 0)
    with pytest.warns(RuntimeWarning, match="could not be written") as said:
        found = cnnprobe.measure(
            make_net(), Images(10), batch_size=4, log=tmp_path / "missing" / "log.jsonl"
        )
    assert 1 == len(said)
    assert measured.tensors == found.tensors
    assert "could not be written" in found.notes[0]


def test_a_log_does_not_grow_with_the_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "PAUSE", 0)
    monkeypatch.setattr(logs, "FACTOR", 0)
    sizes = []
    for samples in (100, 400):
        log = tmp_path / f"{samples}.jsonl"
        cnnprobe.measure(make_net(), Images(samples), batch_size=20, log=log)
        sizes.append(log.stat().st_size)
    assert sizes[1] < 1.6 * sizes[0]


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


MODEL = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(MODEL)
    for k in range(10):
        place = tmp_path / "images" / "ab"[k % 2]
        place.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{k}.png")
    return tmp_path


def test_the_command_measures_a_folder_of_images(folder):
    images = folder / "images"
    done = run("stats", f"{folder}/net.py:net", "--data", images, "--size", 8, "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "--format", "json")  # fmt: skip
    (folder / "found.json").write_text(done.stdout)
    found = load_measurements(folder / "found.json")
    assert (10, 10 * 3 * 64) == (found.samples, found.of("", "input").statistics.count)
    assert -2 <= found.of("", "input").statistics.min < -1
    assert "10 of 10 samples (100%)" in done.stderr
    assert f"ImageFolder in {images}, size 8" in found.data


def test_the_command_reads_cifar10_with_torchvisions_class(tmp_path, monkeypatch):
    from torchvision import datasets

    images = np.random.default_rng(0).integers(0, 255, (30, 32, 32, 3), dtype=np.uint8)
    write_cifar10(tmp_path, images, [0] * 30, ["a"] * 10)
    monkeypatch.setattr(datasets, "CIFAR10", UncheckedCIFAR10)
    (tmp_path / "net.py").write_text(MODEL)
    done = run("stats", f"{tmp_path}/net.py:net", "--data", tmp_path, "--dataset", "cifar10", "--batch", 7)  # fmt: skip
    assert "25 samples of UncheckedCIFAR10 (training)" in " ".join(done.stdout.split())


def test_torchrun_measures_what_one_process_does(folder):
    spec = ["stats", f"{folder}/net.py:net", "--data", f"{folder}/images", "--batch", "4", "--format", "json"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    alone = run_python("-m", "cnnprobe", *spec, env=env)
    several = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "cnnprobe", *spec, env=env
    )  # fmt: skip
    assert (0, 0) == (alone.returncode, several.returncode), several.stderr
    for name, ended in (("alone", alone), ("several", several)):
        (folder / f"{name}.json").write_text(ended.stdout)
    assert is_same(*(load_measurements(folder / f"{name}.json") for name in ("alone", "several")))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data", "missing"], 3, "no data set:"),
        (["--data", ".", "--dataset", "cifar10"], 3, "name the folder that holds cifar-10-batches-py"),
        (["--data", "images", "--mean", "a,b"], 2, "'a,b' are no numbers"),
        (["--data", "images", "--train"], 2, "statistics of a data set are those of eval mode"),
        ([], 2, "--data"),
    ],
)  # fmt: skip
def test_the_command_says_what_is_wrong(folder, monkeypatch, options, code, message):
    monkeypatch.chdir(folder)
    assert message in run("stats", "net.py:net", *options, code=code).stderr


def test_without_torchvision_the_command_says_what_to_install(folder, monkeypatch):
    from cnnprobe.measuring.datasets import open_dataset

    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(TargetError) as raised:
        open_dataset("folder", folder / "images")
    assert "pip install cnnprobe[vision]" == raised.value.fix
