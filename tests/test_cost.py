"""Multiply-accumulates, held against torchvision's published figures and hand arithmetic."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.torchvision_figures import figures, inputs_for, published, trace_of
from cnnprobe.recorder import observe
from tests.support.models import images

PUBLISHED = [
    pytest.param(name, weights, id=f"{name}-{weights.name}") for name, weights in published()
]


def macs_of(model, *args):
    return [call.macs for call in observe(model, args, {}, statistics=False).trace.calls]


MEASURED = {}


def measure(name, weights):
    """Our figures, once for all weights of one architecture that take images of one size."""
    key = (name, *(x.shape for x in inputs_for(name, weights)))
    if key not in MEASURED:
        MEASURED[key] = figures(trace_of(name, weights))
    return MEASURED[key]


def test_there_are_as_many_published_models_as_there_should_be():
    assert len(PUBLISHED) >= 103


@pytest.mark.parametrize(("name", "weights"), PUBLISHED)
@pytest.mark.filterwarnings("ignore")
def test_parameters_and_macs_equal_torchvisions_published_figures(name, weights):
    parameters, macs = measure(name, weights)
    assert weights.meta["num_params"] == parameters
    assert f"{weights.meta['_ops']:.3f}" == f"{macs:.3f}"


@pytest.mark.parametrize(
    ("model", "x", "expected"),
    [
        (nn.Conv2d(3, 4, 3), images(), 2 * 4 * 6 * 6 * 3 * 9),
        (nn.Conv2d(4, 8, 3, groups=2, stride=2), torch.randn(1, 4, 9, 9), 8 * 4 * 4 * 2 * 9),
        (nn.Conv2d(3, 4, 3), images()[0], 4 * 6 * 6 * 3 * 9),
        (nn.ConvTranspose2d(3, 4, 2, stride=2), images(), 2 * 8 * 8 * 3 * 4 * 4),
        (nn.Conv1d(2, 3, 5), torch.randn(1, 2, 10), 3 * 6 * 2 * 5),
        (nn.Linear(8, 5), images(), 2 * 3 * 8 * 8 * 5),
        (nn.ReLU(), images(), None),
        (nn.Flatten(), images(), 0),
        (nn.LSTM(4, 5), torch.randn(6, 2, 4), 6 * 2 * 4 * 5 * (4 + 5)),
    ],
    ids=[
        "conv",
        "grouped",
        "unbatched",
        "transposed",
        "conv1d",
        "linear",
        "relu",
        "flatten",
        "lstm",
    ],
)
def test_macs_of_a_layer_equal_hand_arithmetic(model, x, expected):
    assert expected == macs_of(model, x)[0]


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("with_batch", [True, False])
@pytest.mark.parametrize(
    ("kind", "size"),
    [
        (nn.Conv1d, (9,)),
        (nn.Conv2d, (9, 8)),
        (nn.Conv3d, (5, 6, 7)),
        (nn.ConvTranspose1d, (9,)),
        (nn.ConvTranspose2d, (9, 8)),
        (nn.ConvTranspose3d, (5, 6, 7)),
    ],
)
def test_macs_of_a_convolution_are_half_of_torchs_own_count(kind, size, with_batch, groups):
    layer = kind(4, 6, 3, stride=2, padding=1, groups=groups)
    x = torch.randn(*((3,) if with_batch else ()), 4, *size)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert [counter.get_total_flops() / 2] == macs_of(layer, x)


def test_macs_of_functions_equal_hand_arithmetic():
    class Products(nn.Module):
        def forward(self, x, w):
            x = F.conv2d(x, w, padding=1)
            y = x.flatten(1)
            return torch.einsum("ij,kj->ik", y, y), y @ y.t(), F.linear(y, y), y * 2

    model, x, w = Products(), images(), torch.randn(4, 3, 3, 3)
    calls = observe(model, (x, w), {}).trace.calls
    by_kind = {call.kind: call.macs for call in calls}
    assert 2 * 4 * 64 * 27 == by_kind["torch.conv2d"]
    assert [2 * 2 * 256] * 3 == [
        by_kind[kind]
        for kind in ("torch.einsum", "torch.Tensor.matmul", "torch.nn.functional.linear")
    ]
    assert by_kind["torch.Tensor.mul"] is None


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_attention_counts_the_same_in_train_and_eval_and_on_meta(mode):
    n, embed, length = 2, 8, 6
    model = getattr(nn.MultiheadAttention(embed, 2, batch_first=True), mode)()
    x = torch.randn(n, length, embed)
    projections = n * length * embed * 4 * embed
    products = 2 * n * length * length * embed
    with torch.no_grad():
        assert projections + products == macs_of(model, x, x, x)[0]
        assert projections + products == macs_of(model.to("meta"), *[x.to("meta")] * 3)[0]


def test_operation_without_a_formula_is_none_and_not_zero():
    assert [None] == macs_of(nn.Bilinear(3, 4, 5), torch.randn(2, 3), torch.randn(2, 4))
