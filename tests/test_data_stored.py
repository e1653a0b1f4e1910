"""Samples beside the arrays of their data set: values in another order, bytes that wrap around."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import cnnprobe

RANDOM = np.random.default_rng(0)
PICTURES = RANDOM.integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
SIGNALS = torch.randn(64, 20, 3, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 4


class Made(Dataset):
    """Samples that a function makes of the arrays."""

    def __init__(self, make, held=PICTURES):
        self.held, self.make = held, make

    def __len__(self):
        return len(self.held)

    def __getitem__(self, i):
        return self.make(self.held[i]), LABELS[i]


def find(loader, name):
    return [f for f in cnnprobe.inspect_data(loader).findings if f.rule == name]


def load(make, held=PICTURES):
    return DataLoader(Made(make, held), 16)


def to_tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).float() / 255


def read_grey(array):
    return np.asarray(Image.fromarray(array[..., 0], "L"))[..., None]


WRAPPING = {
    "a product": lambda x: to_tensor(x * x[..., ::-1]),
    "a sum": lambda x: to_tensor(x + np.uint8(60)),
    "a difference": lambda x: to_tensor(x - x[..., :1]),
}
WIDE = {
    "a cast before": lambda x: to_tensor(x.astype(np.float32) * x[..., ::-1]),
    "no arithmetic": to_tensor,
    "scaled by its dtype": lambda x: to_tensor(x) * (1 if x.dtype == np.uint8 else 255),
    "a picture of a mode": lambda x: to_tensor(
        np.asarray(Image.fromarray(x[..., 0], "L"))[..., None]
    ),
    "inverted": lambda x: to_tensor(255 - x),
    "drawn at random": lambda x: to_tensor(x) + torch.rand(1),
}


@pytest.mark.parametrize("way", WRAPPING)
def test_bytes_that_wrap_around_are_found(way):
    (found,) = find(load(WRAPPING[way]), "wrapped-pixels")
    assert "computed in the bytes of the data set's held" in found.message


@pytest.mark.parametrize("way", WIDE)
def test_bytes_that_do_not_wrap_around_are_no_finding(way):
    assert not find(load(WIDE[way]), "wrapped-pixels")


def test_noise_whose_pixels_are_repeated_does_not_wrap_around():
    noise = (torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0)) / 4 + 0.5).clamp(
        0, 1
    )
    pictures = noise.repeat_interleave(2, -1).repeat_interleave(2, -2)
    assert not find(DataLoader(TensorDataset(pictures, LABELS), 16), "wrapped-pixels")


def collate(move):
    def join(samples):
        x, y = zip(*samples, strict=True)
        return move(torch.stack(x)), torch.stack(y)

    return join


@pytest.mark.parametrize(
    ("move", "is_found"),
    [(lambda x: x.view(-1, 3, 20), True), (lambda x: x.transpose(1, 2), False)],
)
def test_collate_that_reshapes_time_to_channels_is_found(move, is_found):
    loader = DataLoader(TensorDataset(SIGNALS, LABELS), 16, collate_fn=collate(move))
    found = find(loader, "rearranged-pixels")
    assert is_found == bool(found)
    assert not is_found or "transpose(-1, -2)" in found[0].fix


def test_data_set_that_reshapes_its_arrays_is_found_with_the_move_of_the_dims():
    make = {False: to_tensor, True: lambda x: torch.from_numpy(x).reshape(3, 16, 16).float() / 255}
    (found,) = find(load(make[True]), "rearranged-pixels")
    assert "of the data set's held, of shape (16, 16, 3)" in found.message
    assert "permute(2, 0, 1)" in found.fix
    assert not find(load(make[False]), "rearranged-pixels")


class Masks(Dataset):
    """Images and masks of class numbers at half of their size, resized."""

    def __init__(self, mode, top=2):
        self.masks = torch.from_numpy(RANDOM.integers(0, top + 1, (32, 8, 8)))
        self.images, self.mode = torch.rand(32, 1, 16, 16), mode

    def __len__(self):
        return 32

    def __getitem__(self, i):
        mask = self.masks[i][None, None].float()
        return self.images[i], F.interpolate(mask, size=16, mode=self.mode)[0, 0].round().long()


def test_class_numbers_that_are_resized_smoothly_are_found():
    (found,) = find(DataLoader(Masks("bilinear"), 8), "interpolated-masks")
    assert "of mode 'bilinear'" in found.message
    assert found.source.startswith(__file__)
    assert not find(DataLoader(Masks("nearest"), 8), "interpolated-masks")
    assert not find(DataLoader(Masks("bilinear", top=1), 8), "interpolated-masks")


class NoisyPictures(Dataset):
    def __init__(self, clean):
        self.pictures, self.clean = torch.rand(32, 1, 16, 16), clean

    def __len__(self):
        return 32

    def __getitem__(self, i):
        picture = self.pictures[i]
        spoilt = picture + 0.1 * torch.randn(picture.shape)
        return spoilt, picture if self.clean else spoilt


def test_target_with_the_noise_of_its_input_is_found():
    (found,) = find(DataLoader(NoisyPictures(clean=False), 8), "identical-views")
    assert found.severity == "warning"
    assert "speaks of NoisyPictures: the target is not the clean image" in found.message
    assert not find(DataLoader(NoisyPictures(clean=True), 8), "identical-views")


def seeded(seed, draw):
    def make(array):
        seed()
        return to_tensor(array) + draw()

    return make


SEEDED = {
    "torch": seeded(lambda: torch.manual_seed(3), lambda: torch.rand(1)),
    "np.random": seeded(lambda: np.random.seed(3), lambda: float(np.random.rand())),
    "random": seeded(lambda: random.seed(3), random.random),
}
UNSEEDED = {
    "drawn": seeded(lambda: None, lambda: torch.rand(1)),
    "a seed that is drawn": seeded(
        lambda: torch.manual_seed(np.random.randint(1000)), lambda: torch.rand(1)
    ),
    "a seed and no draw": seeded(lambda: torch.manual_seed(3), lambda: 0),
}


@pytest.mark.parametrize("name", SEEDED)
def test_seed_that_reading_a_sample_sets_is_found(name):
    (found,) = find(load(SEEDED[name]), "repeated-random-numbers")
    assert f"{name}'s generator" in found.message or f"{name} with one" in found.message


@pytest.mark.parametrize("name", UNSEEDED)
def test_draws_of_their_own_are_no_repeated_numbers(name):
    assert not find(load(UNSEEDED[name]), "repeated-random-numbers")


def test_arrays_of_the_data_set_are_as_before():
    loader = load(WRAPPING["a product"])
    before = loader.dataset.held
    find(loader, "wrapped-pixels")
    assert loader.dataset.held is before
    assert before.dtype == np.uint8
