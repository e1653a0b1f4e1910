"""Labels of which some are wrong, and labels that are hard, or of classes that look the same."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from cnnprobe.data.noise import find_noise
from cnnprobe.data.spots import Spotted


def study(features, labels):
    spots = [Spotted(batch=0, position=i, index=i, label=int(k)) for i, k in enumerate(labels)]
    return find_noise(list(zip(features.astype("float32"), map(int, labels), strict=True)), spots)


def draw_digits(wrong):
    digits = load_digits()
    random = np.random.default_rng(1)
    drawn = random.integers(0, 10, len(digits.target))
    return digits.data, np.where(random.random(len(drawn)) < wrong, drawn, digits.target)


@pytest.mark.parametrize("wrong", [0.25, 0.4])
def test_labels_that_are_drawn_by_chance_are_found(wrong):
    features, labels = draw_digits(wrong)
    found = study(features, labels)
    assert pytest.approx(1 - 0.9 * wrong, abs=0.08) == found.surest  # one in ten is right by chance
    true = load_digits().target
    looks = [guess == true[spot.index] for spot, guess in found.examples]
    assert looks.count(True) >= 7


@pytest.mark.parametrize("wrong", [0.0, 0.03])
def test_digits_as_they_are_and_with_a_few_slips_are_healthy(wrong):
    assert study(*draw_digits(wrong)) is None


def test_classes_that_are_hard_to_tell_are_healthy():
    random = np.random.default_rng(2)
    labels = random.integers(0, 6, 512)
    features = random.normal(size=(512, 20))
    features[:, 0] += 0.8 * labels
    assert study(features, labels) is None


def test_pairs_of_classes_that_look_the_same_are_healthy():
    features, labels = draw_digits(0.0)
    random = np.random.default_rng(3)
    hidden = random.integers(0, 2, len(labels))
    assert study(features, 2 * labels + hidden) is None


def test_few_images_and_two_classes_are_not_judged():
    features, labels = draw_digits(0.3)
    assert study(features[:200], labels[:200]) is None
    assert study(features, labels % 2) is None


def test_samples_with_a_wrong_label_come_first_on_the_sheets():
    features, labels = draw_digits(0.3)
    images = torch.from_numpy(features).float().reshape(-1, 1, 8, 8) / 16
    data = TensorDataset(images, torch.from_numpy(labels))
    report = cnnprobe.inspect_data(DataLoader(data, 32, shuffle=True))
    assert ["noisy-labels"] == [f.rule for f in report.findings]
    assert "training-suspicious" == report.sheets[0].name
    assert "8 suspicious images of the training data" in report.sheets[0].title
