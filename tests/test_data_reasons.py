"""What findings name as the reason, each beside data that looks alike and has none: flips, copies,
palettes, padding.
"""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

import cnnprobe
from cnnprobe.data.pixels import find_wrapped
from cnnprobe.data.rules.mask_values import VOC_GREYS

LABELS = torch.arange(96) % 3


class Made(Dataset):
    """Samples that a function makes of their index."""

    def __init__(self, length, make, **attributes):
        self.length, self.make = length, make
        vars(self).update(attributes)

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return self.make(index)


def seed(number=0):
    return torch.Generator().manual_seed(number)


def smooth(n=96, size=32, channels=3, number=0):
    noise = torch.rand(n, channels, 8, 8, generator=seed(number))
    return interpolate(noise, size=size, mode="bicubic").clamp(0, 1)


def load(*parts, **settings):
    return DataLoader(TensorDataset(*parts), 8, **{"shuffle": True, **settings})


def find(rule, training, validation=None, **more):
    report = cnnprobe.inspect_data(training, validation, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [finding for finding in report.findings if rule == finding.rule]


# ---------------------------------------------------------------- images


def test_tones_whose_place_is_their_class_have_no_marks():
    pitches = torch.arange(64.0)[None, :, None]
    centres = torch.tensor([10.0, 30, 50])[LABELS][:, None, None]
    tones = torch.exp(-((pitches - centres) ** 2) / 8).expand(96, 64, 64)
    noise = 0.1 * torch.randn(96, 64, 64, generator=seed())
    assert [] == find("marked-class", load((tones + noise)[:, None], LABELS))


@pytest.mark.parametrize("angle", [0, 30])
def test_black_padding_beside_bright_ground_does_not_wrap(angle):
    ramp = torch.linspace(0.45, 1, 32)
    bright = (ramp[None, :] * ramp[:, None]).expand(16, 3, 32, 32).contiguous()
    moved = v2.functional.rotate(v2.functional.pad(bright, [4]), angle)[..., 2:34, 1:33]
    assert [False] * 16 == find_wrapped(moved)
    wrapped = (bright * 700 + 4 * torch.randn(16, 3, 32, 32, generator=seed())).round() % 256
    assert [True] * 16 == find_wrapped(wrapped)


@pytest.mark.parametrize(("signed", "severity"), [(True, "info"), (False, "warning")])
def test_frames_in_bytes_are_let_pass_beside_their_flow(signed, severity):
    frames = [(smooth(number=k) * 255).round() for k in (0, 1)]
    flow = torch.randn(96, 2, 32, 32, generator=seed(2))
    (found,) = find("unscaled-images", load(*frames, flow if signed else flow.abs()))
    assert (severity, "[0] and [1] of") == (found.severity, found.message[:14])


def test_normalize_with_a_std_divided_by_255_is_told_as_such():
    steps = v2.Normalize([0.5 / 255], [0.25 / 255])
    scaled = v2.Compose([v2.ToDtype(torch.float32, scale=True), steps])
    given = (smooth(channels=1) * 255).to(torch.uint8)
    data = Made(96, lambda i: (scaled(given[i]), i % 3), transform=scaled)
    (found,) = find("normalised-unscaled", DataLoader(data, 8, shuffle=True))
    assert "multiply the mean and the std of Normalize by 255" in found.fix
    plain = v2.Normalize([0.5], [0.25])
    data = Made(96, lambda i: (plain(given[i].float()), i % 3), transform=plain)
    (found,) = find("normalised-unscaled", DataLoader(data, 8, shuffle=True))
    assert "scale=True" in found.fix


def test_light_and_dark_exchanged_in_the_validation_are_named():
    dark = smooth() ** 4
    (found,) = find("splits-differ", load(dark, LABELS), load(1 - smooth(number=1) ** 4, LABELS))
    assert "light and dark exchanged" in found.message
    assert "invert" in found.fix
    assert [] == find("splits-differ", load(dark, LABELS), load(smooth(number=1) ** 4, LABELS))
    (other,) = find("splits-differ", load(dark, LABELS), load(2 + smooth(number=1), LABELS))
    assert "exchanged" not in other.message


def test_samples_that_drop_last_leaves_out_each_time_are_counted():
    images, labels = smooth(90), LABELS[:90]
    for settings, expected in (
        ({"shuffle": False, "drop_last": True}, [("warning", True)]),
        ({"shuffle": True, "drop_last": True}, []),
        ({"shuffle": False}, [("info", False)]),
    ):
        loader = DataLoader(TensorDataset(images, labels), 40, **settings)
        found = find("not-shuffled", loader)
        assert expected == [(f.severity, "the last 10 of 90" in f.message) for f in found]


# ---------------------------------------------------------------- copies


def test_one_image_for_all_samples_is_named_as_that():
    images = smooth(1).expand(64, -1, -1, -1).contiguous()
    (found,) = find("duplicate-images", load(images, torch.arange(64) % 4))
    assert found.message.startswith("all 64 samples of the training data that were read have one")
    assert "__getitem__" in found.fix


def test_captions_of_one_image_are_no_copies():
    images = smooth(24).repeat_interleave(4, dim=0)
    own = torch.cat([torch.randint(1, 99, (96, 6), generator=seed()), torch.zeros(96, 2).long()], 1)
    (found,) = find("duplicate-images", load(images, own))
    assert ("info", True) == (found.severity, "another text" in found.message)
    (found,) = find("duplicate-images", load(images, own[::4].repeat_interleave(4, dim=0)))
    assert ("warning", False) == (found.severity, "another text" in found.message)


@pytest.mark.parametrize("broken", [True, False])
def test_image_that_was_given_for_a_file_that_cannot_be_read_is_named(broken, tmp_path):
    files = []
    for i, image in enumerate((smooth(64) * 255).byte().permute(0, 2, 3, 1).numpy()):
        files.append(str(tmp_path / f"{i:02}.png"))
        Image.fromarray(image).save(files[-1])
    if broken:
        (tmp_path / "07.png").write_bytes(b"\x89PNG")
    else:  # a true copy of the next file
        (tmp_path / "07.png").write_bytes((tmp_path / "08.png").read_bytes())

    def make(i):
        try:
            return torch.from_numpy(np.array(Image.open(files[i]))).permute(2, 0, 1) / 255, i // 32
        except OSError:
            return make(i + 1)

    (found,) = find("duplicate-images", DataLoader(Made(64, make, files=files), 8))
    assert broken == ("07.png' cannot be read" in found.message)
    assert ("warning" if broken else "info") == found.severity


@pytest.mark.parametrize("copied", [False, True])
def test_buffer_that_is_returned_for_all_samples_is_told(copied):
    images, buffer = smooth(), torch.empty(3, 32, 32)

    def make(i):
        buffer.copy_(images[i])
        return buffer.clone() if copied else buffer, i % 3

    def join(batch):
        return [x for x, _ in batch], torch.tensor([y for _, y in batch])

    loader = DataLoader(Made(96, make), 8, shuffle=True, collate_fn=join)
    found = find("duplicate-images", loader)
    assert ([] if copied else [True]) == ["12 of 12 batches" in f.message for f in found]


def test_near_copies_of_one_label_are_info():
    images = smooth(48, 48)
    near = (images + 0.01 * torch.randn(images.shape, generator=seed(1))).clamp(0, 1)
    both = torch.cat([images, near])
    (found,) = find("duplicate-images", load(both, LABELS[:48].repeat(2)))
    assert "info" == found.severity
    other = torch.cat([LABELS[:48], (LABELS[:48] + 1) % 3])
    (found,) = find("duplicate-images", load(both, other))
    assert "warning" == found.severity


@pytest.mark.parametrize(("drawn", "severity"), [(True, "info"), (False, "warning")])
def test_shapes_that_are_alike_by_chance_are_no_leak(drawn, severity):
    def make(i):
        number = int(torch.randint(2**31, ())) if drawn and i >= 0 else abs(i) % 40
        kind, place = number % 2, number // 2 % 20
        image = torch.ones(1, 32, 32)
        image[:, place % 5 * 4 : place % 5 * 4 + 12, place // 5 * 4 : place // 5 * 4 + 8] = (
            0.25 * kind
        )
        noise = 0.002 * torch.rand(1, 32, 32)
        return image - noise, kind

    training = DataLoader(Made(96, make), 8, shuffle=True)
    (found,) = find(
        "train-validation-leak", training, DataLoader(Made(64, lambda i: make(-1 - i)), 8)
    )
    assert severity == found.severity


# ---------------------------------------------------------------- targets


@pytest.mark.parametrize("axis", [0, 1])
def test_flipped_boxes_whose_corners_were_not_exchanged_are_named(axis):
    low = torch.rand(96, 1, 2, generator=seed()) * 60
    boxes = torch.cat([low, low + 10 + 20 * torch.rand(96, 1, 2, generator=seed(1))], dim=2).round()
    flipped = boxes.clone()
    flipped[::2, :, axis::2] = 96 - boxes[::2, :, axis::2]
    right = boxes.clone()
    right[::2, :, axis::2] = 96 - boxes[::2, :, axis::2].flip(-1)
    images = smooth(96, 96)

    def tell(given):
        batches = [
            (
                list(images[k : k + 8]),
                [{"boxes": b, "labels": torch.ones(1).long()} for b in given[k : k + 8]],
            )
            for k in range(0, 96, 8)
        ]
        return find("box-format", batches)

    (found,) = tell(flipped)
    assert f"48 of 96 boxes [1]['boxes'] of the training data have {'xy'[axis]}2" in found.message
    assert found.fix.startswith(f"boxes[:, [{axis}, {axis + 2}]] = {('width', 'height')[axis]} - ")
    assert [] == tell(right)
    sizes = torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=2)
    (found,) = tell(sizes)
    assert "box_convert" in found.fix


