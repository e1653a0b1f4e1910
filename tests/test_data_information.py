"""Labels that say something about the images, against shuffled ones: the level is kept, and weak
relations are found.
"""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import cnnprobe
from cnnprobe.data.copies import copy_images
from cnnprobe.data.information import FEWEST, measure_chance

RANDOM = np.random.default_rng(0)


def test_labels_without_information_pass_about_as_often_as_the_level_says():
    found = [
        measure_chance([(RANDOM.normal(size=20), int(RANDOM.integers(3))) for _ in range(FEWEST)])
        for _ in range(60)
    ]
    # Binomial with 60 tries of 5%: more than 8 of them in one of 200 runs.
    assert sum(p <= 0.05 for p in found) <= 8
    assert 0.3 < float(np.mean(found)) < 0.7


def test_digits_are_told_and_digits_with_the_labels_of_others_are_not():
    from sklearn.datasets import load_digits

    digits = load_digits()
    features = copy_images(torch.from_numpy(digits.images).float()[:, None]).features
    labels = digits.target.tolist()
    assert measure_chance(list(zip(features, labels, strict=True))) <= 0.05
    shuffled = RANDOM.permutation(labels).tolist()
    assert measure_chance(list(zip(features, shuffled, strict=True))) > 0.05


def test_textures_of_one_mean_are_told_by_their_edges():
    x = torch.arange(32.0)
    images, labels = [], [k % 2 for k in range(FEWEST)]
    for label in labels:
        angle, phase = RANDOM.uniform(0, np.pi), RANDOM.uniform(0, 2 * np.pi)
        wave = (np.cos(angle) * x[:, None] + np.sin(angle) * x) * (0.4 + 0.2 * label)
        images.append(torch.sin(wave + phase)[None] + 0.3 * torch.randn(1, 32, 32))
    features = copy_images(torch.stack(images)).features
    assert measure_chance(list(zip(features, labels, strict=True))) <= 0.05


def test_nothing_is_said_of_a_few_images_or_of_a_single_class():
    few = [(RANDOM.normal(size=4), k % 2) for k in range(FEWEST - 1)]
    assert measure_chance(few) is None
    assert measure_chance([(RANDOM.normal(size=4), 0) for _ in range(FEWEST)]) is None
    assert measure_chance([(RANDOM.normal(size=4), k) for k in range(FEWEST)]) is None


class Files(Dataset):
    """Images and labels whose files stand in two lists of names."""

    def __init__(self, order):
        self.f = [f"{i}.npy" for i in range(300)]
        self.l = [f"{i}.npy" for i in order]
        pattern = torch.eye(5)[torch.arange(300) % 5][:, None, :, None]
        self._images = pattern + 0.3 * torch.randn(300, 1, 5, 5, generator=torch.manual_seed(0))

    def __len__(self):
        return 300

    def __getitem__(self, i):
        return self._images[i], int(self.l[i][:-4]) % 5


def test_lists_of_files_in_two_orders_are_told_where_labels_say_nothing():
    order = torch.randperm(300, generator=torch.manual_seed(2)).tolist()
    report = cnnprobe.inspect_data(DataLoader(Files(order), 16, shuffle=True), pictures=False)
    found = {finding.rule: finding for finding in report.findings}
    assert found["mispaired-files"].message.endswith(
        "places; and the labels say nothing about the images"
    )
    assert ("mispaired-files",) == found["uninformative-labels"].follows_from


def test_lists_of_files_in_two_orders_are_healthy_where_labels_do_say_something():
    order = [k + 5 if k % 10 < 5 else k - 5 for k in range(300)]  # another file of the same class
    report = cnnprobe.inspect_data(DataLoader(Files(order), 16, shuffle=True), pictures=False)
    assert [] == [f.rule for f in report.findings if f.severity != "info"]


def test_rare_class_is_told_as_a_frequent_one_is():
    labels = [int(k % 16 == 0) for k in range(512)]
    features = [np.append(RANDOM.normal(size=20), RANDOM.normal() + 1.5 * y) for y in labels]
    assert measure_chance(list(zip(features, labels, strict=True))) <= 0.05


@pytest.mark.parametrize(("share", "severity"), [(2, "warning"), (16, "info")])
def test_labels_of_a_rarer_class_are_not_held_against_even_ones(share, severity):
    told = torch.arange(300) % 2
    images = torch.randn(300, 1, 8, 8, generator=torch.manual_seed(0))
    rare = (torch.arange(300) % share == 0).long()
    report = cnnprobe.inspect_data(
        DataLoader(TensorDataset(images, rare), 30),
        validation=DataLoader(TensorDataset(images.flip(0) + told[:, None, None, None], told), 30),
        pictures=False,
    )
    (found,) = [f for f in report.findings if f.rule == "uninformative-labels"]
    assert severity == found.severity.value
    assert (severity == "warning") == ("those of the other data are told" in found.message)
