"""Tensors of every kind: right statistics, or None; never an exception, never a change, never a
look at what is not there.
"""

import warnings

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from cnnprobe.stats import summarise

SPARSE_IS_BETA = "ignore:Sparse .* tensor support is in beta state"
SPARSE_IS_NOT_CHECKED = "ignore:Sparse invariant checks are implicitly disabled"
NESTED_IS_PROTOTYPE = "ignore:The PyTorch API of nested tensors is in prototype stage"
QUANTIZATION_IS_DEPRECATED = "ignore::UserWarning"

X = torch.tensor([[0.0, 1.0, 0.0], [-2.0, 0.0, 4.0]])
DENSE = {
    "count": 6,
    "mean": 0.5,
    "min": -2.0,
    "max": 4.0,
    "zeros": 3,
    "nan": 0,
    "inf": 0,
    "l2": 21**0.5,
    "std": (21 / 6 - 0.25) ** 0.5,
}


class Refusing(torch.Tensor):
    """A wrapper that refuses every operation."""

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"no {func}")


class RefusingFunctions(torch.Tensor):
    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(f"no {func}")


class Scaled(torch.Tensor):
    """A wrapper with values of its own: what it shows is twice what it holds."""

    @staticmethod
    def __new__(cls, x):
        wrapper = torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype)
        wrapper.held = x
        return wrapper

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return cls(args[0].held)
        return func(*[a.held * 2 if isinstance(a, cls) else a for a in args], **(kwargs or {}))


def assert_dense(tensor, rtol=1e-6) -> None:
    stats = summarise(tensor, histogram=True, channels=True)
    for key, expected in DENSE.items():
        np.testing.assert_allclose(stats.as_mapping()[key], expected, rtol=rtol, err_msg=key)


def test_meta_tensor_has_no_statistics():
    assert summarise(torch.empty(2, 3, device="meta"), histogram=True, channels=True) is None


def test_fake_tensor_has_no_statistics():
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
        assert summarise(fake) is None
    assert summarise(fake, histogram=True, channels=True) is None


def test_real_tensor_has_statistics_under_a_fake_mode():
    with FakeTensorMode():
        assert_dense(X)


def test_vmapped_tensor_has_no_statistics_and_vmap_goes_on():
    seen = []
    out = torch.vmap(lambda row: (seen.append(summarise(row)), row * 2)[1])(X)
    assert [None] == seen
    assert torch.equal(out, X * 2)


def test_tensor_inside_a_functional_gradient_is_read():
    seen = []
    grad = torch.func.grad(lambda x: (seen.append(summarise(x)), (x**2).sum())[1])(X)
    assert DENSE["max"] == seen[0].max
    assert torch.equal(grad, 2 * X)


def test_traced_module_records_nothing_of_ours():
    class Net(torch.nn.Module):
        def forward(self, x):
            summarise(x[:, ::2])
            return x + 1

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = torch.jit.trace(Net(), X).graph
    assert not {"aten::isnan", "aten::isfinite", "aten::to", "aten::contiguous"} & {
        node.kind() for node in graph.nodes()
    }


def test_subclass_that_refuses_everything_has_no_statistics():
    assert summarise(Refusing(X), histogram=True, channels=True) is None


def test_subclass_that_only_refuses_functions_is_read_by_its_storage():
    assert_dense(X.clone().as_subclass(RefusingFunctions))


def test_wrapper_is_read_by_what_it_shows():
    stats = summarise(Scaled(X))
    assert (8.0, -4.0, 3) == (stats.max, stats.min, stats.zeros)


def test_parameter_is_read_without_touching_its_gradient():
    parameter = torch.nn.Parameter(X.clone())
    (parameter * 2).sum().backward()
    assert_dense(parameter)
    assert parameter.grad_fn is None
    assert torch.equal(parameter.grad, torch.full_like(X, 2))


def test_tensor_that_needs_a_gradient_keeps_its_graph():
    x = X.clone().requires_grad_()
    y = (x * 1)[:, ::1]
    version, node = y._version, y.grad_fn
    assert_dense(y)
    assert (version, node) == (y._version, y.grad_fn)


def test_inference_tensor_is_read():
    with torch.inference_mode():
        assert_dense(X.clone())
        inside = X.clone()
    assert_dense(inside)


@pytest.mark.filterwarnings(SPARSE_IS_BETA)
@pytest.mark.parametrize("convert", ["to_sparse", "to_sparse_csr", "to_sparse_csc"])
def test_sparse_tensor_counts_the_zeros_it_does_not_store(convert):
    assert_dense(getattr(X, convert)())


@pytest.mark.filterwarnings(SPARSE_IS_BETA)
def test_block_sparse_tensor_counts_its_zeros():
    x = torch.zeros(4, 4)
    x[0, 0], x[3, 2] = 1.0, 5.0
    stats = summarise(x.to_sparse_bsr((2, 2)))
    assert (16, 14, 5.0, 6 / 16) == (stats.count, stats.zeros, stats.max, stats.mean)


@pytest.mark.filterwarnings(SPARSE_IS_BETA, SPARSE_IS_NOT_CHECKED)  # 2.11 says it all the same
def test_uncoalesced_sparse_tensor_adds_up_its_duplicates_and_stays_uncoalesced():
    x = torch.sparse_coo_tensor([[0, 0, 1]], [1.0, 2.0, -3.0], (4,), check_invariants=True)
    stats = summarise(x)
    assert (4, 2, 3.0, -3.0, 0.0) == (stats.count, stats.zeros, stats.max, stats.min, stats.mean)
    assert not x.is_coalesced()