def test_grey_values_of_the_colours_of_voc_are_those_of_pillow():
    palette = []
    for number in (*range(21), 255):  # the loop of the VOC kit, VOClabelcolormap.m
        red = green = blue = 0
        rest = number
        for bit in range(7, -1, -1):
            red |= (rest & 1) << bit
            green |= (rest >> 1 & 1) << bit
            blue |= (rest >> 2 & 1) << bit
            rest >>= 3
        palette.append((red, green, blue))
    picture = Image.new("RGB", (len(palette), 1))
    picture.putdata(palette)
    assert set(np.asarray(picture.convert("L")).ravel().tolist()) == VOC_GREYS


def test_masks_read_as_grey_values_of_voc_are_told_apart_from_other_numbers():
    model = torch.nn.Conv2d(3, 21, 1)
    for values, said in (([0, 38, 113, 220], "Pascal VOC"), ([0, 3, 77, 220], "map the values")):
        masks = torch.tensor(values)[torch.randint(4, (96, 8, 8), generator=seed())]
        masks = masks.repeat_interleave(4, 1).repeat_interleave(4, 2)
        given = load(smooth(), masks)
        found = find("mask-values", given, model=model, loss_fn=torch.nn.CrossEntropyLoss())
        assert [True] == [said in f.message + f.fix for f in found]


def test_black_and_white_masks_stay_floats_for_a_loss_of_numbers():
    masks = 255.0 * (smooth(channels=1) > 0.5)
    for loss, cast in ((torch.nn.MSELoss(), "float"), (torch.nn.CrossEntropyLoss(), "long")):
        (found,) = find("mask-values", load(smooth(), masks), loss_fn=loss)
        assert f"(mask > 127).{cast}()" == found.fix
