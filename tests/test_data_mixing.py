"""Images and labels that a collate mixes: with one order of both, and with two."""

import pytest
import torch
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader, TensorDataset, default_collate

import cnnprobe
from cnnprobe.data.mixing import find_mixes


def mix(*, how="mixup", together=True, listed=False):
    def collate(samples):
        x, y = default_collate(samples)
        p = torch.randperm(len(x))
        q = p if together else torch.randperm(len(x))
        if how == "mixup":
            weight = 0.3
            mixed = weight * x + (1 - weight) * x[p]
        else:
            weight, mixed = 0.75, x.clone()
            mixed[..., :8, :8] = x[p][..., :8, :8]
        if listed:
            return mixed, y, y[q], weight
        both = one_hot(y, 4).float()
        return mixed, weight * both + (1 - weight) * both[q]

    return collate


def find(collate):
    torch.manual_seed(3)
    data = TensorDataset(torch.randn(64, 3, 16, 16), torch.arange(64) % 4)
    loader = DataLoader(data, batch_size=16, shuffle=True, collate_fn=collate)
    report = cnnprobe.inspect_data(loader, pictures=False)
    return [f.message for f in report.findings if f.rule == "misaligned-batches"]


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
@pytest.mark.parametrize("listed", [False, True])
def test_labels_that_are_mixed_in_another_order_are_told(how, listed):
    (said,) = find(mix(how=how, together=False, listed=listed))
    assert "in the first batch of the training data do not have the label of that mix" in said


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
@pytest.mark.parametrize("listed", [False, True])
def test_labels_that_are_mixed_in_the_same_order_are_healthy(how, listed):
    assert [] == find(mix(how=how, listed=listed))


def test_smoothed_labels_of_a_mix_are_healthy():
    def collate(samples):
        mixed, soft = mix()(samples)
        return mixed, 0.9 * soft + 0.1 / 4

    assert [] == find(collate)


def test_mix_names_its_two_samples_and_the_weight_of_the_first():
    singles = torch.randn(5, 1, 64, dtype=torch.float64)
    weighted = 0.7 * singles[3] + 0.3 * singles[1]
    pasted = torch.cat([singles[2, :, :48], singles[4, :, 48:]], dim=1)
    first, second, none = find_mixes(torch.stack([weighted, pasted, -singles[0]]), singles)
    assert (3, 1, pytest.approx(0.7)) == first
    assert (2, 4, pytest.approx(0.75)) == second
    assert none is None
