"""Ways with tensors that are not the usual ones."""

import functools

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.support.ways.way import Way, batch, net


def nested():
    rows = torch.nested.nested_tensor([batch(2, 4), batch(3, 4)])
    return Way(
        nn.Sequential(nn.Linear(4, 3)),
        (rows,),
        loss=lambda output, *_: output.to_padded_tensor(0.0).pow(2).mean(),
    )


def nested_jagged():
    rows = torch.nested.nested_tensor([batch(2, 4), batch(3, 4)], layout=torch.jagged)
    return Way(
        nn.Sequential(nn.Linear(4, 3)),
        (rows,),
        loss=lambda output, *_: output.values().pow(2).mean(),
    )


class SparseProduct(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, adjacency, x):
        return self.fc(torch.sparse.mm(adjacency, x))


def sparse_input():
    return Way(SparseProduct(), (torch.eye(5).to_sparse(), batch()), inner="fc")


class SparseWeight(nn.Module):
    def __init__(self, layout):
        super().__init__()
        eye = torch.eye(4)
        self.weight = nn.Parameter(eye.to_sparse() if layout == "coo" else eye.to_sparse_csr())
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(torch.sparse.mm(self.weight, x.T).T)


def sparse_parameter():
    return Way(SparseWeight("coo"), (batch(),), inner="fc")


def sparse_csr_parameter():
    return Way(SparseWeight("csr"), (batch(),), inner="fc")


class Fourier(nn.Module):
    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(4, 3, dtype=torch.complex64)

    def forward(self, x):
        return self.mix(torch.fft.fft(x)).abs()


def complex_numbers():
    return Way(Fourier(), (batch(),), inner="mix")


class Tagged(torch.Tensor):
    pass


def subclass():
    return Way(net(), (batch().as_subclass(Tagged),))


def tv_tensor():
    from torchvision import tv_tensors

    torch.manual_seed(0)
    return Way(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), (tv_tensors.Image(batch(2, 3, 8, 8)),))


def meta():
    return Way(net().to("meta"), (batch().to("meta"),))


@functools.cache
def _fake_mode():
    return FakeTensorMode()


def fake():
    mode = _fake_mode()
    with mode:
        model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3))
        x = torch.randn(5, 4)
    return Way(model, (x,), around=lambda: mode)


class Packed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.GRU(4, 3)

    def forward(self, x):
        return self.rnn(x)[0].data


def packed_sequence():
    torch.manual_seed(0)
    rows = nn.utils.rnn.pack_padded_sequence(batch(5, 3, 4), torch.tensor([5, 3, 2]))
    return Way(Packed(), (rows,), inner="rnn")
