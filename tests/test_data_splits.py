"""Classes and images of the validation that stand for others, or are turned, against those of the
training: each fault beside the same data without it.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from cnnprobe.data.turns import find_turned

DIGITS = load_digits()
IMAGES = torch.from_numpy(DIGITS.images).float()[:, None].repeat_interleave(2, 2)
IMAGES = IMAGES.repeat_interleave(2, 3) / 16
LABELS = torch.from_numpy(DIGITS.target).long()
TRAINING, VALIDATION = slice(0, 1000), slice(1000, 1400)


def load(images, labels):
    return DataLoader(TensorDataset(images, labels), 50)


def find(training, validation, rule):
    report = cnnprobe.inspect_data(training, validation, pictures=False)
    assert [] == [note for note in report.notes if "could not" in note]
    return [f for f in report.findings if f.rule == rule]


def mix(labels, seed):
    """Digits up to 5 with their labels; in place of the others noise, of the classes 6 to 11."""
    random = torch.Generator().manual_seed(seed)
    noise = labels > 5
    images = IMAGES[TRAINING if seed == 0 else VALIDATION].clone()
    images[noise] = torch.rand(int(noise.sum()), 1, 16, 16, generator=random)
    given = labels.clone()
    given[noise] = torch.randint(6, 12, (int(noise.sum()),), generator=random)
    return images, given


def test_classes_that_a_model_tells_show_an_exchange_among_others_that_it_does_not():
    images, labels = mix(LABELS[TRAINING], 0)
    theirs, unseen = mix(LABELS[VALIDATION], 1)
    # The folders 0 to 11 in the order of strings: label k stands for the folder ORDER[k].
    order = sorted(range(12), key=str)
    moved = torch.tensor([order.index(int(k)) for k in unseen])
    assert not find(load(images, labels), load(theirs, unseen), "moved-classes")
    (found,) = find(load(images, labels), load(theirs, moved), "moved-classes")
    # All pairs that are named stand in that order, counted by hand: 0, 1, 10, 11, 2, 3, 4, 5.
    assert all(pair in found.message for pair in ("4 for 2", "5 for 3", "6 for 4", "7 for 5"))
    assert "as strings, 10 comes before 2" in found.fix


def test_alike_classes_are_no_exchange():
    labels = torch.where(
        LABELS < 4, LABELS, LABELS % 4 + 4
    )  # of the classes 4 to 7 each two digits
    random = np.random.default_rng(0)
    unseen = labels[VALIDATION].clone()
    unseen[:200] = torch.from_numpy(random.permutation(unseen[:200].numpy()))
    training = load(IMAGES[TRAINING], labels[TRAINING])
    assert not find(training, load(IMAGES[VALIDATION], unseen), "moved-classes")


TURNS = {
    "transposed, rows for columns": lambda images: images.transpose(-1, -2),
    "flipped left to right": lambda images: images.flip(-1),
    "flipped top to bottom": lambda images: images.flip(-2),
    "turned by 180 degrees": lambda images: images.flip(-1, -2),
    "turned by 90 degrees": lambda images: images.rot90(1, (-2, -1)),
    "turned by 270 degrees": lambda images: images.rot90(3, (-2, -1)),
    "transposed about their other diagonal": lambda images: images.flip(-1, -2).transpose(-1, -2),
}


@pytest.mark.parametrize("turn", TURNS)
def test_turned_images_of_the_training_are_named_by_what_the_validation_lacks(turn):
    images, labels = TURNS[turn](IMAGES[TRAINING]).contiguous(), LABELS[TRAINING]
    validation = load(IMAGES[VALIDATION], LABELS[VALIDATION])
    (found,) = find(load(images, labels), validation, "splits-differ")
    assert f"when they are {turn}" in found.message


def test_images_of_eight_pixels_that_are_all_flipped_are_found():
    small = torch.nn.functional.adaptive_avg_pool2d(IMAGES, 8)
    validation = load(small[VALIDATION], LABELS[VALIDATION])
    (found,) = find(load(small[TRAINING].flip(-1), LABELS[TRAINING]), validation, "splits-differ")
    assert "if every training image is flipped, draw it for each, p=0.5" in found.fix
    assert not find(load(small[TRAINING], LABELS[TRAINING]), validation, "splits-differ")


def test_digits_flipped_at_random_and_digits_of_one_way_are_not_turned():
    halves = IMAGES[TRAINING].clone()
    halves[::2] = halves[::2].flip(-1)
    validation = load(IMAGES[VALIDATION], LABELS[VALIDATION])
    assert not find(load(halves, LABELS[TRAINING]), validation, "splits-differ")
    assert not find(load(IMAGES[TRAINING], LABELS[TRAINING]), validation, "splits-differ")


def test_nothing_is_said_of_labels_that_no_model_tells():
    random = np.random.default_rng(0)
    noise = [(random.normal(size=(1, 16, 16)), int(random.integers(4))) for _ in range(400)]
    assert find_turned(noise[:300], noise[300:]) is None
    assert find_turned(noise[:300]) is None
