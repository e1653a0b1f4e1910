"""Shapes that were worked out once are looked up, and are those that torch would give again."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from cnnprobe import probe
from cnnprobe.recorder import observe, recalled


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        for _ in range(3):
            y = self.act(self.norm(self.conv(x)))
            x = F.hardswish(F.max_pool2d(torch.cat([x, y]), 1)) + 1
            x = torch.relu(x.mul(2)).add_(1)
            x = F.silu(F.avg_pool2d(x, 1), inplace=True)
        return F.adaptive_avg_pool2d(F.softmax(x, 1), 1)


def _rows(trace):
    return [
        (call.kind, [(t.shape, t.strides, t.dtype, t.requires_grad) for t in call.outputs])
        for call in trace.calls
    ]


@pytest.mark.parametrize("grad", [False, True], ids=["without gradients", "with gradients"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last], ids=str)
def test_recalled_shapes_are_those_that_torch_gives(order, training, grad, monkeypatch):
    model = Net().train(training).to(memory_format=order)
    x = torch.randn(2, 4, 6, 6).to(memory_format=order)
    with torch.set_grad_enabled(grad):
        found = _rows(probe(model, x, shapes_only=True).trace)
        if order is torch.contiguous_format:  # torch's own rules forget the order of channels last
            assert _rows(probe(model, x).trace) == found
        monkeypatch.setattr(
            recalled.Recalled, "call", lambda _, f, args, kwargs: f(*args, **kwargs)
        )
        assert _rows(probe(model, x, shapes_only=True).trace) == found


class Forces(nn.Module):
    """Gives a gradient of what it computes, and the gradient of that one's square."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(6)])

    def forward(self, x):
        x.requires_grad_()
        energy = torch.tanh(torch.tanh(self.layers(x)))
        (force,) = torch.autograd.grad(energy.sum(), x, create_graph=True)
        weights = list(self.layers.parameters())
        return force, torch.autograd.grad(force.square().sum(), weights)


def test_gradient_that_the_forward_asks_for_has_its_shape():
    x = torch.randn(3, 4)
    found = probe(Forces(), x, shapes_only=True)
    assert found.ok
    assert _rows(probe(Forces(), x).trace)[0] == _rows(found.trace)[0]
    assert not [note for note in found.trace.notes if "zeros" in note]


def test_recalled_tensor_has_a_graph_to_what_it_was_made_of_and_no_other():
    seen = recalled.Recalled()
    x = torch.empty(2, 3, device="meta", requires_grad=True)
    weight = torch.empty(4, 3, device="meta", requires_grad=True)
    plain = torch.empty(2, 3, device="meta")
    for _ in range(2):
        y = seen.call(F.linear, (x, weight), {})
        gradients = torch.autograd.grad(y.sum(), (x, weight))
        assert [(2, 3), (4, 3)] == [tuple(g.shape) for g in gradients]
        assert (True, False) == (y.requires_grad, y.is_leaf)
        assert not seen.call(torch.add, (plain, plain), {}).requires_grad
    assert len(seen._made) == 2


def test_write_in_place_is_recalled_only_where_autograd_allows_it():
    seen = recalled.Recalled()
    leaf = torch.empty(2, 3, device="meta", requires_grad=True)
    for _ in range(2):
        free = leaf * 1
        assert seen.call(F.relu, (free,), {"inplace": True}) is free
        assert 1 == free._version
        with pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
            seen.call(F.relu, (leaf,), {"inplace": True})
    for _ in range(2):
        plain = torch.empty(2, 3, device="meta")
        assert seen.call(torch.Tensor.add_, (plain, leaf), {}).requires_grad


def test_function_is_called_once_for_equal_shapes():
    seen, x = recalled.Recalled(), torch.empty(2, 3, device="meta")
    with torch.no_grad():
        first = seen.call(F.relu, (x,), {})
        again = seen.call(F.relu, (torch.empty(2, 3, device="meta"),), {})
        other = seen.call(F.relu, (torch.empty(3, 2, device="meta"),), {})
        version = x._version
        same = [seen.call(F.relu, (x,), {"inplace": True}) for _ in range(2)]
    assert len(seen._made) == 3
    assert [(2, 3), (2, 3), (3, 2)] == [tuple(t.shape) for t in (first, again, other)]
    assert all(t is x for t in same)
    assert version + 2 == x._version


@pytest.mark.parametrize("kind", ["vmap", "autocast", "values"])
def test_nothing_is_recalled_where_shapes_are_not_all(kind):
    seen = recalled.Recalled()
    x = torch.ones(2, 3, device="cpu" if kind == "values" else "meta")
    call = lambda x: seen.call(F.linear, (x, x), {})
    if kind == "vmap":
        call = torch.vmap(call)
        x = x[:, None]
    with torch.autocast("cpu", enabled=kind == "autocast"):
        outputs = [call(x) for _ in range(2)]
    assert not seen._made
    assert {"vmap": (2, 1, 1)}.get(kind, (2, 2)) == tuple(outputs[1].shape)


def test_function_modes_of_others_do_not_see_us_look():
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func)
            return func(*args, **(kwargs or {}))

    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    observe(model, (torch.ones(2, 4),), {}, statistics=False, within=(Mode(),))
    assert [F.linear, F.relu] == seen
