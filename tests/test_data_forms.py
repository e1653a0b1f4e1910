"""Boxes, key points, labels and clips in a form that is not what it looks like, and their healthy
twins.
"""

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import cnnprobe
from cnnprobe.data import all_data_rules
from cnnprobe.data.columns import read_columns
from cnnprobe.data.facts import Data, Leak, LoaderSettings, Split
from cnnprobe.data.object_rows import find_object_rows
from cnnprobe.data.pixels import compare_frames
from cnnprobe.data.spots import SamePicture, Spotted


def find(*given, **settings):
    report = cnnprobe.inspect_data(*given, pictures=False, **settings)
    return {finding.rule: finding for finding in report.findings}


def load(*tensors, **settings):
    return DataLoader(TensorDataset(*tensors), batch_size=8, shuffle=True, **settings)


# ---------------------------------------------------------------- boxes in rows of all images


def draw_rows(*, centered, batches=4):
    """Batches of eight images with two boxes each, (image, class, x, y, width, height)."""
    torch.manual_seed(0)
    for _ in range(batches):
        size = 0.1 + 0.3 * torch.rand(16, 2)
        first = torch.rand(16, 2) * (1 - size)
        place = first + size / 2 if centered else first
        image = torch.arange(8.0).repeat_interleave(2)[:, None]
        yield torch.rand(8, 3, 16, 16), torch.cat([image, image % 3, place, size], dim=1)


def test_rows_from_the_top_left_are_told_where_centers_are_meant():
    found = find(list(draw_rows(centered=False)))["box-format"]
    assert found.message.endswith(
        "boxes [1][:, 2:] of the training data reach beyond their image as [center x, center y, "
        "width, height], and lie inside of it as [x, y, width, height] from the top left"
    )
    assert 'torchvision.ops.box_convert(boxes, "xywh", "cxcywh")' == found.fix


def test_rows_with_their_centers_are_healthy():
    assert {} == find(list(draw_rows(centered=True)))


def test_rows_are_read_as_boxes_and_classes_of_each_image():
    data = cnnprobe.inspect_data(list(draw_rows(centered=True)), pictures=False).data.training
    assert {"[0]": "image", "[1][:, 2:]": "boxes", "[1][:, 1]": "classes"} == {
        part.path: part.role for part in data.parts
    }
    assert (64, 64) == (data.objects[0].count, data.objects[0].relative)


def test_six_targets_of_each_image_are_no_rows_of_objects():
    batch = (torch.rand(8, 3, 16, 16), torch.rand(8, 6))
    assert () == find_object_rows(read_columns(batch), 8)


def test_rows_with_more_than_the_whole_image_are_no_rows_of_objects():
    images, rows = next(draw_rows(centered=True))
    assert ("[1]",) == find_object_rows(read_columns((images, rows)), 8)
    rows[3, 4] = 1.01
    assert () == find_object_rows(read_columns((images, rows)), 8)


@pytest.mark.parametrize("form", ["xyxy", "cxcywh"])
def test_parts_of_the_image_are_healthy_as_corners_and_as_centers(form):
    first = torch.rand(40, 4, 2) / 2
    second = first + 0.4
    both = {"xyxy": (first, second), "cxcywh": ((first + second) / 2, second - first)}[form]
    boxes = torch.cat(both, dim=2)
    batches = [
        ([torch.rand(3, 16, 16)] * 4, [{"boxes": b} for b in boxes[i : i + 4]])
        for i in range(0, 40, 4)
    ]
    assert "box-format" not in find(batches)


# ---------------------------------------------------------------- key points


