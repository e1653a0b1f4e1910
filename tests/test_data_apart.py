"""What belongs together and what must be kept apart: frames of one video, marks of one class, masks
and labels of other images.
"""

import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, random_split

import cnnprobe
from cnnprobe.data.marks import find_marks


def seed(number=0):
    return torch.Generator().manual_seed(number)


def find(training, validation=None, *rules):
    report = cnnprobe.inspect_data(training, validation, pictures=False)
    assert [] == [note for note in report.notes if "could not judge" in note]
    return [f for f in report.findings if f.rule in rules]


def load(dataset, *, shuffle=True):
    return DataLoader(dataset, 16, shuffle=shuffle, generator=seed())


# ---------------------------------------------------------------- frames on both sides


def film(videos=24, frames=12, step=1):
    """Frames of cameras that pan over smooth scenes, in the order of the videos; class: one of
    three.
    """
    scenes = interpolate(torch.rand(videos, 3, 8, 8, generator=seed()), size=96, mode="bicubic")
    images = [scene[:, 10:58, t * step : 48 + t * step] for scene in scenes for t in range(frames)]
    return TensorDataset(torch.stack(images), torch.arange(videos).repeat_interleave(frames) % 3)


def test_frames_of_one_video_on_both_sides_are_found():
    training, validation = random_split(film(), [0.8, 0.2], seed(1))
    (found,) = find(load(training), load(validation), "train-validation-leak")
    assert "nearly equal" in found.message
    assert "split by video" in found.fix
    assert "warning" == found.severity


