"""A monitor over a long run: its log rotates, outlives kills and full disks, and is gone on
with.
"""

import itertools
import json
import os
import signal
import subprocess
import textwrap
import time
import tracemalloc
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import ProbeError, UsageError
from cnnprobe.records import averages, journal, ledger
from tests.support.loops import Root, batch, rules, run, small
from tests.support.python import run_python


@pytest.fixture
def short(monkeypatch):
    """Limits that a run of some hundred steps passes."""
    monkeypatch.setattr(ledger, "_ENTRIES", (128, 128))
    monkeypatch.setattr(ledger, "_POINTS", 256)
    monkeypatch.setattr(averages, "_MOST", 256)
    monkeypatch.setattr(journal, "LARGEST", 40_000)


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))


# -- the file --------------------------------------------------------------------------------------


def test_a_log_that_grows_too_large_begins_anew_with_the_run_so_far(short, tmp_path):
    sizes = []
    path = tmp_path / "run.jsonl"
    monitor = run(tiny(), steps=400, log=path, after=lambda _: sizes.append(path.stat().st_size))
    assert {"run.jsonl", "run.jsonl.1"} == set(os.listdir(tmp_path))
    assert max(sizes) < 200_000 < sum(b - a for a, b in itertools.pairwise(sizes) if b > a)
    assert monitor.history == cnnprobe.load(path).history
    assert 400 == monitor.history.total == len(monitor.history.steps) + monitor.history.thinned
    before = cnnprobe.load(tmp_path / "run.jsonl.1").history
    assert 100 < before.total < 400
    assert cnnprobe.load(path).trace.model == "Sequential"


