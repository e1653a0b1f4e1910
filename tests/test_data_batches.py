"""Batches as they are given and as they are joined: lists of them, and what a collate leaves in
another order.
"""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

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


def take_dict(batch):
    return batch["image"], batch["label"], batch["weight"]


def take_list(batch, batch_idx):
    assert 0 == batch_idx
    images, labels, weights = batch
    return images, labels, weights


def take_parts(first, label, weight):
    return first, label, weight


@pytest.mark.parametrize("take", [take_dict, take_list, take_parts])
def test_step_gets_the_batch_of_a_loader_in_the_form_that_the_loader_gives(take):
    torch.manual_seed(0)
    images, weights = torch.randn(32, 3, 8, 8), torch.rand(32)
    parts = {"image": images, "label": LABELS, "weight": weights}
    data = [{key: part[i] for key, part in parts.items()} for i in range(32)]
    rows = data if take is take_dict else [tuple(row.values()) for row in data]
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def train(batch):
        assert all(map(torch.equal, batch, (images[:8], LABELS[:8], weights[:8])))
        losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
        optimizer.zero_grad()
        (losses * batch[2]).mean().backward()
        optimizer.step()

    steps = {
        take_dict: lambda batch: train(take_dict(batch)),
        take_list: lambda batch, batch_idx: train(take_list(batch, batch_idx)),
        take_parts: lambda first, label, weight: train(take_parts(first, label, weight)),
    }
    loader = DataLoader(rows, 8)
    report = cnnprobe.diagnose(model, loader, optimizer=optimizer, train_step=steps[take], trials=0)
    assert report.error is None
    assert report.trace.calls


def test_step_gets_the_parts_of_a_pair_of_inputs():
    torch.manual_seed(0)
    model = nn.Bilinear(4, 5, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)

    def step(left, right, target):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(left, right), target).backward()
        optimizer.step()

    given = (torch.randn(8, 4), torch.randn(8, 5)), torch.randn(8, 2)
    report = cnnprobe.diagnose(model, *given, optimizer=optimizer, train_step=step)
    assert report.error is None


def test_a_list_of_the_arguments_of_a_forward_is_one_batch():
    report = cnnprobe.diagnose(nn.Bilinear(4, 5, 2), [torch.randn(8, 4), torch.randn(8, 5)])
    assert report.data is None
    assert report.trace.failure is None


def test_validation_beside_a_batch_says_how_batches_are_listed():
    with pytest.raises(UsageError, match=r"a list of batches: \[\(x, y\)\]"):
        cnnprobe.diagnose(build(), torch.randn(8, 3, 8, 8), validation=list_batches())


def collate_sorted(samples, *, together):
    by_width = sorted(samples, key=lambda sample: -sample[0].shape[-1])
    widest = by_width[0][0].shape[-1]
    images = [nn.functional.pad(x, (0, widest - x.shape[-1])) for x, _ in by_width]
    own = by_width if together else samples
    return torch.stack(images), torch.tensor([y for _, y in own])


class Widths(Dataset):
    """Images of several widths; `noise` draws each anew."""

    def __init__(self, noise=0.0):
        self.noise = noise

    def __len__(self):
        return 32

    def __getitem__(self, index):
        image = torch.randn(3, 16, 16 + index % 7, generator=torch.Generator().manual_seed(index))
        return image + self.noise * torch.randn(()), index % 4


def find_misaligned(data, collate, **settings):
    loader = DataLoader(data, 8, shuffle=True, collate_fn=collate, **settings)
    report = cnnprobe.inspect_data(loader, pictures=False)
    return [f.message for f in report.findings if f.rule == "misaligned-batches"]


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_a_collate_that_sorts_the_images_alone_is_found(noise):
    torch.manual_seed(0)
    (said,) = find_misaligned(Widths(noise), partial(collate_sorted, together=False))
    assert "of the 8 in the first batch of the training data" in said
    assert [] == find_misaligned(Widths(noise), partial(collate_sorted, together=True))


def test_the_wrong_labels_of_a_batch_are_counted():
    def collate(samples):
        images, labels = zip(*samples, strict=True)
        return torch.stack(images[1:] + images[:1]), torch.tensor(labels)

    data = [(torch.randn(3, 8, 8), index % 4) for index in range(8)]
    loader = DataLoader(data, 8, collate_fn=collate)
    report = cnnprobe.inspect_data(loader, pictures=False)
    (found,) = [f for f in report.findings if f.rule == "misaligned-batches"]
    assert found.message.startswith("8 images of the 8")  # each label differs from its neighbour's


def test_a_collate_that_mixes_images_is_let_pass():
    def mix(samples):
        images, labels = default_collate(samples)
        order, part = torch.randperm(len(images)), 0.02
        return part * images + (1 - part) * images[order], labels, labels[order], part

    data = [(torch.randn(3, 8, 8), index % 4) for index in range(32)]
    assert [] == find_misaligned(data, mix)


def test_reading_a_batch_again_leaves_generators_as_they_were():
    loader = DataLoader(Widths(0.1), 8, collate_fn=partial(collate_sorted, together=False))
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    cnnprobe.inspect_data(loader, pictures=False)
    assert torch.equal(expected, torch.rand(2))


def test_other_images_of_few_grey_levels_are_no_masks():
    levels = torch.randint(0, 17, (64, 2, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 8
    pairs = [(one, other, i % 2) for i, (one, other) in enumerate(levels)]
    report = cnnprobe.inspect_data(DataLoader(pairs, 16, shuffle=True), pictures=False)
    assert not [f for f in report.findings if "mask" in f.message]
    halves = [(one, (other > 1).float(), i % 2) for i, (one, other) in enumerate(levels)]
    report = cnnprobe.inspect_data(DataLoader(halves, 16, shuffle=True), pictures=False)
    assert ["uninformative-labels"] == [f.rule for f in report.findings if "mask" in f.message]
