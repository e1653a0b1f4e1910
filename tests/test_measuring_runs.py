"""Many processes measure what one does, and a measurement outlives a kill."""

import itertools
import json
import os
import signal
import textwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

import cnnprobe
from cnnprobe.errors import ProbeError, UsageError
from cnnprobe.measuring import load_measurements
from cnnprobe.measuring import log as logs
from cnnprobe.measuring.passes import list_batches
from tests.support.measured import Images, is_same, make_net
from tests.support.python import ROOT, run_python
from tests.support.ranks import run_ranks


@pytest.fixture(scope="module")
def measured():
    return cnnprobe.measure(make_net(), Images(10), batch_size=4)


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
    from tests.support.measured import Images, is_same, kill_after, make_net
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


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("victims", [("1",), ("0", "1")])
def test_ranks_of_torchrun_that_were_killed_go_on_where_they_were(tmp_path, victims, one_thread):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    program = ("-m", "tests.support.rank_programs", "measure", str(tmp_path), "43", *victims)
    killed = run_python(
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program,
        env=env, cwd=ROOT,
    )  # fmt: skip
    assert 0 != killed.returncode and "SIGKILL" in killed.stderr, killed.stderr
    assert not list(tmp_path.glob("found*"))
    for rank in victims:
        (tmp_path / f"seen{rank}.txt").unlink()
    for ended in run_ranks("measure", str(tmp_path), "43", ranks=2):
        assert 0 == ended.returncode, ended.stderr
    batches = [range(first, min(first + 4, 43)) for first in range(0, 43, 4)]
    for rank in victims:
        left = [number for part in batches[int(rank) :: 2][2:] for number in part]
        assert left == list(map(int, (tmp_path / f"seen{rank}.txt").read_text().split()))
    alone = cnnprobe.measure(make_net(), Images(43), batch_size=4)
    assert all(is_same(alone, load_measurements(path)) for path in tmp_path.glob("found*.json"))
    assert 2 == len(list(tmp_path.glob("found*.json")))


def make_other_net():
    net = make_net()
    with torch.no_grad():
        net[5].bias += 1
    return net


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (make_other_net, {}, "the weights are not those of the log"),
        (make_net, {"samples": 9},
            "the data is Images of 9 samples, that of the log Images of 10 samples"),
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
