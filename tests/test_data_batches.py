"""Batches as they are given and as they are joined: lists of them, and what a collate leaves in another order."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from cnnprobe.errors import UsageError

LABELS = torch.arange(32) % 4


def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 4))


def list_batches():
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return list(DataLoader(TensorDataset(images, LABELS), 8))


@pytest.mark.parametrize("form", [tuple, list])
def test_diagnose_takes_a_list_of_batches_as_inspect_data_does(form):
    batches = [form(batch) for batch in list_batches()]
    report = cnnprobe.diagnose(
        build(), batches, loss_fn=nn.CrossEntropyLoss(), validation=batches[:2]
    )
    expected = cnnprobe.inspect_data(batches, batches[:2], model=build(), pictures=False)
    assert report.data.data.training.samples == expected.data.training.samples == 32
    assert "train-validation-leak" in [finding.rule for finding in report.findings]


def test_diagnose_takes_a_list_of_dicts_beside_a_validation():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = build()

        def forward(self, pixels):
            return self.inner(pixels)

    batches = [{"pixels": images, "label": labels} for images, labels in list_batches()]
    report = cnnprobe.diagnose(
        Net(), batches, loss_fn=nn.CrossEntropyLoss(), validation=batches[:1]
    )
    assert 32 == report.data.data.training.samples


def test_a_list_of_the_arguments_of_a_forward_is_one_batch():
    report = cnnprobe.diagnose(nn.Bilinear(4, 5, 2), [torch.randn(8, 4), torch.randn(8, 5)])
    assert report.data is None
    assert report.trace.failure is None


def test_validation_beside_a_batch_says_how_batches_are_listed():
    with pytest.raises(UsageError, match=r"a list of batches: \[\(x, y\)\]"):
        cnnprobe.diagnose(build(), torch.randn(8, 3, 8, 8), validation=list_batches())