def place_points(value=None):
    points = 10 + 40 * torch.rand(64, 5, 2, generator=torch.Generator().manual_seed(1))
    points = points.round()
    if value is not None:
        points[::4, 0, 0] = value
    images = torch.rand(64, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    return DataLoader(
        [(image, {"keypoints": each}) for image, each in zip(images, points, strict=True)],
        batch_size=8,
        shuffle=True,
    )


def test_a_coordinate_that_many_key_points_share_is_a_mark():
    found = find(place_points(2.0))["marked-targets"]
    assert found.message == (
        "16 key points of 320 of [1]['keypoints'] of the training data have an x or a y of exactly "
        "2, and 0 coordinates are near to it: a mark, or a default"
    )
    assert "warning" == found.severity


def test_key_points_on_the_border_of_their_image_are_info():
    assert "info" == find(place_points(0.0))["marked-targets"].severity


def test_key_points_all_over_the_image_have_no_mark():
    assert "marked-targets" not in find(place_points())


# ---------------------------------------------------------------- labels of shape (N, 1)


def test_whole_labels_in_a_dim_of_their_own_are_a_warning_for_a_loss_over_classes():
    images, labels = torch.randn(64, 3, 8, 8), torch.arange(64)[:, None] % 4
    found = find(load(images, labels), loss_fn=nn.CrossEntropyLoss())["label-type"]
    assert (
        "[1] of the training data is int64 of shape (N, 1); cross_entropy takes class indices as "
        "int64 of shape (N,)"
    ) == found.message
    assert "warning" == found.severity
    assert found.fix.startswith("labels.squeeze(1)")
    with pytest.raises(RuntimeError):  # what torch says to it
        nn.functional.cross_entropy(torch.randn(64, 4), labels)


def test_labels_of_shape_n_are_healthy_for_it():
    images, labels = torch.randn(64, 3, 8, 8), torch.arange(64) % 4
    assert "label-type" not in find(load(images, labels), loss_fn=nn.CrossEntropyLoss())


# ---------------------------------------------------------------- clips


def test_frames_change_more_where_strings_jump_also_under_noise():
    torch.manual_seed(0)
    steps = torch.arange(12.0)[:, None].repeat(1, 64) + 2 * torch.randn(12, 64)
    as_strings = steps[[number - 1 for number in sorted(range(1, 13), key=str)]]
    assert compare_frames(as_strings) > 1.5
    assert compare_frames(steps) < 1
    assert 0.8 < compare_frames(torch.randn(12, 4096)) < 1.1


# ---------------------------------------------------------------- what is said once


def test_one_finding_stands_for_both_splits():
    ids = torch.randint(1, 99, (4, 8, 16))
    ids[:, 1:, 10:] = 0
    batches = [{"input_ids": each, "labels": each} for each in ids]
    report = cnnprobe.inspect_data(
        batches, validation=batches[:2], loss_fn=nn.CrossEntropyLoss(), pictures=False
    )
    (found,) = (f for f in report.findings if f.rule == "padded-targets")
    assert "of the training data are padding (0)" in found.message
    assert found.message.endswith("; so it is in the validation data")


def test_findings_that_name_samples_stay_one_of_each_split():
    images = torch.randn(32, 3, 8, 8)
    images[3] = float("nan")
    loader = load(images, torch.arange(32) % 4)
    report = cnnprobe.inspect_data(loader, validation=loader, pictures=False)
    assert 2 == len([f for f in report.findings if f.rule == "nonfinite-values"])


def test_neighbours_in_both_splits_are_said_before_a_few_copies():
    spots = [Spotted(batch=0, position=i, index=i) for i in range(2)]
    pair = SamePicture(first=spots[0], second=spots[1])
    few = Leak(pairs=(pair,), count=2, among=72, by="content", share=0.03)
    most = Leak(pairs=(pair,), count=71, among=72, by="sequence", share=71 / 72)
    split = Split(name="training", loading=LoaderSettings(kind="DataLoader"))
    (rule,) = (rule for rule in all_data_rules() if rule.name == "train-validation-leak")
    (found,) = rule.check(Data(training=split, leaks=(few, most)))
    assert found.severity is None
    assert found.message == (
        "71 of 72 validation samples have a neighbour in the list that is in the training data and "
        "nearly equal (98.6%): sample 1 stands beside sample 0 of the training"
    )
    (slight,) = rule.check(Data(training=split, leaks=(few,)))
    assert "info" == slight.severity


class Transformed(TensorDataset):
    """A data set with a transform, as torchvision's have one."""

    def __init__(self, transform):
        super().__init__(torch.randn(48, 3, 8, 8), torch.arange(48) % 4)
        self.transform = transform

    def __getitem__(self, index):
        image, label = super().__getitem__(index)
        return self.transform(image), label


def test_parts_of_one_data_set_are_said_to_have_one_transform():
    both = [Transformed(torch.abs), Transformed(torch.neg)]
    for first, second, shared in ((both[0], both[0], True), (both[0], both[1], False)):
        training, validation = Subset(first, range(32)), Subset(second, range(32, 48))
        report = cnnprobe.inspect_data(
            DataLoader(training, 8, shuffle=True), DataLoader(validation, 8), pictures=False
        )
        assert shared == ("one for training and validation" in report.to("text", width=120))


@pytest.mark.parametrize("name", ["ignored-orientation", "palette-indices"])
def test_example_of_a_rule_leaves_no_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (rule,) = (rule for rule in all_data_rules() if rule.name == name)
    given = rule.sick()
    assert 1 == len(list(tmp_path.iterdir()))
    del given
    gc.collect()
    assert [] == list(Path(tmp_path).iterdir())
