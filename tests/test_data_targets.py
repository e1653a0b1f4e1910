"""What the samples are to be told apart by, and which of them are drawn: masks, labels, numbers,
samplers. Each fault beside what looks like it and is meant so.
"""

import numpy as np
import pytest
import torch
from skimage import data as photographs
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import cnnprobe
from cnnprobe.data.pixels import find_wrapped


def smooth(*shape):
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    return noise.cumsum(-1) / 4


def load(*tensors, size=8, **settings):
    return DataLoader(TensorDataset(*tensors), size, **{"shuffle": True, **settings})


def name_findings(*given, **more):
    report = cnnprobe.inspect_data(*given, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [f.rule for f in report.findings if f.severity != "info"]


def name_roles(batches):
    return [p.role for p in cnnprobe.inspect_data(batches, pictures=False).data.training.parts]


class Made(Dataset):
    """Samples that a function makes of their index."""

    def __init__(self, length, make):
        self.length, self.make = length, make

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.make(index)


# ---------------------------------------------------------------- blank images


def crop_slides(count, seed, size=64):
    """Crops of a photograph of an eye: a disc on a black ground that fills the corners."""
    eye, random = photographs.retina(), np.random.default_rng(seed)
    places = random.integers(0, len(eye) - size, (count, 2))
    crops = np.stack([eye[y : y + size, x : x + size] for y, x in places])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def test_blank_crops_of_a_slide_are_its_ground():
    slides = [load(crop_slides(n, n), torch.arange(n) % 2) for n in (160, 40)]
    report = cnnprobe.inspect_data(*slides, pictures=False)
    assert report.data.training.images.constants > 4
    assert [] == name_findings(*slides)


def test_black_images_among_digits_on_black_are_found():
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images[:200], dtype=torch.float32)[:, None] / 16
    images = nn.functional.interpolate(images, 24)
    images[::40] = 0
    assert ["constant-images"] == name_findings(load(images, torch.arange(200) % 2))


def test_random_crops_of_one_colour_come_out_otherwise_when_they_are_read_again():
    random = torch.Generator().manual_seed(0)

    def crop(index, *, late):
        if index % 20 == 3 and late:
            return torch.zeros(3, 8, 8), 0
        image = torch.zeros(3, 16, 16)
        image[:, 6:10, 6:10] = smooth(3, 4, 4 + index)[..., :4]
        y, x = torch.randint(0, 9, (2,), generator=random).tolist()
        return image[:, y : y + 8, x : x + 8], index % 2

    moved = Made(200, lambda index: crop(index, late=False))
    assert [] == name_findings(DataLoader(moved, 8, shuffle=True))
    lost = Made(
        200,
        lambda index: (
            (smooth(3, 8, 8 + index)[..., :8], 0) if index % 20 != 3 else crop(index, late=True)
        ),
    )
    assert "constant-images" in name_findings(DataLoader(lost, 8, shuffle=True))


# ---------------------------------------------------------------- labels


LETTERS = [torch.arange(1, 4 + i % 3) for i in range(64)]


def join_letters(samples):
    images, letters = zip(*samples, strict=True)
    return torch.stack(images), torch.cat(letters), torch.tensor([len(each) for each in letters])


def test_letters_of_all_samples_in_a_row_are_no_labels():
    data = Made(64, lambda i: (smooth(1, 32, 40 + i)[..., :40], LETTERS[i]))
    loader = DataLoader(data, 8, collate_fn=join_letters)
    assert ["image", "other", "other"] == name_roles(loader)
    assert [] == name_findings(loader)


def test_time_steps_are_no_classes():
    steps = torch.randint(0, 1000, (200,), generator=torch.Generator().manual_seed(0))
    noisy, noise = smooth(200, 3, 8, 8), torch.randn(200, 3, 8, 8)
    other = (steps[:64] + 311) % 1000
    assert [] == name_findings(
        load(noisy, steps, noise), load(smooth(64, 3, 8, 9)[..., :8], other, noise[:64])
    )