def test_a_log_without_room_for_another_file_goes_on_in_the_same(short, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    monitor = run(tiny(), steps=200, log=tmp_path / "run.jsonl")
    assert ["run.jsonl"] == os.listdir(tmp_path)
    assert monitor.history == cnnprobe.load(tmp_path / "run.jsonl").history


def test_without_second_names_for_a_file_the_log_rotates_all_the_same(short, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    monitor = run(tiny(), steps=400, log=tmp_path / "run.jsonl")
    assert ["run.jsonl"] == os.listdir(tmp_path)
    assert monitor.history == cnnprobe.load(tmp_path / "run.jsonl").history


# -- going on --------------------------------------------------------------------------------------


def test_a_resumed_run_goes_on_in_the_same_log(tmp_path):
    path, model = tmp_path / "run.jsonl", small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    run(model, steps=4, optimizer=optimizer, log=path, every=3)
    again = run(model, steps=4, optimizer=optimizer, log=path, every=3, resume=True)
    assert ((0, 3, 6), 8) == (again.history.steps, again.history.total)
    whole = run(small(), steps=8, every=3).history
    assert whole.curve("loss").values == again.history.curve("loss").values
    assert whole.of("1", "gradient") == again.history.of("1", "gradient")
    loaded = cnnprobe.load(path).history
    assert loaded == again.history
    assert ("the run was resumed at step 4",) == loaded.notes


def test_a_run_is_resumed_at_the_step_of_its_checkpoint(tmp_path):
    path = tmp_path / "run.jsonl"
    run(small(), steps=6, log=path)
    model = small()
    kept = run(model, steps=2)
    again = run(model, steps=3, log=path, resume=2)
    assert (0, 1, 2, 3, 4) == again.history.steps
    assert run(small(), steps=5).history.of("1") == again.history.of("1")
    assert kept.history.curve("loss").values == again.history.curve("loss").values[:2]
    assert cnnprobe.load(path).history == again.history


def test_resume_begins_a_log_where_there_is_none(tmp_path):
    assert (0, 1, 2) == run(small(), log=tmp_path / "run.jsonl", resume=True).history.steps


def test_a_nan_that_the_resumed_run_does_not_meet_again_is_forgotten(tmp_path):
    path, model = tmp_path / "run.jsonl", tiny()
    nan = torch.full_like(batch()[0], float("nan"))
    run(model, steps=2, log=path, data=(nan, batch()[1]))
    assert 0 == cnnprobe.load(path).history.nonfinite.step
    again = run(tiny(), steps=2, log=path, resume=0)
    assert again.history.nonfinite is None
    assert cnnprobe.load(path).history == again.history


@pytest.mark.parametrize(
    ("options", "message"),
    [({"resume": True}, "there is no log to resume"), ({"resume": -1, "log": "x"}, "not a step"),
        ({"resume": "yes", "log": "x"}, "'yes' is not a step")],
)  # fmt: skip
def test_what_cannot_be_resumed_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        cnnprobe.monitor(small(), **options)


def test_the_log_of_another_model_is_not_gone_on_with(tmp_path):
    path = tmp_path / "run.jsonl"
    run(small(), steps=1, log=path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match="the log is of a Sequential, but the model is a Linear"):
        cnnprobe.monitor(nn.Linear(2, 2), log=path, resume=True)
    (tmp_path / "notes.jsonl").write_text("shopping\n")
    with pytest.raises(ProbeError, match="not a complete JSON"):
        cnnprobe.monitor(small(), log=tmp_path / "notes.jsonl", resume=True)
    assert (before, "shopping\n") == (path.read_bytes(), (tmp_path / "notes.jsonl").read_text())


KILLED = """
    import os, signal, sys, torch, cnnprobe
    from torch import nn
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer, log=sys.argv[1], resume=True):
        for step in range(8):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
            if step == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_loses_no_step_and_the_next_one_goes_on_after_the_line_that_was_cut(tmp_path):
    path = tmp_path / "run.jsonl"
    killed = run_python("-c", textwrap.dedent(KILLED), str(path), "4")
    assert -signal.SIGKILL == killed.returncode
    assert 5 == cnnprobe.load(path).history.total
    with path.open("a") as file:
        file.write('{"step": 5, "cur')
    assert 0 == run_python("-c", textwrap.dedent(KILLED), str(path), "99").returncode
    history = cnnprobe.load(path).history
    assert tuple(range(13)) == history.steps
    assert ("the run was resumed at step 5",) == history.notes


# -- disks and clocks ------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="NOT TESTED: no /dev/full")
def test_a_full_disk_is_said_once_and_the_training_goes_on():
    bare, model = small(), small()
    run(bare)
    with pytest.warns(RuntimeWarning, match="No space left on device") as said:
        monitor = run(model, log="/dev/full")
    assert 1 == len(said)
    assert [note for note in monitor.history.notes if "the training goes on" in note] == [
        str(said[0].message)
    ]
    assert all(map(torch.equal, bare.state_dict().values(), model.state_dict().values()))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(folder)]
    if os.name == "nt" or os.getuid() or subprocess.run(command, check=False).returncode:
        pytest.skip("NOT TESTED: mounting is not allowed")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_disk_that_is_full_when_the_log_rotates_keeps_what_was_written(small_disk, monkeypatch):
    monkeypatch.setattr(journal, "LARGEST", 150_000)
    with pytest.warns(RuntimeWarning, match="No space left on device") as said:
        monitor = run(small(), steps=300, log=small_disk / "run.jsonl")
    assert 1 == len(said)
    assert 300 == monitor.history.total
    assert ["run.jsonl"] == os.listdir(small_disk)
    read = cnnprobe.load(small_disk / "run.jsonl").history
    assert 0 < len(read.steps) < 300
    assert monitor.history.steps[: len(read.steps)] == read.steps


def test_a_disk_that_is_mounted_read_only_is_said_once(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.warns(RuntimeWarning, match="Read-only file system") as said:
        monitor = run(small(), log=small_disk / "run.jsonl")
    assert (1, 3, []) == (len(said), monitor.history.total, os.listdir(small_disk))


def test_where_warnings_are_errors_a_full_disk_ends_no_training(tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "_write_whole", lambda *_: (_ for _ in ()).throw(OSError("gone")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor = run(small(), log=tmp_path / "run.jsonl")
    assert 3 == monitor.history.total
    assert "could not be written (gone)" in monitor.history.notes[0]


def test_a_disk_that_has_room_again_gets_whole_lines_again(tmp_path, monkeypatch):
    write, wrong = journal._write_whole, []

    def write_in_part(file, data):
        if b'"step":1,' in data or b'"step":2,' in data:
            file.write(data[:20])
            wrong.append(1)
            raise OSError(28, "No space left on device")
        write(file, data)

    monkeypatch.setattr(journal, "_write_whole", write_in_part)
    with pytest.warns(RuntimeWarning) as said:
        run(small(), steps=5, log=tmp_path / "run.jsonl")
    assert (2, 1) == (len(wrong), len(said))
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert all(map(json.loads, lines))
    assert (0, 3, 4) == cnnprobe.load(tmp_path / "run.jsonl").history.steps


READ_ONLY = """
    import os, sys, torch, cnnprobe
    from torch import nn
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(3, 4)).sum().backward()
    if os.getuid() == 0:
        os.setuid(65534)
    with cnnprobe.monitor(model, optimizer, log=sys.argv[1]) as monitor:
        for step in range(3):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
    print(monitor.history.total, monitor.history.notes[0])
"""


@pytest.mark.skipif(os.name == "nt", reason="no such permissions")
def test_a_folder_that_cannot_be_written_to_is_said_once_and_the_training_goes_on(tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o555)
    ended = run_python("-c", textwrap.dedent(READ_ONLY), str(folder / "run.jsonl"))
    assert 0 == ended.returncode, ended.stderr
    assert 1 == ended.stderr.count("could not be written (Permission denied); the training goes on")
    assert ended.stdout.startswith("3 ")
    assert "Permission denied" in ended.stdout


def test_a_folder_that_is_not_there_is_said_before_the_training(tmp_path):
    with pytest.raises(ProbeError, match="the journal cannot be written: No such file"):
        cnnprobe.monitor(small(), log=tmp_path / "missing" / "run.jsonl")


def test_a_writer_that_fails_ends_its_own_curves_alone(tmp_path):
    class Full:
        def add_scalar(self, *_):
            raise OSError(28, "No space left on device")

    with pytest.warns(RuntimeWarning, match="Board stopped at step 1") as said:
        monitor = run(small(), log=tmp_path / "run.jsonl", tensorboard=Full())
    assert 1 == len(said)
    assert (0, 1, 2) == monitor.history.steps == cnnprobe.load(tmp_path / "run.jsonl").history.steps
    assert any("Board stopped" in note for note in monitor.history.notes)


def test_a_clock_that_is_set_back_changes_no_seconds(tmp_path, monkeypatch):
    real = time.time
    shift = iter(range(10**6))
    monkeypatch.setattr(time, "time", lambda: real() - 3600 * next(shift))
    history = run(small(), steps=5, log=tmp_path / "run.jsonl", budget=0.5).history
    assert 5 == len(history.curve("seconds").values)
    assert all(0 < seconds < 60 for seconds in history.curve("seconds").values)


# -- what is said of a long run --------------------------------------------------------------------


def test_the_rules_see_the_same_in_a_thinned_run(short):
    model = small()
    monitor = run(model, steps=600, lr=0.05)
    assert monitor.history.thinned > 400
    assert set() == rules(monitor)
    broken = run(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5)), steps=300)
    assert "nan-forward" in rules(broken)
    assert 0 == broken.history.nonfinite.step


def test_a_loss_that_never_falls_is_found_in_a_thinned_run(short):
    model = tiny()
    monitor = run(model, steps=600, lr=0.0)
    assert "loss-not-decreasing" in rules(monitor)


def test_a_monitor_takes_as_much_memory_after_many_steps_as_after_some(short):
    taken = []

    def measure(step):
        if step >= 300 and step % 10 == 0:
            taken.append(tracemalloc.get_traced_memory()[0])

    tracemalloc.start()
    try:
        run(tiny(), steps=1500, after=measure)
    finally:
        tracemalloc.stop()
    assert max(taken[60:]) < 1.1 * max(taken[:60])


def test_the_page_of_a_long_run_is_small_and_has_its_extremes(short, monkeypatch, tmp_path):
    monkeypatch.undo()
    book = ledger.Ledger(model="Sequential")
    monitor = run(small(), steps=3, histograms=True)
    for slot in monitor.ledger.slots:
        book.place(slot)
    rows, spreads = monitor.ledger.rows[-1], monitor.ledger.histograms[-1]
    for step in range(60_000):
        book.put("loss", step, 99.0 if step == 43_210 else 1 / (1 + step))
        if step % 10 == 0:
            book.append(step, rows * (1 + step / 7), spreads)
        book.total = step + 1
    monitor.ledger = book
    monitor.save(tmp_path / "run.html")
    assert (tmp_path / "run.html").stat().st_size < 2_000_000
    carried = cnnprobe.load(tmp_path / "run.html").history
    curve = carried.curve("loss")
    assert (43_210, 99.0) in zip(curve.steps, curve.values, strict=True)
    assert (6000, 60_000) == (len(carried.steps) + carried.thinned, carried.total)
    assert "6,000 were observed: 0 to 59990" in Path(tmp_path / "run.html").read_text()


# -- several at once -------------------------------------------------------------------------------


def test_two_monitors_of_one_model_see_what_each_would_see_alone():
    alone, model = run(small()).history, small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer) as outer:
        inner = run(model, optimizer=optimizer)
    for seen in (inner.history, outer.history):
        assert alone.steps == seen.steps
        for fqn, what in (("1", "activation"), ("3", "gradient"), ("0.weight", "parameter")):
            assert alone.of(fqn, what).numbers == seen.of(fqn, what).numbers
    assert 0 == torch._C._len_torch_function_stack()


def test_records_around_and_inside_of_a_monitor_see_each_call():
    model, alone = small(), run(small()).history
    with cnnprobe.record(model) as around:
        monitor = run(model, steps=2)
        with cnnprobe.record(model) as inside:
            again = run(model, steps=1)
    assert (3, 1) == (len(around.traces), len(inside.traces))
    assert around.traces[-1].calls[1].outputs[0].stats == inside.trace.calls[1].outputs[0].stats
    assert alone.of("1").numbers["mean"] == (
        *monitor.history.of("1").numbers["mean"],
        *again.history.of("1").numbers["mean"],
    )


def test_nested_records_see_the_same_pass():
    model = small()
    with cnnprobe.record(model) as outer, cnnprobe.record(model) as inner:
        model(batch()[0])
    assert [call.fqn for call in outer.trace.calls] == [call.fqn for call in inner.trace.calls]
    assert [c.outputs[0].stats for c in outer.trace.calls] == [
        c.outputs[0].stats for c in inner.trace.calls
    ]
