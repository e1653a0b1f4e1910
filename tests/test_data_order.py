"""How samples are drawn, joined and read again: streams, shards, caches, clips, episodes, padded
batches, marks of what is missing. Each fault beside what looks like it and is meant so.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, get_worker_info
from torchvision.transforms import v2

import cnnprobe


def draw(i, channels=3, size=24):
    """A smooth picture of its own."""
    noise = torch.randn(channels, size, size, generator=torch.Generator().manual_seed(i))
    return noise.cumsum(-1).cumsum(-2) / size


def load(*tensors, size=8, **settings):
    return DataLoader(TensorDataset(*tensors), size, **{"shuffle": True, **settings})


def name_findings(*given, **more):
    report = cnnprobe.inspect_data(*given, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [f.rule for f in report.findings if f.severity != "info"]


class Made(Dataset):
    """Samples that a function makes of their index."""

    def __init__(self, length, make, **attributes):
        self.length, self.make = length, make
        self.__dict__.update(attributes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.make(index)


IMAGES, LABELS = torch.stack([draw(i) for i in range(120)]), torch.arange(120) % 6


class Stream(IterableDataset):
    """Images in an order of their own in each worker."""

    def __init__(self, order, *, sharded=True):
        self.order, self.sharded = order, sharded

    def __iter__(self):
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker and self.sharded else (0, 1)
        for i in self.order(worker.id if worker else 0)[first::step]:
            yield IMAGES[i], int(LABELS[i])


def shuffle(seed):
    return np.random.default_rng(seed).permutation(120).tolist()


@pytest.mark.parametrize(("sharded", "expected"), [(True, []), (False, ["unsharded-stream"])])
def test_stream_that_each_worker_shuffles_and_gives_as_a_whole_is_found(sharded, expected):
    order = shuffle if not sharded else lambda _: shuffle(0)
    assert expected == name_findings(DataLoader(Stream(order, sharded=sharded), 8, num_workers=2))


@pytest.mark.parametrize(("buffer", "expected"), [(120, []), (8, ["single-class-batches"])])
def test_shards_of_one_class_behind_a_small_buffer_are_found(buffer, expected):
    by_class = sorted(range(120), key=lambda i: int(LABELS[i]))
    random = np.random.default_rng(0)

    def order(_):
        held, given = [], []
        for i in by_class:
            held.append(i)
            if len(held) > buffer:
                given.append(held.pop(random.integers(len(held))))
        return given + random.permutation(held).tolist()

    assert expected == name_findings(DataLoader(Stream(order), 8))


def test_data_set_that_is_sorted_by_class_is_no_loader():
    data = TensorDataset(torch.stack([draw(i) for i in range(120)]), torch.arange(120) // 30)
    assert "single-class-batches" not in name_findings(data)
    assert "single-class-batches" in name_findings(DataLoader(data, 8))


def test_batches_that_a_sampler_of_the_user_puts_together_are_meant_so():
    rows = [[i for i in range(120) if LABELS[i] in (k, (k + 1) % 6)][:8] for k in range(6)]
    given = DataLoader(TensorDataset(IMAGES, LABELS), batch_sampler=rows)
    assert [] == name_findings(given)


# ---------------------------------------------------------------- read again


def test_seed_in_getitem_is_found_whatever_the_transform_is_called():
    def make(index, *, seeded):
        if seeded:
            torch.manual_seed(0)
        return data.tf(IMAGES[index]), index % 6

    for seeded, expected in ((True, ["repeated-random-numbers"]), (False, [])):
        data = Made(120, lambda i, s=seeded: make(i, seeded=s), tf=v2.RandomHorizontalFlip())
        assert expected == name_findings(DataLoader(data, 8, shuffle=True))


def test_flag_that_leaves_the_transform_of_the_training_out_is_meant_so():
    data = Made(
        120, lambda i: (IMAGES[i], i % 6), train=v2.RandomHorizontalFlip(), val=v2.Identity()
    )
    assert [] == name_findings(DataLoader(data, 8, shuffle=True))


@pytest.mark.parametrize(("in_place", "expected"), [(True, ["normalised-twice"]), (False, [])])
def test_cache_that_is_normalised_in_place_is_found_and_left_as_it_was(in_place, expected):
    data = Made(120, None, cache={})

    class Cached(Made):
        def __getitem__(self, i):
            image = self.cache.setdefault(i, IMAGES[i].clone())
            if in_place:
                image -= 0.4
                image /= 0.3
            else:
                image = (image - 0.4) / 0.3
            return image.clone(), i % 6

    data = Cached(120, None, cache={})
    assert expected == name_findings(DataLoader(data, 8, shuffle=True))
    assert {} == data.cache


def test_contrast_that_changes_at_random_is_no_cache():
    data = Made(120, lambda i: (IMAGES[i] * (0.5 + torch.rand(())), i % 6))
    assert [] == name_findings(DataLoader(data, 8, shuffle=True))


def test_images_of_an_episode_that_are_drawn_anew_are_not_augmented():
    def make(index, augmented):
        drawn = torch.randint(0, 120, (6,))
        images = IMAGES[(torch.arange(6) * 7 + 13 * index) % 120 if augmented else drawn]
        return images + 0.01 * torch.randn(()) if augmented else images, torch.arange(6) % 3

    training = DataLoader(Made(20, lambda i: make(i, augmented=False)), None)
    for augmented in (False, True):
        validation = DataLoader(Made(20, lambda i, a=augmented: make(i, augmented=a)), 4)
        report = cnnprobe.inspect_data(training, validation, pictures=False)
        assert augmented == ("augmented-validation" in [f.rule for f in report.findings])


@pytest.mark.parametrize(("jitter", "expected"), [(True, ["identical-views"]), (False, [])])
def test_views_of_one_jitter_are_found_and_an_autoencoder_is_not(jitter, expected):
    transform = v2.ColorJitter(0.4) if jitter else v2.RandomHorizontalFlip()
    images = torch.sigmoid(IMAGES)
    data = Made(120, lambda i: [transform(images[i])] * 2)
    data.views = type("Views", (), {})()
    data.views.tf = transform
    assert expected == name_findings(DataLoader(data, 8, shuffle=True))


# ---------------------------------------------------------------- padded batches


def pad(samples):
    images, labels = zip(*samples, strict=True)
    widest = max(image.shape[-1] for image in images)
    padded = [nn.functional.pad(x, (0, widest - x.shape[-1])) for x in images]
    widths = torch.tensor([image.shape[-1] for image in images])
    return torch.stack(padded), widths, torch.tensor(labels)


def test_sizes_before_padding_are_no_labels():
    data = Made(96, lambda i: (draw(i)[..., : 12 + 2 * (i % 6)], i % 3))
    report = cnnprobe.inspect_data(DataLoader(data, 8, collate_fn=pad), pictures=False)
    assert ["image", "other", "class"] == [p.role for p in report.data.training.parts]
    assert [] == [f.rule for f in report.findings if f.severity != "info"]


@pytest.mark.parametrize("name", ["pixel_mask", "ones"])
def test_masks_of_padding_are_not_judged_as_objects(name):
    images, masks = torch.zeros(64, 3, 32, 40), torch.zeros(64, 32, 40, dtype=torch.int64)
    for i in range(64):
        high, wide = (24, 40) if i % 2 else (32, 28)
        images[i, :, :high, :wide] = draw(i, size=40)[:, :high, :wide]
        masks[i, :high, :wide] = 1
    masks[0], images[0] = 1, draw(64, size=40)[:, :32]
    batches = [{"pixel_values": images[i : i + 8], name: masks[i : i + 8]} for i in range(0, 64, 8)]
    assert [] == name_findings(batches)


# ---------------------------------------------------------------- numbers


def test_mark_of_missing_numbers_is_counted():
    given = torch.linspace(-45, 45, 96)[:, None].clone()
    given[::24] = -999
    report = cnnprobe.inspect_data(load(IMAGES[:96], given), pictures=False)
    (found,) = [f for f in report.findings if f.severity != "info"]
    assert ("marked-targets", True) == (found.rule, "4 values of 96" in found.message)


def test_heavy_tails_hold_no_mark():
    prices = torch.exp(3 * torch.randn(120, 1, generator=torch.Generator().manual_seed(0)))
    assert [] == name_findings(load(IMAGES, prices))


def test_labels_of_minus_one_are_refused_by_a_loss_over_probabilities():
    known = (torch.rand(120, 5, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    unknown = known.clone()
    unknown[::7, 2] = -1
    loss = nn.BCEWithLogitsLoss()
    assert [] == name_findings(load(IMAGES, known), loss_fn=loss)
    assert ["label-out-of-range"] == name_findings(load(IMAGES, unknown), loss_fn=loss)


def test_statistics_of_bytes_on_images_up_to_one_are_found():
    images = torch.sigmoid(IMAGES)
    mean, std = (
        torch.tensor(x)[:, None, None] for x in ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4])
    )
    assert ["normalised-unscaled"] == name_findings(load((images - mean) / std, LABELS))
    assert [] == name_findings(load((255 * images - mean) / std, LABELS))


@pytest.mark.parametrize(("turned", "expected"), [(True, ["box-format"]), (False, [])])
def test_key_points_as_row_and_column_are_found(turned, expected):
    places = torch.rand(96, 3, 2, generator=torch.Generator().manual_seed(0))
    points = places * torch.tensor([60.0, 23.0])
    images = torch.stack([draw(i, size=60)[:, :24] for i in range(96)])
    assert expected == name_findings(load(images, points.flip(-1) if turned else points))


# ---------------------------------------------------------------- pairs and files


@pytest.mark.parametrize(("apart", "expected"), [(6, ["mispaired-files"]), (0, [])])
def test_crops_of_image_and_target_at_two_places_are_found(apart, expected):
    def make(index, away):
        picture = draw(index, size=40)
        low = nn.functional.avg_pool2d(picture[:, away : away + 24, away : away + 24], 2)
        return low, picture[:, :24, :24]

    training = DataLoader(Made(64, lambda i: make(i, apart)), 8, shuffle=True)
    assert expected == name_findings(training, DataLoader(Made(32, lambda i: make(i + 64, 0)), 8))


def test_16_bits_that_were_cut_off_at_255_are_named(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(24)]
    for i, file in enumerate(files):
        Image.fromarray((2000 + 500 * draw(i, 1)[0]).clamp(300).numpy().astype(np.uint16)).save(
            file
        )

    def make(i):
        return torch.from_numpy(np.array(Image.open(files[i]).convert("L")))[None] / 255, i % 2

    data = Made(24, make, files=files)
    report = cnnprobe.inspect_data(DataLoader(data, 8, shuffle=True), pictures=False)
    (found,) = [f for f in report.findings if f.rule == "constant-images"]
    assert "8 of these files hold 16 bits" in found.message