def test_videos_that_are_kept_together_are_let_pass():
    whole = film()
    training, validation = Subset(whole, range(240)), Subset(whole, range(240, 288))
    assert [] == find(load(training), load(validation), "train-validation-leak")
    own = [i for i in range(288) if i // 12 % 4 == 0]
    others = [i for i in range(288) if i // 12 % 4]
    split = load(Subset(whole, others)), load(Subset(whole, own))
    assert [] == find(*split, "train-validation-leak")


def test_single_images_in_the_order_of_their_class_are_split_by_chance():
    images = interpolate(torch.rand(288, 3, 8, 8, generator=seed()), size=48, mode="bicubic")
    whole = TensorDataset(images, torch.arange(288) // 96)
    training, validation = random_split(whole, [0.8, 0.2], seed(1))
    assert [] == find(load(training), load(validation), "train-validation-leak")


def test_digits_are_split_by_chance():
    digits = load_digits()
    images = interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None], size=16)
    whole = TensorDataset(images, torch.tensor(digits.target))
    training, validation = random_split(whole, [0.8, 0.2], seed(1))
    found = find(load(training), load(validation), "train-validation-leak")
    assert [] == [f for f in found if "nearly equal" in f.message]


# ---------------------------------------------------------------- marks of a class


def scenes(n=96, size=48):
    return interpolate(torch.rand(n, 3, 12, 12, generator=seed()), size=size, mode="bicubic")


def test_a_mark_of_one_class_is_found_where_it_is():
    images, labels = scenes(), torch.arange(96) % 3
    images[labels == 2, :, 36:42, 6:15] = 1.0
    (found,) = find(load(TensorDataset(images, labels)), None, "marked-class")
    assert "class 2" in found.message
    left, right, top, bottom = map(
        int, re.search(r"(\d+) to (\d+)%.* (\d+) to (\d+)%", found.message).groups()
    )
    assert left <= 100 * 6 / 48 < 100 * 15 / 48 <= right
    assert top <= 100 * 36 / 48 < 100 * 42 / 48 <= bottom
    assert max(right - left, bottom - top) <= 40


@pytest.mark.parametrize("marked", [(0, 1, 2), ()])
def test_a_logo_in_all_classes_and_in_none_is_let_pass(marked):
    images, labels = scenes(), torch.arange(96) % 3
    for label in marked:
        images[labels == label, :, 36:42, 6:15] = 1.0
    assert [] == find(load(TensorDataset(images, labels)), None, "marked-class")


def test_black_borders_and_objects_at_one_place_are_no_marks():
    images, labels = scenes(), torch.arange(96) % 3
    images[:, :, :, :8] = images[:, :, :, -8:] = 0
    # An object of one class that fills a third of the image, about in the middle.
    for i in range(96):
        if labels[i] == 1:
            images[i, :, 8 + i % 4 : 36 + i % 3, 12 : 36 + i % 4] = 0.9
    assert [] == find(load(TensorDataset(images, labels)), None, "marked-class")


def draw_marked(rows, columns, side=21):
    """Noise, with a checkerboard in each second image. Of its 20 x 20 edges the mark has one row
    and one column more than it has pixels, so that 6 x 10 are 15%, and 7 x 9 are more.
    """
    random = np.random.default_rng(0)
    for number in range(80):
        x = random.normal(scale=0.3, size=(1, side, side)).astype(np.float32)
        if number % 2:
            x[0, 2 : 2 + rows, 2 : 2 + columns] += np.indices((rows, columns)).sum(0) % 2 * 8.0
        yield x, number % 2


@pytest.mark.parametrize(("rows", "columns", "marks"), [(5, 9, 1), (9, 5, 1), (6, 8, 0), (8, 6, 0)])
def test_mark_fills_at_most_fifteen_percent_of_the_image(rows, columns, marks):
    assert marks == len(find_marks(list(draw_marked(rows, columns))))


def test_digits_have_no_marks():
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    images = interpolate(images, size=32, mode="bilinear")
    data = TensorDataset(images, torch.tensor(digits.target))
    assert [] == find(load(data), None, "marked-class")


# ---------------------------------------------------------------- masks and labels of other images


def objects(n=48, order=None):
    """Discs on noise and their masks, put into another order."""
    places = torch.randint(12, 36, (n, 2), generator=seed(3))
    y, x = torch.arange(48)[:, None], torch.arange(48)
    masks = torch.stack([((y - a) ** 2 + (x - b) ** 2 < 80).long() for a, b in places.tolist()])
    images = masks[:, None].float() + 0.3 * torch.randn(n, 3, 48, 48, generator=seed(4))
    return TensorDataset(images, masks if order is None else masks[order])


def test_masks_in_another_order_are_found_and_warned_of_where_the_validation_fits():
    mixed = objects(order=torch.randperm(48, generator=seed(5)))
    (found,) = find(load(mixed), None, "uninformative-labels")
    assert "info" == found.severity
    (found,) = find(load(mixed), load(objects()), "uninformative-labels")
    assert "warning" == found.severity
    assert "masks [1] of the training data" in found.message
    assert [] == find(load(objects()), load(objects()), "uninformative-labels")


def test_masks_that_are_all_alike_are_let_pass():
    masks = torch.zeros(48, 48, 48, dtype=torch.int64)
    masks[:, 12:36, 12:36] = 1
    images = masks[:, None] + 0.3 * torch.randn(48, 3, 48, 48, generator=seed(4))
    assert [] == find(load(TensorDataset(images, masks)), None, "uninformative-labels")


def patterns(n, *, shuffled=False, strength=1.0):
    labels = torch.arange(n) % 4
    images = torch.randn(n, 1, 16, 16, generator=seed(n))
    images[:, 0, :4] += strength * labels[:, None, None]
    return TensorDataset(
        images, labels[torch.randperm(n, generator=seed(2))] if shuffled else labels
    )


def test_shuffled_labels_are_warned_of_where_those_of_the_validation_are_told():
    (found,) = find(load(patterns(512, shuffled=True)), None, "uninformative-labels")
    assert "info" == found.severity
    (found,) = find(load(patterns(512, shuffled=True)), load(patterns(416)), "uninformative-labels")
    assert "warning" == found.severity
    (found,) = find(load(patterns(512)), load(patterns(416, shuffled=True)), "uninformative-labels")
    assert ("warning", True) == (found.severity, "of the validation data" in found.message)


def test_a_hard_task_is_info():
    hard = load(patterns(512, strength=0.0)), load(patterns(416, strength=0.0))
    found = find(*hard, "uninformative-labels")
    assert {"info"} >= {f.severity for f in found}


# ---------------------------------------------------------------- volumes


class Scans(Dataset):
    """Volumes (1, z, y, x) with a long object, and masks with other axes."""

    def __init__(self, *axes):
        self.axes = axes

    def __len__(self):
        return 16

    def __getitem__(self, index):
        random = np.random.default_rng(index)
        z, y, x = np.mgrid[:24, :24, :24]
        a, b, c = random.uniform((5, 9, 14), (7, 12, 17))
        mask = ((z - a) / 3) ** 2 + ((y - b) / 5) ** 2 + ((x - c) / 7) ** 2 < 1
        image = mask + random.normal(0, 0.2, mask.shape)
        return torch.from_numpy(image).float()[None], torch.from_numpy(
            mask.transpose(self.axes).copy()
        ).long()


@pytest.mark.parametrize("axes", [(2, 1, 0), (0, 2, 1), (1, 2, 0)])
def test_masks_of_volumes_with_other_axes_are_found(axes):
    (found,) = find(DataLoader(Scans(*axes), 4), None, "turned-masks")
    back = tuple(int(i) for i in np.argsort(axes))
    assert f"in the order {back}" in found.message


def test_masks_of_volumes_with_their_own_axes_are_let_pass():
    assert [] == find(DataLoader(Scans(0, 1, 2), 4), None, "turned-masks")


def test_masks_of_volumes_that_are_flipped_are_found():
    class Flipped(Scans):
        def __getitem__(self, index):
            image, mask = super().__getitem__(index)
            return image, mask.flip(2)

    (found,) = find(DataLoader(Flipped(0, 1, 2), 4), None, "turned-masks")
    assert "flipped along axis 2" in found.message
