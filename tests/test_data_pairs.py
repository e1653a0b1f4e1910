"""Pairs of images that are called the same or different, against one another."""

import random

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

import cnnprobe
from cnnprobe.data.pairs import count_wrong


class Siamese(Dataset):
    """A pair of images each time anew, and 1 where both should be of one class."""

    def __init__(self, *, checked, classes=2, meaning="same", images=80):
        self.images = torch.randn(images, 3, 8, 8)
        self.classes = [k % classes for k in range(images)]
        self._checked, self._meaning = checked, meaning

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        same = random.random() < 0.5
        j = random.choice([j for j, k in enumerate(self.classes) if (k == self.classes[i]) == same])
        if not self._checked and not same:
            j = random.randrange(len(self.images))
        called = float(same) if self._meaning == "same" else float(i > j)
        return self.images[i], self.images[j], torch.tensor([called])


def find(dataset):
    torch.manual_seed(0)
    random.seed(0)
    report = cnnprobe.inspect_data(DataLoader(dataset, 16, shuffle=True), pictures=False)
    return [f for f in report.findings if f.rule == "inconsistent-pairs"]


@pytest.mark.parametrize(("classes", "share"), [(2, 0.5), (4, 0.25)])
def test_pairs_that_only_should_be_different_are_told(classes, share):
    (found,) = find(Siamese(checked=False, classes=classes, images=240))
    assert pytest.approx(share, abs=0.08) == float(found.message.split()[2][:-1]) / 100
    assert "that are called the same (1)" in found.message


@pytest.mark.parametrize("classes", [2, 4, 20])
def test_pairs_of_two_classes_are_healthy(classes):
    assert [] == find(Siamese(checked=True, classes=classes))


def test_pairs_of_another_meaning_are_healthy():
    assert [] == find(Siamese(checked=True, meaning="order"))


def test_random_generators_are_as_before_when_further_pairs_are_read():
    dataset = Siamese(checked=False)
    random.seed(7)
    expected = random.Random(7).random()
    cnnprobe.inspect_data(DataLoader(dataset, 16), pictures=False)
    assert expected == random.random()


def test_pairs_are_wrong_where_a_chain_of_same_ones_connects_them():
    pairs = [(b"a", b"b", 1), (b"c", b"b", 1), (b"c", b"d", 1), (b"a", b"d", 0), (b"a", b"e", 0)]
    assert (1, 2) == count_wrong(pairs, 1)
    assert (0, 3) == count_wrong(pairs, 0)  # a, d and e are one piece; b and c are none
