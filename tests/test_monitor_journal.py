"""Where a monitor writes its history: a file that a killed run leaves readable, TensorBoard, the
terminal.
"""

import base64
import io
import json
import math
import os
import signal
import sys
import textwrap
import types
import zlib

import numpy as np
import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import ProbeError, TargetError
from cnnprobe.monitoring.line import TerminalLine, line
from cnnprobe.records import schema
from cnnprobe.records.packing import pack_rows
from tests.support.loops import Root, run, small
from tests.support.python import run_python


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("broken sample\nof image 7"), "ValueError in step 2: broken sample"),
        (KeyboardInterrupt(), "KeyboardInterrupt in step 2"),
    ],
)
def test_the_journal_says_by_what_the_block_was_left(tmp_path, error, said):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(type(error)), cnnprobe.monitor(model, optimizer, log=tmp_path / "run.jsonl"):
        for step in range(4):
            if step == 2:
                raise error
            model(torch.ones(2, 3, 8, 8)).sum().backward()
            optimizer.step()
    notes = cnnprobe.load(tmp_path / "run.jsonl").history.notes
    assert f"the block was left by {said}" in notes


def test_a_journal_is_read_back_as_the_history_it_is(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5))
    monitor = run(model, steps=5, every=2, histograms=True, log=tmp_path / "run.jsonl")
    report = cnnprobe.load(tmp_path / "run.jsonl")
    assert monitor.history == report.history
    assert schema.to_plain(monitor.trace) == schema.to_plain(report.trace)
    assert monitor.findings == report.findings
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert all(json.loads(line, parse_constant=pytest.fail) for line in lines)


