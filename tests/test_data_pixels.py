"""What single images tell of their way into the batch, on real photographs: order of the values, of
the channels, bytes that wrapped around, files and masks of other samples.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import cnnprobe
from cnnprobe.data.columns import read_columns
from cnnprobe.data.datasets import find_mispaired
from cnnprobe.data.objects import find_between
from cnnprobe.data.pixels import compare_orders, find_wrapped
from reference_models import data as reference

LABELS = torch.arange(32) % 4


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """32 crops of eight photographs, uint8, (32, 32, 32, 3), and their files."""
    folder = reference.offline_photos(tmp_path_factory.mktemp("photos")) / "train"
    files = [path for each in sorted(folder.iterdir()) for path in sorted(each.glob("*.png"))[:4]]
    return np.stack([np.asarray(Image.open(path)) for path in files]), files


class Listed(Dataset):
    """Images with the files that they come from."""

    def __init__(self, images, files=()):
        self.images_, self.files = images, [str(path) for path in files]

    def __len__(self):
        return len(self.images_)

    def __getitem__(self, index):
        return self.images_[index], index % 4


def name_findings(*given, **more):
    report = cnnprobe.inspect_data(*given, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [f.rule for f in report.findings if f.severity != "info"]


def load(images, **settings):
    data = TensorDataset(torch.as_tensor(images), LABELS[: len(images)])
    return DataLoader(data, 8, **{"shuffle": True, **settings})


def test_photographs_are_in_order(photos):
    images = torch.from_numpy(photos[0]).permute(0, 3, 1, 2).float() / 255
    assert [] == name_findings(load(images))


@pytest.mark.parametrize("normalised", [False, True])
def test_reshape_in_place_of_permute_is_found(photos, normalised):
    images = torch.from_numpy(photos[0]).reshape(32, 3, 32, 32).float() / 255
    images = (images - 0.45) / 0.22 if normalised else images
    assert "rearranged-pixels" in name_findings(load(images))


@pytest.mark.parametrize(("noise", "found"), [(1, True), (18, False)])
def test_reshape_is_found_though_some_are_noise_but_not_of_noise(photos, noise, found):
    images = torch.from_numpy(photos[0]).reshape(32, 3, 32, 32).float() / 255
    generator = torch.Generator().manual_seed(0)
    random = torch.rand(60, 3, 32, 32, generator=generator)
    factors = next(iter(compare_orders(random).values()))
    lower = random[[i for i, factor in enumerate(factors) if 0.8 < factor < 1]]
    assert len(lower) >= noise
    images[:noise] = lower[:noise]
    assert found == ("rearranged-pixels" in name_findings(load(images)))


def test_rows_of_cifar_reshaped_with_the_channels_last_are_found(photos):
    rows = photos[0].transpose(0, 3, 1, 2).reshape(32, 3072)  # as CIFAR's files have them
    images = torch.from_numpy(rows.reshape(32, 32, 32, 3)).permute(0, 3, 1, 2).float() / 255
    assert "rearranged-pixels" in name_findings(load(images))


def test_height_and_width_swapped_by_reshape_are_found(photos):
    images = torch.from_numpy(photos[0][:, :, :24]).permute(0, 3, 1, 2).float() / 255
    assert [] == name_findings(load(images))
    assert "rearranged-pixels" in name_findings(load(images.reshape(32, 3, 24, 32)))


def test_channels_last_are_named_and_measured_as_images(photos):
    report = cnnprobe.inspect_data(load(torch.from_numpy(photos[0]).float() / 255))
    assert ["channels-last"] == [f.rule for f in report.findings if f.severity != "info"]
    part = report.data.training.parts[0]
    means = photos[0].mean((0, 1, 2)) / 255
    assert [pytest.approx(m, abs=1e-6) for m in means] == [c.mean for c in part.channels]
    assert "(N, 32, 32, 3)" in str(report)
    assert "training-images" in [sheet.name for sheet in report.sheets]


def test_channels_last_are_info_where_the_model_permutes():
    class Net(torch.nn.Module):
        def forward(self, x):
            return x.permute(0, 3, 1, 2).mean((2, 3))

    report = cnnprobe.inspect_data(load(torch.randn(32, 9, 9, 3)), model=Net(), pictures=False)
    assert [("channels-last", "info")] == [
        (f.rule, f.severity) for f in report.findings if f.rule == "channels-last"
    ]


def test_masks_with_a_last_dim_of_one_belong_to_their_images():
    columns = [torch.randn(8, 16, 16, 3), (torch.rand(8, 16, 16, 1) > 0.5).long()]
    parts = cnnprobe.inspect_data([columns], pictures=False).data.training.parts
    assert ["image", "mask"] == [part.role for part in parts]
    assert ["[0]", "[1]"] == [column.path for column in read_columns(columns)]


def test_brightened_photographs_that_wrapped_around_are_found(photos):
    scans = photos[0].astype(np.uint16) * 3
    wrapped = torch.from_numpy(scans.astype(np.uint8)).permute(0, 3, 1, 2).float() / 255
    right = torch.from_numpy(scans.astype(np.float32) / 765).permute(0, 3, 1, 2)
    assert "wrapped-pixels" in name_findings(load(wrapped, shuffle=False))
    assert [] == name_findings(load(right))


@pytest.mark.parametrize("make", [
    lambda noise: (noise > 0.8).float(),  # dots, black and white
    lambda noise: noise,
    lambda noise: torch.arange(28.0).expand_as(noise) % 2,  # stripes
    lambda noise: torch.cat([noise[..., :14] * 0, noise[..., 14:] * 0 + 1], -1),  # an edge
], ids=["dots", "noise", "stripes", "edge"])  # fmt: skip
def test_hard_edges_are_not_taken_for_values_that_wrap(make):
    noise = torch.rand(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert [False] * 8 == find_wrapped(make(noise))


def test_digits_do_not_wrap():
    from sklearn.datasets import load_digits

    digits = torch.from_numpy(load_digits().images[:64]).float()[:, None]
    assert not any(find_wrapped(digits))


# ---------------------------------------------------------------- colours


def test_channels_that_are_reversed_against_their_files_are_found(photos):
    images, files = photos
    red_first = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    blue_first = red_first.flip(1)
    assert [] == name_findings(Listed(red_first, files))
    # Both alike is info without published weights: a model learns either order.
    report = cnnprobe.inspect_data(Listed(blue_first, files), pictures=False)
    assert "info" in [f.severity for f in report.findings if f.rule == "channel-order"]
    assert "channel-order" in name_findings(Listed(red_first, files), Listed(blue_first, files))


def test_validation_in_the_order_of_opencv_is_found_without_files(photos):
    # Four of the eight photographs are reddish, one is bluish, three are grey.
    folder = photos[1][0].parents[1]
    pixels = [
        np.asarray(Image.open(p))
        for each in sorted(folder.iterdir())
        for p in sorted(each.glob("*.png"))[:40]
    ]
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    training, validation = (TensorDataset(images[k::2], torch.arange(160) % 4) for k in (0, 1))
    assert "channel-order" not in name_findings(training, validation)
    turned = TensorDataset(validation.tensors[0].flip(1), validation.tensors[1])
    assert "channel-order" in name_findings(training, turned)


# ---------------------------------------------------------------- single colours and files


def test_black_image_is_of_one_colour_behind_a_normalisation_by_channel():
    mean, std = (
        torch.tensor(x)[:, None, None] for x in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    )
    images = torch.rand(32, 3, 8, 8)
    images[5] = 0
    report = cnnprobe.inspect_data(load((images - mean) / std), pictures=False)
    assert 1 == report.data.training.images.constants


def test_rows_of_one_value_each_are_no_single_colour():
    striped = torch.arange(8.0)[:, None].expand(32, 8, 8) + torch.arange(32.0)[:, None, None]
    assert 0 == cnnprobe.inspect_data(load(striped)).data.training.images.constants


def test_files_that_cannot_be_opened_are_named_where_black_stands_in_their_place(photos, tmp_path):
    images, files = photos
    broken = tmp_path / "cut.png"
    broken.write_bytes(files[3].read_bytes()[:200])
    given = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    given[3] = 0
    report = cnnprobe.inspect_data(Listed(given, [*files[:3], broken, *files[4:]]), pictures=False)
    (finding,) = [f for f in report.findings if f.rule == "constant-images"]
    assert "1 of these files cannot be opened by Pillow" in finding.message
    assert (str(broken),) == report.data.training.images.blanks.unopened


# ---------------------------------------------------------------- masks, boxes, lists


def test_values_of_a_ramp_stand_between_two_areas():
    mask = torch.zeros(8, 12)
    mask[:, 4:6], mask[:, 6:8], mask[:, 8:] = 1, 3, 4
    # 1 and 3 are two pixels wide: none of their pixels has eight equal neighbours
    assert (2, [1.0, 3.0]) == find_between(mask)
    mask[:, 4:7], mask[:, 7:9], mask[:, 9:] = 1, 3, 4
    assert (3, [3.0]) == find_between(mask)


def draw_masks(count=8, side=48):
    masks = torch.zeros(count, side, side, dtype=torch.int64)
    for i in range(count):
        masks[i, 4 + i : 20 + i, 4:20], masks[i, 24:44, 22 - i : 40 - i] = 7, 4
    return masks


def test_masks_of_small_numbers_that_were_resized_as_photos_are_found():
    from torch.nn.functional import interpolate

    images, masks = torch.randn(8, 3, 30, 30), draw_masks()[:, None].float()
    smooth = interpolate(masks, size=(30, 30), mode="bilinear").round().long()[:, 0]
    sharp = interpolate(masks, size=(30, 30), mode="nearest").long()[:, 0]
    assert ["interpolated-masks"] == name_findings([(images, smooth)])
    assert [] == name_findings([(images, sharp)])


def test_rim_of_a_cell_is_a_class_of_its_own():
    masks = torch.zeros(8, 30, 30, dtype=torch.int64)
    masks[:, 8:20, 8:20], masks[:, 9:19, 9:19] = 1, 2  # 1 is the rim, one pixel wide
    assert [] == name_findings([(torch.randn(8, 3, 30, 30), masks)])


class Pairs:
    def __init__(self, images, others):
        self.images, self.others = images, others

    def __len__(self):
        return len(self.images)


NAMES = [f"/photos/{i}.jpg" for i in range(1, 13)]
MASKS = [f"/masks/{i}.png" for i in range(1, 13)]


def test_masks_in_another_order_than_their_images_are_found_by_their_names():
    found = find_mispaired(Pairs(NAMES, sorted(MASKS)))  # 1, 10, 11, 12, 2, ...
    assert ("/photos/2.jpg", "/masks/10.png", 11, 12) == (
        found.first, found.second, found.count, found.places,
    )  # fmt: skip


@pytest.mark.parametrize(
    "pair",
    [(NAMES, MASKS), (NAMES, [f"/other/{i}.png" for i in range(100, 112)]), (NAMES, NAMES[::-1])],
    ids=["in order", "other numbers", "no masks"],
)
def test_lists_of_files_that_fit_or_are_of_other_things_are_no_finding(pair):
    assert find_mispaired(Pairs(*pair)) is None


def test_list_of_pairs_of_files_is_read_too():
    class Rows:
        samples = None

        def __init__(self):
            self.samples = list(zip(NAMES, MASKS[1:] + MASKS[:1], strict=True))

        def __len__(self):
            return len(self.samples)

    assert 12 == find_mispaired(Rows()).count


def test_boxes_of_small_files_in_images_that_were_enlarged_are_found(tmp_path):
    for i in range(16):
        Image.new("RGB", (20, 20), (i, 2 * i, 3 * i)).save(tmp_path / f"{i}.png")
    corners = np.random.default_rng(0).uniform(0, 12, (16, 3, 2)).astype(np.float32)
    corners[0, 0], corners[1, 0] = 0, 12
    boxes = torch.from_numpy(np.concatenate([corners, corners + 8], axis=-1))

    class Enlarged(Listed):
        def __getitem__(self, index):
            return self.images_[index], {"boxes": boxes[index], "labels": torch.ones(3).long()}

    files = [tmp_path / f"{i}.png" for i in range(16)]
    assert "unscaled-boxes" in name_findings(Enlarged(torch.rand(16, 3, 40, 40), files))
    report = cnnprobe.inspect_data(Enlarged(torch.rand(16, 3, 40, 40)), pictures=False)
    assert ["info"] == [f.severity for f in report.findings if f.rule == "unscaled-boxes"]


# ---------------------------------------------------------------- streams and samplers


class Stream(IterableDataset):
    def __init__(self, images, noise, step):
        self.images, self.noise, self.step = images, noise, step

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first = info.id if info is not None and self.step > 1 else 0
        for i in range(first, len(self.images), self.step):
            yield self.images[i] + self.noise * torch.randn_like(self.images[i]), i % 4


@pytest.mark.parametrize(
    ("noise", "step", "found"), [(0.1, 1, True), (0.0, 1, True), (0.1, 2, False)]
)
def test_photographs_that_each_worker_gives_are_found(photos, noise, step, found):
    images = torch.from_numpy(photos[0]).permute(0, 3, 1, 2).float() / 255
    stream = DataLoader(Stream(images, noise, step), 4, num_workers=2)
    assert found == ("unsharded-stream" in name_findings(stream))


def test_sampler_with_the_counts_of_the_classes_for_weights_is_found():
    counts = torch.tensor([40, 10, 10, 4])
    labels = torch.repeat_interleave(torch.arange(4), counts)
    data = TensorDataset(torch.randn(64, 3, 8, 8), labels)

    def draw(weights):
        sampler = torch.utils.data.WeightedRandomSampler(weights[labels].tolist(), 64)
        return DataLoader(data, 8, sampler=sampler)

    assert "sampler-weights" in name_findings(draw(counts.double()))
    assert "sampler-weights" not in name_findings(draw(1 / counts.double()))


# ---------------------------------------------------------------- labels, boxes and loaders


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.nn.functional.one_hot(LABELS), "one-hot in int64"),
        (LABELS.float() / 255, "float32 with fractions"),
        (LABELS, ""),
        (torch.nn.functional.one_hot(LABELS).float(), ""),  # probabilities
    ],
    ids=["one-hot", "divided", "indices", "probabilities"],
)
def test_labels_that_cross_entropy_refuses_are_named(labels, said):
    loader = DataLoader(TensorDataset(torch.randn(32, 3, 8, 8), labels), 8, shuffle=True)
    loss = torch.nn.CrossEntropyLoss()
    report = cnnprobe.inspect_data(loader, loss_fn=loss, pictures=False)
    found = [f.message for f in report.findings if f.rule == "label-type"]
    assert bool(said) == bool(found) and all(said in message for message in found)


def test_boxes_with_y_before_x_are_found_in_images_that_are_not_square():
    boxes = torch.tensor([[2.0, 30, 12, 60], [4, 8, 20, 40], [1, 20, 30, 62], [5, 5, 9, 11]])
    for given, rule in ((boxes, "box-format"), (boxes[:, [1, 0, 3, 2]], None)):
        target = {"boxes": given, "labels": torch.ones(4).long()}
        batch = (list(torch.rand(4, 3, 32, 64)), [dict(target) for _ in range(4)])
        found = [f for f in name_findings([batch]) if f == "box-format"]
        assert ([rule] if rule else []) == found


def test_alpha_channel_that_says_nothing_is_info():
    images = torch.rand(32, 4, 8, 8)
    images[:, 3] = 1
    report = cnnprobe.inspect_data(load(images), pictures=False)
    assert ["info"] == [f.severity for f in report.findings if f.rule == "dead-channel"]


def test_images_that_differ_in_a_few_pixels_are_no_duplicates():
    ground = torch.rand(1, 224, 224, generator=torch.Generator().manual_seed(0))
    parts = ground.repeat(32, 1, 1, 1)
    for i, part in enumerate(parts):
        part[:, 10 + 6 * i, 100:103] = 0  # a scratch
    assert [] == name_findings(load(parts))
    assert ["duplicate-images"] == name_findings(load(ground.repeat(32, 1, 1, 1)))


@pytest.mark.parametrize("shift", [4, 16 / 3, 8])
def test_grey_stripes_in_three_equal_channels_are_in_order(shift):
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(16.0).expand(16, 16)
    phases = 6.28 * torch.rand(32, 1, 1, generator=generator)
    waves = torch.stack(
        [torch.sin(6.28 / shift * w + p) for p, w in zip(phases, [place, place.T] * 16)]
    )
    noise = 0.4 * torch.randn(32, 3, 16, 16, generator=generator)
    assert [] == name_findings(load(0.5 + 0.25 * (waves[:, None] + noise)))
