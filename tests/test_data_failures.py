"""What is said of a loader that raises: the cause, and what to do."""

import functools
import io

import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

import cnnprobe
from cnnprobe.errors import TargetError

PIXELS = torch.randn(3, 8, 8)
PICTURE = Image.frombytes("RGB", (8, 8), bytes(range(192)))


class Samples(Dataset):
    """Eight samples, made by a function of the index."""

    def __init__(self, make=lambda _, i: (PIXELS, i), **attributes):
        self.make = make
        vars(self).update(attributes)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        return self.make(self, i)


class Unreturned(Samples):
    """Its samples are None."""

    def __getitem__(self, i):
        self.make(self, i)


class Unsized(Dataset):
    """It has no length."""

    def __getitem__(self, i):
        return PIXELS, i


class Misspelt(Dataset):
    """Its method has another name."""

    def __len__(self):
        return 8

    def __get_item__(self, i):
        return PIXELS, i


def read_key(data, i):
    return data.rows[i]


FAILURES = {
    "an image that is no tensor": (Samples(lambda _, i: (PICTURE, i)), "Image objects", "ToTensor"),
    "a sample that is None": (
        Samples(lambda _, i: (PIXELS, i) if i != 5 else None),
        "returned None for sample 5",
        "leaves None out",
    ),
    "no return": (Unreturned(), "Unreturned.__getitem__ has no return", "with a return"),
    "boxes of several numbers": (
        Samples(lambda _, i: (PIXELS, torch.rand(i + 1, 4))),
        "they differ in shape",
        "collate_fn",
    ),
    "a misspelt attribute": (
        Samples(lambda data, i: data.image[i], images=[PIXELS] * 8),
        "has no attribute 'image'; it has 'images'",
        "write data.images instead of data.image",
    ),
    "a file that is not there": (
        Samples(lambda _, i: Image.open(f"no_folder/{i}.png")),
        "the folder 'no_folder' is missing",
        "Path(__file__).parent",
    ),
    "a position for a key": (
        Samples(read_key, rows={f"{i}.png": PIXELS for i in range(8)}),
        "0 is the position of a sample, and no key of rows",
        "self.keys = list(self.rows)",
    ),
    "no length": (Unsized(), "Unsized has no __len__", "define __len__(self)"),
    "a misspelt method": (Misspelt(), "it has __get_item__", "to __getitem__"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_data_that_cannot_be_read_or_joined_is_named_with_its_repair(case):
    dataset, message, fix = FAILURES[case]
    report = cnnprobe.inspect_data(DataLoader(dataset, batch_size=4), pictures=False)
    (found,) = [f for f in report.findings if f.severity == "error"]
    assert "unreadable-samples" == found.rule
    assert message in found.message
    assert fix in found.fix


def test_images_of_several_sizes_are_told_once():
    loader = DataLoader(Samples(lambda _, i: (PIXELS[..., : 4 + i % 3], i)), batch_size=4)
    report = cnnprobe.inspect_data(loader, pictures=False)
    assert ["sizes-differ"] == [f.rule for f in report.findings if f.severity == "error"]


def test_diagnose_of_a_loader_that_joins_nothing_says_why():
    loader = DataLoader(FAILURES["an image that is no tensor"][0], batch_size=4)
    with pytest.raises(TargetError, match=r"Image objects(.|\n)*ToTensor"):
        cnnprobe.diagnose(nn.Conv2d(3, 4, 3), loader, loss_fn=nn.CrossEntropyLoss())


def explain_iteration(dataset):
    """What is said where a loop reads a loader with one worker that is spawned."""
    model, recording = nn.Linear(8, 2), None
    loader = DataLoader(dataset, 4, num_workers=1, multiprocessing_context="spawn")
    try:
        with cnnprobe.record(model) as recording:
            next(iter(loader))
    except Exception:
        return recording.explanation
    raise AssertionError


UNPICKLABLE = {
    "a lambda": (Samples(), "the attribute 'make' of Samples", "a lambda (", "at the top level"),
    "a lambda of a transform": (
        Samples(read_key, rows=[functools.partial(len), lambda x: x]),
        "the attribute 'rows' of Samples[1]",
        "a lambda (",
        "at the top level",
    ),
    "an open file": (
        Samples(read_key, rows=io.TextIOWrapper(io.BytesIO(b"1"))),
        "the attribute 'rows' of Samples",
        "a TextIOWrapper",
        "open it in __getitem__",
    ),
}


@pytest.mark.parametrize("case", UNPICKLABLE)
def test_part_of_a_loader_that_workers_cannot_be_sent_is_named(case):
    dataset, part, what, fix = UNPICKLABLE[case]
    explanation = explain_iteration(dataset)
    assert "unpicklable-for-workers" == explanation.diagnosis
    assert explanation.message.startswith(f"{part} cannot be sent") and what in explanation.message
    assert fix in explanation.repairs[0].title
