"""Statistics of CUDA tensors: the Triton kernel's arithmetic by its interpreter anywhere, and the real thing where there is a GPU."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_stats_engines import DATA, as_dict, assert_agrees, oracle, oracle_histogram

from cnnprobe.stats import RowTable, engine, summarise, write

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
    torch.cuda.set_sync_debug_mode("error")
    try:
        for row, tensor in enumerate((x, x.half(), x[::2])):
            write(tensor, table, row)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [100_000, 100_000, 50_000] == [table.read(row).count for row in range(3)]