def rewrite(path, change):
    """The log with each line changed, in place."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(change(line)) + "\n" for line in lines))


def write_as_before(line):
    """A line as logs had it before their numbers were packed: a row of digits for each slot."""
    if "packed" not in line:
        return {key: value for key, value in line.items() if key != "columns"}
    data = np.frombuffer(zlib.decompress(base64.b64decode(line.pop("packed"))), "<f8")
    rows = data.reshape(10, -1).T
    line["rows"] = [
        [slot, *(None if math.isnan(v) else schema.to_plain(v) for v in row.tolist())]
        for slot, row in enumerate(rows)
        if not np.isnan(row[0]) or not np.isnan(row[8])
    ]
    names = ("lowest", "negative", "positive")
    line["histograms"] = [
        [slot, dict(zip(names, parts, strict=True))] for slot, *parts in line["histograms"]
    ]
    return line


def test_a_log_of_digits_is_read_as_the_same_run(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5))
    monitor = run(model, steps=5, every=2, histograms=True, log=tmp_path / "run.jsonl")
    size = (tmp_path / "run.jsonl").stat().st_size
    rewrite(tmp_path / "run.jsonl", write_as_before)
    assert '"rows"' in (tmp_path / "run.jsonl").read_text()
    assert monitor.history == cnnprobe.load(tmp_path / "run.jsonl").history
    assert size < (tmp_path / "run.jsonl").stat().st_size


def test_columns_that_are_not_known_are_passed_over_and_those_that_lack_are_nan(tmp_path):
    monitor = run(small(), steps=2, log=tmp_path / "run.jsonl")
    names = {"mean": "median"}

    def rename(line):
        named = [names.get(name, name) for name in line.get("columns", [])]
        return line | ({"columns": named} if named else {})

    rewrite(tmp_path / "run.jsonl", rename)
    read, known = cnnprobe.load(tmp_path / "run.jsonl").history.of("1"), monitor.history.of("1")
    assert known["max"] == read["max"]
    assert all(map(math.isnan, read["mean"]))


@pytest.mark.parametrize(
    "change",
    [lambda text: text[:-8], lambda text: "!" + text[1:], lambda _: pack_rows(np.ones((99, 10)))],
)
def test_packed_numbers_that_were_changed_are_refused_with_their_line(tmp_path, change):
    run(small(), steps=2, log=tmp_path / "run.jsonl")

    def damage(line):
        return line | ({"packed": change(line["packed"])} if line.get("step") == 1 else {})

    rewrite(tmp_path / "run.jsonl", damage)
    with pytest.raises(ProbeError, match=r"line \d+ of the journal is damaged"):
        cnnprobe.load(tmp_path / "run.jsonl")


def test_a_step_of_seven_layers_takes_less_than_two_kilobytes(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(320, 5),
    )  # fmt: skip
    run(model, steps=20, log=tmp_path / "run.jsonl")
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    steps = [line for line in lines if '"packed"' in line]
    assert 20 == len(steps)
    assert max(map(len, steps)) < 2000


KILLED = """
    import os, signal, sys, torch, cnnprobe
    from torch import nn
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer, log=sys.argv[1]):
        for step in range(100):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
            if step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_keeps_what_it_had_written(tmp_path):
    path = tmp_path / "run.jsonl"
    ended = run_python("-c", textwrap.dedent(KILLED), str(path))
    assert -signal.SIGKILL == ended.returncode
    history = cnnprobe.load(path).history
    assert tuple(range(7)) == history.steps
    assert any("did not finish" in note for note in history.notes)
    with path.open("a") as file:
        file.write('{"step": 7, "cur')  # a line that the kill cut off
    assert history == cnnprobe.load(path).history


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "not a complete JSON"), ('{"schema_version": 1, "type": "Report"}\n',
        "not a cnnprobe Journal"), (None, "cannot be read"), ("GOOD{\n{}\n", "is not JSON"),
        ('GOOD{"step": 1}\n', "damaged")],
)  # fmt: skip
def test_what_is_no_journal_is_refused(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    if text is not None:
        path.write_text(
            text.replace("GOOD", '{"schema_version": 1, "type": "Journal", "model": "Net"}\n')
        )
    with pytest.raises(ProbeError, match=message):
        cnnprobe.load(path)


def test_tensorboards_writer_gets_scalars_and_histograms():
    got = []
    writer = types.SimpleNamespace(
        add_scalar=lambda tag, value, step: got.append((tag, step)),
        add_histogram_raw=lambda tag, **values: got.append(
            (tag, len(values["bucket_limits"]) - len(values["bucket_counts"]))
        ),
        flush=lambda: got.append(("flush", 0)),
    )
    run(small(), steps=2, histograms=True, tensorboard=writer)
    assert {
        ("training/loss", 1),
        ("activation zeros/1", 0),
        ("update ratio/0.weight", 1),
        ("activation/0", 0),
        ("flush", 0),
    } <= set(got)


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="TensorBoard is not installed: its files were NOT read back"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = run(small(), steps=3, histograms=True, tensorboard=tmp_path).history
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(each.step, each.value) for each in events.Scalars("training/loss")]
    assert list(zip(history.steps, history.curve("loss").values, strict=True)) == [
        (step, pytest.approx(value)) for step, value in points
    ]
    spread = events.Histograms("activation/1")[-1].histogram_value
    seen = history.of("1")
    assert (seen["count"][-1], seen["max"][-1]) == (spread.num, pytest.approx(spread.max))
    assert seen["count"][-1] == sum(spread.bucket)


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TargetError) as raised:
        cnnprobe.monitor(small(), tensorboard=tmp_path)
    assert raised.value.fix.startswith("pip install tensorboard")


def test_a_line_of_progress_is_written_over_itself_in_a_terminal_and_nowhere_else(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "60")
    terminal, file = Terminal(), io.StringIO()
    monitor = run(small())
    for stream in (terminal, file):
        line = TerminalLine(stream)
        line.wrote(monitor, 2, observed=True)
        line.close(monitor)
    assert "" == file.getvalue()
    assert terminal.getvalue().startswith("\rstep 2, loss ")
    assert terminal.getvalue().endswith("\n")
    assert all(len(part) <= 60 for part in terminal.getvalue().split("\r"))


def test_the_line_says_what_is_wrong_first_and_leaves_whole_parts_out_where_there_is_no_room():
    monitor = run(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5)), steps=2, every=2
    )
    whole, short = line(monitor, 1), line(monitor, 1, 79)
    assert whole.startswith(
        "step 1, NOT FINITE since step 0: activation of '2', loss NaN, lr 0.1000, "
    )
    assert whole.endswith(" steps/s, 1 in 2 observed")
    assert len(short) <= 79
    assert whole.startswith(f"{short}, ")


def test_a_report_of_a_run_is_saved_loaded_and_shown(tmp_path):
    monitor = run(small())
    monitor.save(tmp_path / "run.json")
    assert monitor.report == cnnprobe.load(tmp_path / "run.json")
    assert "3 training steps: 0 to 2" in str(monitor)
    assert "<Monitor of Sequential: 3 steps, 3 observed>" == repr(monitor)
