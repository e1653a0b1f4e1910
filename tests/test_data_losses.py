"""Labels beside the loss and the model that are given, and images that were normalised twice: each
fault beside what looks like it and is meant so.
"""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, TensorDataset
from torchvision.transforms import v2

import cnnprobe

IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(0))
INDICES = torch.arange(32) % 4


class Samples(Dataset):
    """An image of a file of images, and what a function makes of its index."""

    def __init__(self, make, images=IMAGES):
        self.make, self.images = make, images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.make(index)


def find(loader, rule, **more):
    report = cnnprobe.inspect_data(loader, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [f for f in report.findings if f.rule == rule]


def classify(outputs=4):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, outputs))


@pytest.mark.parametrize("mark", [-1, -100, 255])
def test_a_label_for_what_is_not_known_needs_a_loss_that_leaves_it_out(mark):
    given = INDICES.clone()
    given[::5] = mark
    batches, model = DataLoader(TensorDataset(IMAGES, given), 8), classify()
    for ignored in (-100, -1, 255):
        loss = nn.CrossEntropyLoss(ignore_index=ignored)
        found = find(batches, "label-out-of-range", model=model, loss_fn=loss)
        assert bool(found) == (mark != ignored)
        if found:
            assert f"ignore_index={mark} in the loss, which leaves out {ignored}" in found[0].fix
            with pytest.raises(IndexError):
                loss(model(IMAGES), given)
    assert not find(batches, "label-out-of-range")


def test_class_numbers_as_rows_of_floats_are_no_probabilities():
    rows = INDICES[:, None].float()
    batches, model = DataLoader(TensorDataset(IMAGES, rows), 8), classify()
    (found,) = find(batches, "label-type", model=model, loss_fn=nn.CrossEntropyLoss())
    assert "float32 of shape (N, 1)" in found.message and "squeeze(1).long()" in found.fix
    with pytest.raises((RuntimeError, ValueError)):
        cross_entropy(model(IMAGES), rows)
    cross_entropy(model(IMAGES), rows.squeeze(1).long())
    assert not find(batches, "label-type", loss_fn=nn.MSELoss())


def test_weights_of_samples_beside_class_numbers_are_meant_so():
    weights = torch.rand(32)
    beside = DataLoader(TensorDataset(IMAGES, INDICES, weights), 8)
    assert not find(beside, "label-type", loss_fn=nn.CrossEntropyLoss())


@pytest.mark.parametrize("places", [2, 3])
def test_lists_that_the_collate_transposes_are_found(places):
    batches = DataLoader(Samples(lambda i: [float(i % 2)] * places), 8)
    (found,) = find(batches, "label-type", loss_fn=nn.BCEWithLogitsLoss())
    assert f"[1] of the training data is a list of {places} tensors" in found.message
    assert f"of shape (8, {places})" in found.message
    assert len(next(iter(batches))[1]) == places
    with pytest.raises(AttributeError):
        nn.BCEWithLogitsLoss()(torch.zeros(8, places), next(iter(batches))[1])


def test_lists_of_numbers_for_a_loss_of_ones_own_or_beside_labels_are_meant_so():
    def weigh(outputs, targets):
        return sum(cross_entropy(o, t) for o, t in zip(outputs, targets, strict=True))

    tasks = DataLoader(Samples(lambda i: (i % 2, i % 3, i % 5)), 8)
    assert not find(tasks, "label-type", loss_fn=weigh)
    sized = DataLoader(Samples(lambda i: {"label": i % 4, "sides": [8, 8]}), 8)
    assert not find(sized, "label-type", loss_fn=nn.CrossEntropyLoss())
    tensors = DataLoader(Samples(lambda i: torch.tensor([float(i % 2)] * 3)), 8)
    assert not find(tensors, "label-type", loss_fn=nn.BCEWithLogitsLoss())


def detect(first, count):
    """Batches of four images with two boxes each, whose labels start at a number."""
    boxes = torch.tensor([[2.0, 3, 12, 20], [8, 8, 30, 25]])
    labels = [first + torch.arange(i, i + 2) % count for i in range(32)]
    images = torch.rand(32, 3, 32, 32)
    return [
        (list(images[i : i + 4]), [{"boxes": boxes, "labels": y} for y in labels[i : i + 4]])
        for i in range(0, 32, 4)
    ]


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "ssdlite320_mobilenet_v3_large"]
)
def test_objects_of_class_0_are_the_background_of_a_detector(name):
    make = getattr(torchvision.models.detection, name)
    model = make(weights=None, weights_backbone=None, num_classes=4)
    for first, said in ((0, ": 0;"), (2, ": 4;")):
        (found,) = find(detect(first, 3), "label-out-of-range", model=model)
        assert "outside of 1 to 3" in found.message and said in found.message
    assert not find(detect(1, 3), "label-out-of-range", model=model)
    assert not find(detect(0, 3), "label-out-of-range")


def test_retinanet_has_an_output_for_class_0():
    make = torchvision.models.detection.retinanet_resnet50_fpn
    model = make(weights=None, weights_backbone=None, num_classes=4)
    assert not find(detect(0, 3), "label-out-of-range", model=model)


# ---------------------------------------------------------------- normalised twice


def test_a_data_set_that_normalises_what_another_has_normalised_is_found():
    step = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pictures = (torch.rand(32, 3, 8, 8) > 0.5).float()
    once = DataLoader(TensorDataset(step(pictures), INDICES), 8)
    twice = DataLoader(TensorDataset(step(step(pictures)), INDICES), 8)
    assert not find(once, "normalised-twice")
    (found,) = find(twice, "normalised-twice")
    assert "go from -11.4 to 9.93" in found.message and "between -2.12 and 2.64" in found.message


@pytest.mark.parametrize("scale", [1.0, 4.0, 6.0, 30.0])
def test_standardised_images_of_another_scale_are_not_normalised_twice(scale):
    noise = scale * torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    assert not find(DataLoader(TensorDataset(noise, INDICES), 8), "normalised-twice")