@pytest.mark.filterwarnings(SPARSE_IS_BETA)
def test_sparse_tensor_of_zeros_only():
    stats = summarise(torch.zeros(3, 3).to_sparse())
    assert {
        "count": 9,
        "mean": 0,
        "std": 0,
        "min": 0,
        "max": 0,
        "zeros": 9,
        "nan": 0,
        "inf": 0,
        "l2": 0,
    } == stats.as_mapping()


@pytest.mark.filterwarnings(NESTED_IS_PROTOTYPE)
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensor_is_read_part_by_part(layout):
    nested = torch.nested.nested_tensor(
        [torch.tensor([0.0, 1.0, 0.0, -2.0]), torch.tensor([0.0, 4.0])], layout=layout
    )
    assert_dense(nested)


@pytest.mark.filterwarnings(QUANTIZATION_IS_DEPRECATED)
def test_quantized_tensor_is_read_as_the_numbers_it_stands_for():
    assert_dense(torch.quantize_per_tensor(X, 0.5, 10, torch.quint8))
    scales, zeros = torch.tensor([0.5, 1.0, 2.0]), torch.zeros(3, dtype=torch.int64)
    assert_dense(torch.quantize_per_channel(X, scales, zeros, 1, torch.qint8))


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="torch was built without MKLDNN"
)
def test_mkldnn_tensor_is_read():
    assert_dense(X.to_mkldnn())


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64], ids=str)
def test_integers_are_read_as_numbers(dtype):
    assert_dense(X.to(dtype))


def test_unsigned_integers_are_read_as_numbers():
    for dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        stats = summarise(torch.tensor([0, 200, 100]).to(dtype))
        assert (3, 100.0, 0.0, 200.0, 1) == (
            stats.count,
            stats.mean,
            stats.min,
            stats.max,
            stats.zeros,
        )


def test_booleans_are_zeros_and_ones():
    stats = summarise(torch.tensor([True, False, True, True]), histogram=True)
    assert (0.75, 1, 0.0, 1.0, (3,)) == (
        stats.mean,
        stats.zeros,
        stats.min,
        stats.max,
        stats.histogram.positive,
    )


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_complex_numbers_count_by_their_modulus(dtype):
    stats = summarise(torch.tensor([3 + 4j, 0, complex("nan")], dtype=dtype).conj())
    assert (3, 2.5, 0.0, 5.0, 1, 1) == (
        stats.count,
        stats.mean,
        stats.min,
        stats.max,
        stats.zeros,
        stats.nan,
    )


FLOAT8 = [
    getattr(torch, n)
    for n in ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
    if hasattr(torch, n)
]


@pytest.mark.parametrize("dtype", FLOAT8, ids=str)
def test_float8_is_read(dtype):
    assert_dense(X.to(dtype))


def test_every_dtype_gives_statistics_or_none():
    dtypes = {v for v in vars(torch).values() if isinstance(v, torch.dtype)}
    for dtype in sorted(dtypes, key=str):
        try:
            x = torch.empty(2, 3, dtype=dtype)
        except Exception:
            continue
        stats = summarise(x, histogram=True, channels=True)
        assert stats is None or stats.count == 6, dtype


def test_storage_freed_under_a_tensor_is_not_looked_into():
    x = torch.randn(100)
    every_second = x[::2]
    x.untyped_storage().resize_(0)
    assert summarise(x) is None
    assert summarise(every_second) is None


def test_expanding_to_a_trillion_elements_costs_nothing():
    stats = summarise(torch.tensor([0.0, 2.0]).expand(10**12, 2))
    assert (2 * 10**12, 10**12, 1.0, 1.0) == (stats.count, stats.zeros, stats.mean, stats.std)


def test_tangent_of_zeros_without_storage_is_read_or_none():
    assert summarise(torch._efficientzerotensor((2, 3))) in (None, summarise(torch.zeros(2, 3)))


def test_uninitialised_parameter_has_no_statistics():
    assert summarise(torch.nn.UninitializedParameter()) is None


def test_what_is_no_tensor_has_no_statistics():
    assert summarise(None) is None
    assert summarise([1.0, 2.0]) is None


def test_random_generator_is_where_it_was():
    before = torch.get_rng_state()
    summarise(torch.ones(5, 3)[:, ::2], histogram=True, channels=True)
    assert torch.equal(before, torch.get_rng_state())


class Watching(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class WatchingFunctions(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Watching, WatchingFunctions])
def test_modes_of_the_user_see_nothing_of_the_statistics(mode):
    for x in (X, X.int(), X[:, ::2]):
        with mode() as watching:
            summarise(x, histogram=True, channels=True)
        assert [] == watching.seen


def test_compiled_code_that_summarises_gives_its_result():
    def forward(x):
        summarise(x)
        return x + 1

    assert torch.equal(X + 1, torch.compile(forward, backend="eager", fullgraph=False)(X))


@pytest.mark.filterwarnings(
    "ignore:DTensor random operators:UserWarning"
)  # torch 2.6 warns of what no test does
def test_sharded_tensor_gives_the_shard_of_this_rank(tmp_path):
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without distributed")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        assert_dense(distribute_tensor(X, init_device_mesh("cpu", (1,)), [Shard(0)]))
    finally:
        distributed.destroy_process_group()