@pytest.mark.parametrize(
    ("loss_fn", "expected"), [(nn.CrossEntropyLoss(), ["label-holes"]), (nn.MSELoss(), [])]
)
def test_whole_numbers_are_amounts_to_a_loss_over_numbers(loss_fn, expected):
    ages = torch.arange(300) % 30 + 60
    assert expected == name_findings(load(smooth(300, 3, 8, 8), ages), loss_fn=loss_fn)


@pytest.mark.parametrize(
    ("loss_fn", "expected"),
    [(None, []), (nn.CrossEntropyLoss(), ["constant-labels", "unseen-classes"])],
)
def test_training_on_what_is_usual_alone_is_meant_so_without_a_loss_over_classes(loss_fn, expected):
    usual = load(smooth(64, 3, 8, 8), torch.zeros(64).long())
    both = load(smooth(32, 3, 8, 9), torch.arange(32) % 2)
    assert expected == name_findings(usual, both, loss_fn=loss_fn)


def test_persons_never_seen_are_meant_so_without_a_loss_over_classes():
    known = load(smooth(96, 3, 8, 8), torch.arange(96) % 8)
    unknown = load(smooth(48, 3, 8, 9), torch.arange(48) % 6 + 8)
    assert [] == name_findings(known, unknown)
    assert ["unseen-classes"] == name_findings(known, unknown, loss_fn=nn.CrossEntropyLoss())


def test_integers_are_refused_by_a_module_of_a_loss_over_probabilities():
    given = load(smooth(32, 3, 8, 8), torch.arange(32) % 2)
    assert ["label-type"] == name_findings(given, loss_fn=nn.BCEWithLogitsLoss())


def test_a_number_that_never_changes_is_found():
    images = smooth(64, 3, 8, 8)
    assert ["constant-labels"] == name_findings(load(images, torch.full((64, 1), 3.5)))
    assert [] == name_findings(load(images, torch.rand(64, 1)))


# ---------------------------------------------------------------- masks


def draw_disc(i, size=32):
    """A disc of ones in the middle of zeros."""
    y, x = np.mgrid[:size, :size]
    return torch.from_numpy(((y - 12 - i % 8) ** 2 + (x - 12 - i % 5) ** 2 < 40).astype(np.int64))


