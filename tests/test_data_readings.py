"""Masks and key points that move at random, with their images and apart from them."""

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import cnnprobe
from cnnprobe.data.apart import compare_readings

PHOTO = torch.from_numpy(photographs.coffee()).permute(2, 0, 1).float() / 255


def draw_scene(index):
    """A bright ellipse on a piece of a photograph, and its mask."""
    random = np.random.default_rng(index)
    top, left = random.integers(0, 300), random.integers(0, 500)
    image = PHOTO[:, top : top + 48, left : left + 48].clone() * 0.6
    rows, columns = np.mgrid[:48, :48]
    y, x = random.uniform(14, 34, 2)
    a, b = random.uniform(5, 12, 2)
    mask = torch.from_numpy(((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1)
    colour = torch.from_numpy(random.uniform(0.4, 0.9, 3)).float()
    image[:, mask] = image[:, mask] * 0.3 + colour[:, None]
    return image, mask.long()


class Scenes(Dataset):
    """Scenes, and what a function makes of each."""

    def __init__(self, change, start=0):
        self.change, self.start = change, start

    def __len__(self):
        return 64

    def __getitem__(self, index):
        return self.change(*draw_scene(self.start + index))


MOVE = v2.RandomAffine(25, translate=(0.15, 0.15))


def move_both(image, mask):
    image, mask = MOVE(tv_tensors.Image(image), tv_tensors.Mask(mask))
    return image.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


def move_each(image, mask):
    return MOVE(image), MOVE(mask[None])[0]


def move_and_disturb(image, mask):
    image, mask = move_both(image, mask)
    return image * torch.rand(3, 1, 1) + 0.2 * torch.randn(image.shape), mask


def disturb(image, mask):
    return image + 0.1 * torch.randn(image.shape), mask


def keep(image, mask):
    return image, mask


@pytest.mark.parametrize(
    ("change", "found"),
    [(move_each, True), (move_both, False), (move_and_disturb, False), (disturb, False)],
)
def test_masks_that_move_otherwise_than_their_images_are_found(change, found):
    torch.manual_seed(0)
    loaders = DataLoader(Scenes(change), 8), DataLoader(Scenes(keep, 100), 8)
    report = cnnprobe.inspect_data(*loaders, pictures=False)
    said = [f for f in report.findings if f.rule == "augmented-apart"]
    assert found == bool(said)
    assert all("no better than those of another reading" in f.message for f in said)


def test_masks_of_nothing_in_the_image_are_not_judged():
    def invent(image, mask):
        return move_each(torch.rand(image.shape), mask)

    torch.manual_seed(0)
    loaders = (
        DataLoader(Scenes(invent), 8),
        DataLoader(Scenes(lambda i, m: (torch.rand(i.shape), m), 100), 8),
    )
    report = cnnprobe.inspect_data(*loaders, pictures=False)
    assert "augmented-apart" not in [f.rule for f in report.findings]


def test_the_share_of_the_variance_is_that_of_numpy():
    random = torch.Generator().manual_seed(0)
    images = [list(torch.rand(2, 3, 8, 8, generator=random)) for _ in range(10)]
    masks = [list((torch.rand(2, 8, 8, generator=random) > 0.5).long()) for _ in range(10)]
    found = compare_readings(images, masks)

    def explain(image, mask):
        total = within = 0.0
        for channel in image.double().numpy():
            total += channel.var() * channel.size
            within += sum(channel[mask == k].var() * (mask == k).sum() for k in (0, 1))
        return 1 - within / total

    own = [
        explain(x, m.numpy()) for xs, ms in zip(images, masks, strict=True) for x, m in zip(xs, ms)
    ]
    other = [
        explain(x, m.numpy())
        for xs, ms in zip(images, masks, strict=True)
        for x, m in zip(xs, ms[::-1])
    ]
    assert found.own == pytest.approx(np.mean(own), rel=1e-5)
    assert found.other == pytest.approx(np.mean(other), rel=1e-5)


def test_samples_that_hardly_move_are_too_few():
    image, mask = draw_scene(0)
    assert compare_readings([[image] * 4] * 16, [[mask] * 4] * 16) is None


# ---------------------------------------------------------------- key points


class Faces(Dataset):
    """Two eyes and a mouth in noise, and what a function makes of them."""

    def __init__(self, change, start=0):
        self.change, self.start = change, start

    def __len__(self):
        return 64

    def __getitem__(self, index):
        random = torch.Generator().manual_seed(self.start + index)
        points = torch.tensor([[20.0, 20], [44, 20], [32, 44]])
        points += torch.randint(-6, 7, (3, 2), generator=random)
        image, points = self.change(torch.rand(3, 64, 64, generator=random), points)
        return image, {"keypoints": points}


def mirror(image, points):
    if torch.rand(()) < 0.5:
        return image, points
    return image.flip(-1), torch.stack([63 - points[:, 0], points[:, 1]], 1)


def mirror_and_exchange(image, points):
    flipped, moved = mirror(image, points)
    return flipped, moved if flipped is image else moved[[1, 0, 2]]


def turn(image, points):
    times = int(torch.randint(4, ()))
    for _ in range(times):
        points = torch.stack([points[:, 1], 63 - points[:, 0]], 1)
    return image.rot90(times, (-2, -1)), points


@pytest.mark.parametrize(
    ("change", "found"),
    [(mirror, True), (mirror_and_exchange, False), (turn, False), (keep, False)],
)
def test_left_and_right_points_of_a_mirrored_image_change_places(change, found):
    torch.manual_seed(0)
    loaders = DataLoader(Faces(change), 8), DataLoader(Faces(keep, 100), 8)
    report = cnnprobe.inspect_data(*loaders, pictures=False)
    said = [f.message for f in report.findings if f.rule == "augmented-apart"]
    assert found == bool(said)
    assert all("key point 0 is left of key point 1" in message for message in said)
