"""The spelled-out shape arithmetic and the receptive fields, held against torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from cnnprobe.document.layout.arithmetic import compute_receptive_fields, explain_shape
from cnnprobe.recorder import observe
from tests.support.models import images


def explained(model, x):
    trace = observe(model, (x,), {}, statistics=False).trace
    return [
        explain_shape(call, trace.module(call.fqn).config if call.fqn is not None else {})
        for call in trace.calls
    ], trace


def results(lines):
    return [int(line.rsplit(" ", maxsplit=1)[-1]) for line in lines]


SMALL = st.integers(1, 4)


@given(
    kernel=SMALL,
    stride=SMALL,
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    height=st.integers(4, 17),
    width=st.integers(4, 17),
    kind=st.sampled_from(["conv", "max", "avg", "transposed"]),
    ceil=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_spelled_out_sizes_equal_torchs_own(
    kernel, stride, padding, dilation, height, width, kind, ceil
):
    assume(kind in ("conv", "transposed") or 2 * padding <= kernel)
    model = {
        "conv": lambda: nn.Conv2d(1, 1, kernel, stride, padding, dilation),
        "max": lambda: nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil),
        "avg": lambda: nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil),
        "transposed": lambda: nn.ConvTranspose2d(
            1, 1, kernel, stride, padding, min(stride, dilation) - 1, dilation=dilation
        ),
    }[kind]()
    lines, trace = explained(model, torch.randn(1, 1, height, width))
    assume(trace.failure is None)
    assert list(trace[""].outputs[0].shape[2:]) == results(lines[0])


def test_convolution_is_spelled_out_as_in_the_manual():
    lines, _ = explained(nn.Conv2d(3, 32, 3, padding=1), torch.randn(1, 3, 32, 32))
    assert "H: floor((32 + 2*1 - 1*(3-1) - 1)/1 + 1) = 32" == lines[0][0]


def test_flatten_linear_and_adaptive_pooling_are_spelled_out():
    model = nn.Sequential(nn.AdaptiveAvgPool2d((2, 3)), nn.Flatten(), nn.Linear(18, 5))
    lines, _ = explained(model, images())
    assert [
        ("H: output_size = 2", "W: output_size = 3"),
        ("3 x 2 x 3 = 18",),
        ("last dim: in_features 18 -> out_features 5",),
    ] == lines[1:]


def test_functions_are_spelled_out_like_layers():
    class Functional(nn.Module):
        def forward(self, x):
            x = F.conv2d(x, torch.ones(4, 3, 3, 3), None, 2, (1, 0))
            x = F.max_pool2d(x, 2, stride=1)
            return torch.flatten(x, 1)

    lines, trace = explained(Functional(), images())
    convolved, pooled = (call for call in trace.calls if "2d" in call.kind)
    assert list(convolved.outputs[0].shape[2:]) == results(lines[trace.calls.index(convolved)])
    assert list(pooled.outputs[0].shape[2:]) == results(lines[trace.calls.index(pooled)])
    assert [trace.calls[-1].outputs[0].shape[-1]] == results(lines[-1])


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 1, 3)],
        [nn.Conv2d(1, 1, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, dilation=2)],
        [nn.Conv2d(1, 1, 7, stride=2), nn.AvgPool2d(3, 2), nn.Conv2d(1, 1, 5)],
        [nn.Conv2d(1, 1, 3, stride=2), nn.ConvTranspose2d(1, 1, 4, stride=2), nn.Conv2d(1, 1, 3)],
    ],
    ids=["one", "pooled", "strided", "transposed"],
)
def test_receptive_field_is_where_the_gradient_of_one_output_reaches(layers):
    model = nn.Sequential(*layers)
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.ones_(parameter)
        if isinstance(layer, nn.MaxPool2d):
            layer.forward = lambda x: F.avg_pool2d(
                x, 2
            )  # the same window, but every element gets a gradient
    trace = observe(nn.Sequential(*layers), (torch.rand(1, 1, 64, 64),), {}).trace
    field = compute_receptive_fields(trace)
    x = torch.rand(1, 1, 64, 64, requires_grad=True)
    y = model(x)
    reached = []
    for offset in range(
        2
    ):  # a transposed convolution's outputs differ with their phase: the largest counts
        (grad,) = torch.autograd.grad(
            y[0, 0, y.shape[2] // 2 + offset, y.shape[3] // 2 + offset], x, retain_graph=True
        )
        rows = grad[0, 0].abs().sum(1).nonzero()
        reached.append(int(rows.max() - rows.min() + 1))
    assert max(reached) == max(f.size[0] for f in field.values())


def test_receptive_field_ends_where_a_map_loses_a_dimension():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.plane, self.line = nn.Conv2d(1, 4, 3), nn.Conv1d(4, 4, 3)

        def forward(self, x):
            return self.line(self.plane(x)[:, :, 0])

    trace = observe(Rows(), (torch.rand(1, 1, 8, 8),), {}).trace
    assert {"plane"} == {trace.calls[row].fqn for row in compute_receptive_fields(trace)}


@pytest.mark.parametrize("join", [torch.maximum, torch.fmax, torch.subtract, torch.Tensor.__rsub__])
def test_receptive_field_goes_through_every_operation_on_each_value(join):
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.near, self.far = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 5, padding=2)

        def forward(self, x):
            return join(self.near(x), self.far(x))

    trace = observe(Branches(), (torch.rand(1, 1, 8, 8),), {}).trace
    last = max(compute_receptive_fields(trace))
    assert trace.calls[last].fqn is None
    assert (5, 5) == compute_receptive_fields(trace)[last].size