def test_masks_that_are_empty_are_found():
    images, masks = smooth(32, 3, 32, 32), torch.stack([draw_disc(i) for i in range(32)])
    assert ["constant-labels"] == name_findings(load(images, masks // 255))
    assert [] == name_findings(load(images, masks))


def test_masks_of_a_volume_are_masks_and_their_empty_slices_no_dead_channels():
    volumes = smooth(16, 1, 16, 32, 32)
    masks = torch.zeros(16, 16, 32, 32, dtype=torch.int64)
    masks[:, 5:9] = draw_disc(0)
    assert ["image", "mask"] == name_roles(load(volumes, masks, size=4))
    assert [] == name_findings(load(volumes, masks, size=4))
    slices = volumes[:, 0].clone()
    slices[:, :3], slices[:, -2:] = 0, 0
    assert [] == name_findings(load(slices, torch.arange(16) % 2, size=4))


def test_objects_that_reach_the_border_are_not_exchanged():
    images, flat = smooth(48, 3, 32, 32), torch.zeros(48, 32, 32, dtype=torch.int64)
    for i in range(48):
        flat[i, i % 30 :] = 1  # the ground below a horizon
    assert [] == name_findings(load(images, flat))


def test_masks_of_the_validation_the_other_way_round_are_found():
    images, masks = smooth(32, 3, 32, 32), torch.stack([draw_disc(i) for i in range(32)])
    other = smooth(32, 3, 32, 33)[..., :32]
    assert ["inverted-masks"] == name_findings(load(images, masks), load(other, 1 - masks))
    assert [] == name_findings(load(images, masks), load(other, masks))


def test_small_objects_beside_one_another_are_not_interpolated():
    masks = torch.zeros(32, 12, 12, dtype=torch.int64)
    for i in range(32):
        masks[i, 3:8, 2 : 5 + i % 5], masks[i, 4:6, 4:6], masks[i, 6, 5] = 3, 2, 1
    assert [] == name_findings(load(smooth(32, 3, 12, 12), masks))


# ---------------------------------------------------------------- samplers


IMAGES, CLASSES = smooth(400, 3, 8, 8), torch.arange(400) % 4


def test_samples_whose_weight_is_zero_are_counted():
    weights = torch.ones(400)
    weights[100:] = 0
    for zeros, expected in ((300, ["unseen-samples"]), (0, [])):
        sampler = WeightedRandomSampler(weights if zeros else torch.ones(400), 400)
        assert expected == name_findings(load(IMAGES, CLASSES, shuffle=False, sampler=sampler))


def test_short_epochs_of_many_batches_are_meant_so():
    sampler = RandomSampler(TensorDataset(IMAGES), num_samples=36)
    given = load(IMAGES, CLASSES, size=3, shuffle=False, sampler=sampler)
    assert [] == name_findings(given)


def test_validation_that_draws_by_weight_is_found():
    sampler = WeightedRandomSampler(torch.rand(64) + 0.1, 64)
    drawn = load(smooth(64, 3, 8, 9), CLASSES[:64], shuffle=False, sampler=sampler)
    assert ["partial-validation"] == name_findings(load(IMAGES, CLASSES), drawn)


# ---------------------------------------------------------------- what lies elsewhere


def draw_box(i):
    """A bright rectangle off the middle of a smooth image, its box and the middle of that."""
    image = smooth(3, 32, 40 + i)[..., :32] * 0.1
    x, y = 2 + i % 5, 3 + i % 7
    image[:, y : y + 8, x : x + 10] += 2
    return image, torch.tensor([[x, y, x + 10, y + 8]]).float(), (y, x)


def test_bright_objects_on_a_dark_ground_do_not_wrap_around():
    assert not any(find_wrapped(torch.stack([draw_box(i)[0] for i in range(24)])))


@pytest.mark.parametrize(("role", "turned"), [("boxes", "boxes"), ("key_points", "key points")])
def test_images_flipped_without_their_boxes_or_key_points_are_found(role, turned):
    def make(index, *, both):
        image, box, _ = draw_box(index)
        given = box if role == "boxes" else box.reshape(2, 2)
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
            given = (
                torch.stack([32 - given[:, 2], given[:, 1], 32 - given[:, 0], given[:, 3]], 1)
                if both and role == "boxes"
                else given
            )
            if both and role != "boxes":
                given = torch.stack([32 - given[:, 0], given[:, 1]], 1)
        return {"image": image, role: given}

    for both, expected in ((False, ["augmented-apart"]), (True, [])):
        data = Made(32, lambda index, both=both: make(index, both=both))
        report = cnnprobe.inspect_data(DataLoader(data, 8, shuffle=True), pictures=False)
        found = [f for f in report.findings if f.severity != "info"]
        assert expected == [f.rule for f in found]
        assert all(f"leaves its {turned} as they were" in f.message for f in found)


def test_key_points_in_the_pixels_of_the_files_are_found():
    points = torch.rand(32, 5, 2, generator=torch.Generator().manual_seed(0)) * 30
    images = smooth(32, 3, 32, 32)
    assert [] == name_findings(load(images, points))
    assert ["unscaled-boxes"] == name_findings(load(images, points * 8))


def draw_mask(index):
    image, _, (y, x) = draw_box(index)
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[y : y + 8, x : x + 10] = 1
    return image, mask


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda mask: mask, None),
        (lambda mask: mask.flip(0), "flipped top to bottom"),
        (lambda mask: mask.flip(1), "flipped left to right"),
        (lambda mask: mask.T, "read with rows and columns exchanged"),
        (lambda mask: torch.rot90(mask, 1), "turned by 270 degrees"),
        (lambda mask: torch.rot90(mask, 2), "turned by 180 degrees"),
    ],
)
def test_masks_that_are_turned_are_found(turn, said):
    samples = [draw_mask(i) for i in range(64)]
    images, masks = (torch.stack(each) for each in zip(*samples, strict=True))
    report = cnnprobe.inspect_data(
        load(images, torch.stack([turn(m) for m in masks])), pictures=False
    )
    found = [f.message for f in report.findings if f.rule == "turned-masks"]
    assert (said is not None) == bool(found)
    assert all(said in message for message in found)


