"""Each engine against NumPy in double precision, on data that break naive formulas, and on every
dtype and layout.
"""

import ctypes
import functools
import pathlib
import re
import threading

import numpy as np
import pytest
import torch

from cnnprobe.records.statistics import COLUMNS
from cnnprobe.stats import RowTable, build, chunked, content, native, plain, summarise, write

torch.manual_seed(0)
N = 300_001  # more than one block and piece, and no multiple of anything


def _spoiled(x):
    x = x.clone()
    x[5], x[77], x[-1], x[100_000] = float("nan"), float("inf"), float("-inf"), float("nan")
    return x


DATA = {
    "relu": torch.randn(N).relu(),
    "N(10, 1)": torch.randn(N) + 10,
    "N(1e3, 1)": torch.randn(N) + 1e3,
    "N(1e4, 0.1)": torch.randn(N) * 0.1 + 1e4,
    "N(0, 1e19)": torch.randn(N) * 1e19,
    "N(0, 1e-25)": torch.randn(N) * 1e-25,
    "denormals": torch.randn(N) * 1e-41,
    "an outlier first": torch.cat([torch.tensor([1e30]), torch.randn(N - 1)]),
    "two far clusters": torch.cat([torch.randn(N // 2) - 1e4, torch.randn(N // 2) + 1e4]),
    "channels far apart": (
        torch.randn(8, 64, 500) * 0.1 + torch.arange(64.0)[:, None] * 100
    ).reshape(-1),
    "a constant": torch.full((N,), 0.1),
    "zeros": torch.zeros(N),
    "negative zeros and denormals": torch.tensor([-0.0, 0.0, -1e-40, 1e-40, 3.0, -5.0]).repeat(
        2000
    ),
    "wide": torch.randn(N).mul(40).exp().clamp(max=1e38) * torch.randn(N).sign(),
    "a few far below": torch.where(torch.arange(N) % 997 == 0, 1e-9, 1.0) * torch.randn(N),
    "a few tiny": torch.where(torch.arange(N) % 997 == 0, 1e-37, 40.0) * torch.randn(N),
    "negative alone": -torch.randn(N).abs() - 1e-3,
    "each block larger": torch.randn(N) * 2.0 ** (torch.arange(N) // 4096),
    "each block smaller": torch.randn(N) * 2.0 ** (-3.0 * (torch.arange(N) // 4096)),
    "negative at the end": torch.where(torch.arange(N) < 2 * N // 3, 1.0, -1.0) * torch.rand(N),
    "denormals in between": torch.where(torch.arange(N) % 9001 < 9000, 1.0, 1e-40) * torch.rand(N),
    "a large mean in between": torch.randn(N)
    + torch.where(torch.arange(N) // 8192 % 3 == 1, 50, 0),
    "NaN in between": torch.where(torch.arange(N) % 50_000 == 49_999, torch.nan, torch.randn(N)),
    "Inf in between": torch.where(torch.arange(N) % 50_000 == 49_999, -torch.inf, torch.randn(N)),
    "one": torch.tensor([-2.5]),
    "two": torch.tensor([1.0, 2.0]),
    "NaN and Inf": _spoiled(torch.randn(N)),
    "all NaN": torch.full((10_000,), float("nan")),
    "only Inf": torch.tensor([float("inf"), float("-inf")]),
    "NaN first": torch.cat([torch.tensor([float("nan")]), torch.randn(9000)]),
    "greatest floats": torch.tensor([3.4e38, -3.4e38, 3.3e38]),
    "double N(1e9, 1)": torch.randn(N, dtype=torch.float64) + 1e9,
    "double 1e300": torch.randn(N, dtype=torch.float64) * 1e300,
    "double 1e-300": torch.randn(N, dtype=torch.float64) * 1e-300,
    "half N(100, 1)": (torch.randn(N) + 100).half(),
    "half with denormals": (torch.randn(N) * 1e-6).half(),
    "half relu": torch.randn(N).relu().half(),
    "half to the brim": torch.full((N,), 65504.0).half(),
    "half with NaN and Inf": _spoiled(torch.randn(N)).half(),
    "bfloat16 N(3, 2)": (torch.randn(N) * 2 + 3).bfloat16(),
    "bfloat16 1e30": (torch.randn(N) * 1e30).bfloat16(),
}


def _kernel(tensor, table):
    if native.load_kernel() is None:
        pytest.skip("no compiler on this machine and no kernel in the package")
    return native.load_kernel().write(tensor, tensor.data_ptr(), tensor.numel(), table, 0)


def _plain(tensor, table):
    table.hold(
        0,
        plain.measure(
            content.read_content(tensor, channels=False), histogram=table.histograms is not None
        ),
    )
    return True


ENGINES = {
    "kernel": _kernel,
    "chunked": lambda tensor, table: chunked.write(tensor, table, 0),
    "plain": _plain,
}


def oracle(tensor: torch.Tensor) -> dict[str, float]:
    """By NumPy in long double, over the finite values."""
    x = tensor.detach().double().numpy().ravel().astype(np.longdouble)
    finite = x[np.isfinite(x)]
    some = finite.size > 0
    return {
        "count": x.size,
        "mean": float(finite.mean()) if some else np.nan,
        "std": float(finite.std()) if some else np.nan,
        "min": float(finite.min()) if some else np.nan,
        "max": float(finite.max()) if some else np.nan,
        "zeros": int((finite == 0).sum()),
        "nan": int(np.isnan(x).sum()),
        "inf": int(np.isinf(x).sum()),
        "l2": float(np.sqrt((finite**2).sum())),
    }


def assert_agrees(stats, expected, rtol=1e-6) -> None:
    for key in ("count", "min", "max", "zeros", "nan", "inf"):
        np.testing.assert_equal(stats[key], expected[key], err_msg=key)
    np.testing.assert_allclose(stats["std"], expected["std"], rtol=rtol, err_msg="std")
    np.testing.assert_allclose(stats["l2"], expected["l2"], rtol=rtol, err_msg="l2")
    # A mean near zero has no relative precision; what counts is its error in standard deviations.
    np.testing.assert_allclose(
        stats["mean"],
        expected["mean"],
        rtol=1e-9,
        atol=rtol * np.nan_to_num(expected["std"]),
        err_msg="mean",
    )


def oracle_histogram(tensor) -> dict[tuple[int, bool], int]:
    x = tensor.double().numpy().ravel()
    x = x[np.isfinite(x) & (x != 0)]
    exponents = np.clip(np.frexp(x)[1] - 1, -127, 127)
    keys, counts = np.unique(2 * exponents + (x < 0), return_counts=True)  # of one axis: 20x faster
    return {(int(k) // 2, bool(k % 2)): int(n) for k, n in zip(keys, counts, strict=True)}


@functools.cache
def expect(name, count):
    """What NumPy makes of the first values of a data set, once for every processor."""
    return oracle(DATA[name][:count]), oracle_histogram(DATA[name][:count])


def as_dict(histogram) -> dict[tuple[int, bool], int]:
    found = {}
    for sign, counts in ((False, histogram.positive), (True, histogram.negative)):
        found |= {(histogram.lowest + k, sign): n for k, n in enumerate(counts) if n}
    return found


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("engine", ENGINES)
def test_engine_agrees_with_numpy_in_double_precision(engine, name):
    table = RowTable(1)
    if not ENGINES[engine](DATA[name], table):
        assert (
            DATA[name].dtype == torch.float64
        )  # the kernel's own range, and what chunks are not made for
        pytest.skip("left to plain torch by this engine")
    assert_agrees(table.read(0).as_mapping(), oracle(DATA[name]))


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("engine", ["kernel", "plain"])
def test_histogram_counts_what_numpy_counts(engine, name):
    table = RowTable(1, histogram=True)
    if not ENGINES[engine](DATA[name], table):
        pytest.skip("left to plain torch by this engine")
    assert oracle_histogram(DATA[name]) == as_dict(table.read(0).histogram)


@pytest.fixture(scope="module", params=["basic", "avx2", "avx512", "avx512_vbmi"])
def variant(request, tmp_path_factory):
    """The kernel as another processor runs it."""
    target = tmp_path_factory.mktemp("kernel") / f"{request.param}{build.SUFFIX}"
    if request.param not in _list_variants():
        pytest.skip("this processor cannot run it")
    if not build.build(target, only=request.param):
        pytest.skip("no compiler on this machine")
    return native.Kernel(ctypes.CDLL(str(target)), ctypes.PyDLL(str(target)))


def _list_variants() -> list[str]:
    needs = {"avx2": "avx2", "avx512": "avx512bw", "avx512_vbmi": "avx512_bitalg"}
    information = pathlib.Path("/proc/cpuinfo")
    flags = information.read_text().split() if information.exists() else []
    return ["basic", *(name for name, flag in needs.items() if flag in flags)]


SIZES = (1, 15, 63, 64, 65, 511, 513, 4095, 4096, 4097, 9000)


def test_kernel_counts_alike_on_every_processor(variant):
    for name, data in DATA.items():
        for count in (data.numel(), *(n for n in SIZES if n < data.numel())):
            x = data[:count].clone()
            table = RowTable(1, histogram=True)
            if variant.write(x, x.data_ptr(), count, table, 0):
                numbers, histogram = expect(name, count)
                assert histogram == as_dict(table.read(0).histogram), (name, count)
                assert_agrees(table.read(0).as_mapping(), numbers)


@pytest.mark.parametrize("size", [32, 2**15])
def test_the_engine_without_a_compiler_takes_what_is_part_of_a_graph(size):
    x = torch.randn(size, requires_grad=True) * 1
    table = RowTable(1)
    assert chunked.write(x, table, 0)
    assert_agrees(table.read(0).as_mapping(), oracle(x.detach()))


@pytest.mark.parametrize("name", DATA)
def test_summarise_is_right_whatever_engine_it_takes(name):
    stats = summarise(DATA[name], histogram=True)
    assert_agrees(stats.as_mapping(), oracle(DATA[name]))
    assert stats.count == stats.zeros + stats.nan + stats.inf + sum(stats.histogram.negative) + sum(
        stats.histogram.positive
    )


LAYOUTS = {
    "transposed": lambda x: x.transpose(1, 3),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every second": lambda x: x[:, ::2, 1::3],
    "expanded": lambda x: x[:, :1].expand(4, 7, 9, 6),
    "expanded throughout": lambda x: x[:1, :1, :1, :1].expand(3, 2, 5, 4),
    "one value": lambda x: x[0, 0, 0, 0],
    "a view of negative": torch._neg_view,
    "empty": lambda x: x[:, :0],
    "a slice of the batch": lambda x: x[1:3],
    "flipped": lambda x: x.flip(3),
    "channels last 3d": lambda x: x.unsqueeze(2).contiguous(memory_format=torch.channels_last_3d),
}


@pytest.mark.parametrize("compiled", [True, False], ids=["kernel", "no compiler"])
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_of_memory_makes_no_difference(name, dtype, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(native, "load_kernel", lambda: None)
    x = LAYOUTS[name](torch.randn(4, 7, 9, 6).sub(0.5).relu().to(dtype))
    stats = summarise(x, channels=True, histogram=True)
    assert_agrees(stats.as_mapping(), oracle(x.resolve_neg().contiguous()))
    assert oracle_histogram(x.resolve_neg().contiguous()) == as_dict(stats.histogram)
    assert_agrees(summarise(x).as_mapping(), oracle(x.resolve_neg().contiguous()))
    if x.dim() < 2:
        return
    each = [oracle(x[:, c].resolve_neg().contiguous()) for c in range(x.shape[1])]
    np.testing.assert_allclose(stats.channels.mean, [e["mean"] for e in each], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(stats.channels.std, [e["std"] for e in each], rtol=1e-6, atol=1e-9)
    assert stats.channels.zeros == tuple(e["zeros"] for e in each)
    assert stats.channels.count == tuple(e["count"] for e in each)


@pytest.mark.parametrize(
    "shape",
    [(300, 5), (2, 3, 70, 70), (3, 300, 7, 7), (700, 40, 1, 1), (2, 1, 5), (1, 17, 9000)],
    ids=str,
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_channels_far_apart_keep_their_std(shape, order):
    centres = torch.arange(shape[1]).view(-1, *[1] * (len(shape) - 2)) * 1e3
    x = torch.randn(shape) + centres
    x[0, 0].view(-1)[0] = float("nan")
    x[:, -1] = 0
    x = x.contiguous(memory_format=order) if len(shape) == 4 else x
    channels = summarise(x, channels=True).channels
    each = [oracle(x[:, c].contiguous()) for c in range(shape[1])]
    np.testing.assert_allclose(channels.std, [e["std"] for e in each], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(channels.mean, [e["mean"] for e in each], rtol=1e-8, atol=1e-6)
    assert channels.nonfinite == tuple(e["nan"] for e in each)
    assert channels.all_zero == (False,) * (shape[1] - 1) + (True,) or shape[1] == 1


def test_kernel_shares_a_large_tensor_among_threads():
    if native.load_kernel() is None:
        pytest.skip("no compiler on this machine and no kernel in the package")
    x = torch.randn(3_000_001).relu() * 3
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        threaded = summarise(x, histogram=True)
        torch.set_num_threads(1)
        alone = summarise(x, histogram=True)
    finally:
        torch.set_num_threads(before)
    assert_agrees(threaded.as_mapping(), oracle(x))
    assert alone.histogram == threaded.histogram


def test_threads_that_write_different_rows_do_not_disturb_each_other():
    tensors = [torch.randn(50_000) + k for k in range(8)]
    table = RowTable(8, histogram=True)

    def work(k):
        for _ in range(20):
            write(tensors[k], table, k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for k, x in enumerate(tensors):
        assert_agrees(table.read(k).as_mapping(), oracle(x))
        assert oracle_histogram(x) == as_dict(table.read(k).histogram)


def test_wrong_row_is_refused_before_memory_is_written():
    with pytest.raises(IndexError, match="row 2 of a table of 2"):
        write(torch.ones(3), RowTable(2), 2)


def test_view_of_the_last_tensor_is_copied_without_reading_it(monkeypatch):
    table, x = RowTable(2), torch.randn(2, 3, 4)
    write(x, table, 0)
    monkeypatch.setattr(native, "load_kernel", lambda: pytest.fail("read again"))
    write(x.flatten(1), table, 1)
    assert table.read(0) == table.read(1)


def test_tensor_changed_in_place_is_read_again():
    table, x = RowTable(2), torch.tensor([-1.0, 1.0])
    write(x, table, 0)
    write(x.relu_(), table, 1)
    assert (-1.0, 0.0) == (table.read(0).min, table.read(1).min)


def test_new_tensor_in_the_memory_of_the_last_is_read_again():
    table = RowTable(2)
    for row in range(2):  # the allocator gives the second the memory of the first
        x = torch.full((1000,), float(row))
        write(x, table, row)
        del x
    assert (0.0, 1.0) == (table.read(0).mean, table.read(1).mean)


def test_row_written_again_keeps_nothing_of_what_it_held():
    table = RowTable(1, histogram=True, channels=True)
    write(torch.ones(2, 3), table, 0)
    write(torch.zeros(5), table, 0)
    assert (None, ()) == (table.read(0).channels, table.read(0).histogram.positive)
    write(torch.empty(2, device="meta"), table, 0)
    assert table.read(0) is None


def test_kernel_is_built_for_the_numbers_that_a_row_has():
    assert list(COLUMNS) == build.read_columns()


def test_no_file_counts_the_columns_of_a_row():
    package = pathlib.Path(build.__file__).parents[1]
    found = [
        f"{path.name}: {line.strip()}"
        for folder in ("stats", "monitoring", "records")
        for path in sorted((package / folder).rglob("*.[pch]*"))
        if path.suffix in {".py", ".c", ".h"}
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(r"\brow\[\d+\]|\brows\[[^\]]*, \d+\]", line)
    ]
    assert [] == found
