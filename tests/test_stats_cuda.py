"""Statistics of CUDA tensors: the Triton kernel's arithmetic by its interpreter anywhere, and the
real thing where there is a GPU.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_stats_engines import DATA, as_dict, assert_agrees, oracle, oracle_histogram

from cnnprobe.stats import RowTable, engine, sheet, summarise, write
from cnnprobe.stats.pages import ROWS, Pages
from cnnprobe.stats.table import MeasuredRows
from tests.support.devices import refuse_to_wait

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
needs_cuda = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU HERE: the CUDA engines were not run on a device"
)
ROOT = Path(__file__).parents[1]


@needs_triton
def test_triton_kernel_agrees_with_numpy_under_its_interpreter():
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    command = [sys.executable, str(ROOT / "tests" / "support" / "triton_by_interpreter.py")]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    expected = sum(x.dtype != torch.float64 for x in DATA.values())
    assert (f"{expected} data sets measured\n", 0) == (ran.stdout, ran.returncode), ran.stderr


@pytest.fixture(params=["triton", "plain"])
def cuda_engine(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(engine, "_load_accelerated", lambda: None)
    elif engine._load_accelerated() is None:
        pytest.skip("Triton is not installed")
    return request.param


@needs_cuda
@pytest.mark.parametrize("name", DATA)
def test_cuda_tensor_agrees_with_numpy(name, cuda_engine):
    stats = summarise(DATA[name].cuda(), histogram=True)
    assert_agrees(stats.as_mapping(), oracle(DATA[name]))
    assert oracle_histogram(DATA[name]) == as_dict(stats.histogram)
    assert cuda_engine == "plain" or not engine._broken


@needs_cuda
def test_channels_of_a_cuda_tensor_equal_those_on_the_cpu(cuda_engine):
    x = torch.randn(4, 5, 6, 7).relu()
    ours, theirs = (summarise(t, channels=True).channels for t in (x.cuda(), x))
    assert (ours.count, ours.zeros, ours.nonfinite) == (
        theirs.count,
        theirs.zeros,
        theirs.nonfinite,
    )
    assert pytest.approx(theirs.mean, rel=1e-6, abs=1e-6) == ours.mean
    assert pytest.approx(theirs.std, rel=1e-6) == ours.std


@needs_cuda
def test_writing_waits_for_nothing(cuda_engine):
    table, x = RowTable(3, histogram=True), torch.randn(100_000, device="cuda")
    write(x, table, 0)  # the kernel is compiled
    with refuse_to_wait():
        for row, tensor in enumerate((x, x.half(), x[::2])):
            write(tensor, table, row)
    assert [100_000, 100_000, 50_000] == [table.read(row).count for row in range(3)]


def test_rows_that_are_left_on_a_device_come_over_when_they_are_asked_for(monkeypatch):
    def write_there(tensor, table, row):
        """As on a device: the moments of two parts, to be merged when they are fetched."""
        halves = [[h.numel(), h.numel(), h.mean(), ((h - h.mean()) ** 2).sum(), (h * h).sum(),
                   h.min(), h.max(), 0, 0] for h in tensor.double().chunk(2)]  # fmt: skip
        table.hold_parts(row, MeasuredRows(torch.tensor(halves, dtype=torch.float64)))

    monkeypatch.setattr(sheet, "write", write_there)
    monkeypatch.setattr(sheet.native, "load_kernel", lambda: None)
    pages = Pages(histogram=False)
    tensors = [torch.arange(8.0) + k for k in range(3 * ROWS // 2)]
    readings = [pages.measure(t) for t in tensors]
    latest = readings[-1].get()
    assert latest.mean == tensors[-1].mean()
    for tensor, reading in zip(tensors, readings, strict=True):
        found = reading.get()
        assert (8, tensor.mean(), tensor.max()) == (found.count, found.mean, found.max)
        assert pytest.approx(tensor.std(correction=0)) == found.std