def test_transform_that_is_kept_and_not_called_is_found():
    from torchvision.transforms import v2

    for called, expected in ((False, ["repeated-random-numbers"]), (True, [])):
        images = smooth(32, 3, 8, 8)
        data = Made(32, lambda i: None)
        data.transform = v2.RandomHorizontalFlip()
        data.make = lambda i, called=called, data=data, images=images: (
            data.transform(images[i]) if called else images[i],
            i % 4,
        )
        assert expected == name_findings(DataLoader(data, 8, shuffle=True))


# ---------------------------------------------------------------- training and validation


def test_numbers_scaled_in_the_training_alone_are_found():
    images, values = smooth(64, 3, 8, 8), torch.rand(64, 1)
    other = smooth(32, 3, 8, 9)[..., :8]
    assert [] == name_findings(load(images, values), load(other, values[:32] * 3))
    assert ["splits-differ"] == name_findings(load(images, values), load(other, values[:32] * 100))


def test_masks_of_the_validation_with_other_numbers_are_found():
    images, masks = smooth(32, 3, 32, 32), torch.stack([draw_disc(i) for i in range(32)])
    other = smooth(32, 3, 32, 33)[..., :32]
    assert ["unseen-classes"] == name_findings(load(images, masks), load(other, masks * 2))
    void = masks.clone()
    void[:, :4] = 255
    assert [] == name_findings(load(images, masks), load(other, void))


def test_mirrored_images_of_the_training_in_the_validation_are_found():
    images = crop_slides(200, 3)
    shown = images[images.std((1, 2, 3)) > 0.1]
    training = load(shown[:60], torch.arange(60) % 2)
    mirrored = load(shown[:20].flip(-1), torch.arange(20) % 2)
    assert ["train-validation-leak"] == name_findings(training, mirrored)


@pytest.mark.parametrize("exchanged", [(), (2, 5), (0, 1, 2, 3, 4, 5)])
def test_numbers_of_classes_that_were_exchanged_are_found(exchanged):
    generator = torch.Generator().manual_seed(0)
    classes = torch.arange(480) % 6
    images = 0.3 * torch.randn(480, 1, 12, 12, generator=generator)
    images[torch.arange(480), 0, 2 * classes] += 1
    told = classes.clone()
    for a, b in zip(exchanged, (*exchanged[1:], *exchanged[:1]), strict=True):
        told[classes == a] = b
    report = cnnprobe.inspect_data(
        load(images[:360], classes[:360]), load(images[360:], told[360:]), pictures=False
    )
    found = [f.message for f in report.findings if f.rule == "moved-classes"]
    assert bool(exchanged) == bool(found)
    assert all(f"of {len(exchanged)} classes" in message for message in found)


# ---------------------------------------------------------------- targets that are images


def draw_pair(index):
    """A picture, and a small copy of it."""
    picture = smooth(1, 32, 60 + index)[..., :32].cumsum(-2) / 6
    return nn.functional.avg_pool2d(picture, 4), picture


@pytest.mark.parametrize(
    ("away", "expected"), [(0, []), (1, ["mispaired-files"]), (-2, ["mispaired-files"])]
)
def test_target_images_of_other_images_are_found(away, expected):
    data = Made(48, lambda i: (draw_pair(i)[0], draw_pair((i + away) % 48)[1]))
    assert expected == name_findings(DataLoader(data, 8, shuffle=True))


def test_next_frames_are_no_targets_of_other_images():
    frames = [draw_pair(7 * i)[1] for i in range(49)]
    assert [] == name_findings(
        DataLoader(Made(48, lambda i: (frames[i], frames[i + 1])), 8, shuffle=True)
    )
