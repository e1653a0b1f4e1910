"""Every form of batch is read, and the loader gives the same next epoch as without."""

import contextlib
import dataclasses
import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

import cnnprobe
from cnnprobe.errors import ProbeError, TargetError, UsageError

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(24) % 3


class Augmented(Dataset):
    """Draws from every kind of generator that a data set may use, and counts its readings."""

    def __init__(self):
        self.torch = torch.Generator().manual_seed(1)
        self.numpy = np.random.default_rng(1)
        self.old = np.random.RandomState(1)
        self.python = random.Random(1)
        self.read = 0

    def __len__(self):
        return 24

    def __getitem__(self, index):
        self.read += 1
        noise = torch.rand(1, generator=self.torch) + torch.rand(1)
        noise += self.numpy.random() + self.old.rand() + self.python.random()
        noise += np.random.rand() + random.random()
        return IMAGES[index] + noise, int(LABELS[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS.tolist(), strict=True))


def seed_all():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)


def read_epochs(loader, *, inspected):
    seed_all()
    next(iter(loader))
    if inspected:
        cnnprobe.inspect_data(loader, samples=16)
    return [images.sum(dim=(1, 2, 3)).tolist() for _ in range(2) for images, _ in loader]


def inspect(*batches):
    return cnnprobe.inspect_data(list(batches), pictures=False).data.training


def roles(split):
    return {part.path: part.role for part in split.parts}


SETTINGS = {
    "shuffled": {"shuffle": True},
    "with its own generator": {"shuffle": True, "generator": torch.Generator()},
    "with workers": {"shuffle": True, "num_workers": 2},
    "with lasting workers": {"shuffle": True, "num_workers": 1, "persistent_workers": True},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_next_epochs_are_the_same_as_without(name):
    both = []
    for inspected in (False, True):
        settings = dict(SETTINGS[name])
        if "generator" in settings:
            settings["generator"] = torch.Generator().manual_seed(3)
        both.append(read_epochs(DataLoader(Augmented(), 8, **settings), inspected=inspected))
    assert both[0] == both[1]


def test_loader_has_its_own_workers_samplers_and_counters_afterwards():
    data = Augmented()
    loader = DataLoader(data, 8, shuffle=True, num_workers=1, persistent_workers=True)
    before = dict(loader.__dict__)
    cnnprobe.inspect_data(loader)
    assert before == loader.__dict__
    assert 0 == data.read


def test_sampler_of_the_users_own_starts_where_it_was():
    class Counting(RandomSampler):
        epoch = 0

        def __iter__(self):
            self.epoch += 1
            return iter(range(self.epoch, 24))

    sampler = Counting(range(24))
    cnnprobe.inspect_data(DataLoader(TensorDataset(IMAGES, LABELS), 8, sampler=sampler))
    assert 0 == sampler.epoch


def test_generators_are_restored_when_the_data_set_raises():
    class Broken(Augmented):
        def __getitem__(self, index):
            super().__getitem__(index)
            raise ValueError("no such file")

    seed_all()
    data = Broken()
    expected = torch.get_rng_state(), data.numpy.bit_generator.state, random.getstate()
    cnnprobe.inspect_data(DataLoader(data, 8, shuffle=True))
    assert torch.equal(expected[0], torch.get_rng_state())
    assert expected[1:] == (data.numpy.bit_generator.state, random.getstate())


def test_model_is_not_changed():
    model = torch.nn.Sequential(
        torch.nn.BatchNorm2d(3), torch.nn.Flatten(), torch.nn.Linear(192, 3)
    )
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = cnnprobe.inspect_data(DataLoader(TensorDataset(IMAGES, LABELS), 8), model=model)
    assert 3 == report.data.expected.outputs
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


@dataclasses.dataclass
class Batch:
    pixels: torch.Tensor
    label: torch.Tensor


class Named(NamedTuple):
    image: torch.Tensor
    target: torch.Tensor


X, Y = IMAGES[:4], LABELS[:4]
FORMS = {
    "a tuple": ((X, Y), {"[0]": "image", "[1]": "class"}),
    "a list": ([X, Y], {"[0]": "image", "[1]": "class"}),
    "a dict": ({"pixel_values": X, "labels": Y}, {"['pixel_values']": "image", "['labels']": "class"}),  # noqa: E501
    "a dataclass": (Batch(X, Y), {".pixels": "image", ".label": "class"}),
    "a named tuple": (Named(X, Y), {".image": "image", ".target": "class"}),
    "images alone": (X, {"": "image"}),
    "images and values": ((X, torch.rand(4, 2)), {"[0]": "image", "[1]": "value"}),
    "several labels each": ((X, torch.eye(4)), {"[0]": "image", "[1]": "multilabel"}),
    "two views": (([X, X + 1], Y), {"[0][0]": "image", "[0][1]": "image", "[1]": "class"}),
    "masks": ((X, torch.zeros(4, 8, 8).long()), {"[0]": "image", "[1]": "mask"}),
    "samples that were not joined": ([(x, int(y)) for x, y in zip(X, Y, strict=True)],
                                     {"[0]": "image", "[1]": "class"}),
    "text labels": ((X, ["cat", "dog", "cat", "cow"]), {"[0]": "image", "[1]": "text"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_parts_of_a_batch_are_found_in(name):
    batch, expected = FORMS[name]
    split = inspect(batch, batch)
    assert expected == roles(split)
    assert (8, 2) == (split.samples, split.batches)


def test_class_label_is_told_from_other_numbers_beside_the_image():
    meta = {"width": torch.full((4,), 32), "index": torch.arange(4)}
    split = inspect({"meta": meta, "number": torch.full((4,), 7), "image": X, "label": Y})
    assert ((0, 2), (1, 1), (2, 1)) == split.labels.counts
    split = inspect((X, Y, torch.arange(4)))
    assert ((0, 2), (1, 1), (2, 1)) == split.labels.counts


def test_lengths_of_padded_sequences_are_no_class_labels():
    words = torch.tensor(
        [[5, 6, 7, 2, 0, 0], [5, 9, 2, 0, 0, 0], [5, 9, 3, 8, 4, 2], [5, 7, 2, 0, 0, 0]]
    )
    lengths = torch.tensor([4, 3, 6, 3])
    split = inspect((X, words, lengths))
    assert (None, "other") == (split.labels, roles(split)["[2]"])
    # a sequence goes on behind the number: it is no length
    assert "class" == roles(inspect((X, words, torch.tensor([2, 3, 6, 3]))))["[2]"]


@pytest.mark.parametrize(
    "images",
    [X > 0, X.to(torch.complex64), X.bfloat16(), X.to_sparse()],
    ids=lambda x: str(x.dtype),
)
def test_unusual_tensors_are_measured_or_passed_over(images):
    report = cnnprobe.inspect_data([(images, Y)] * 2, pictures=False)
    assert ((), 2) == (report.notes, report.data.training.batches)


def test_lists_of_detectors_are_read_as_samples():
    targets = [
        {"boxes": torch.tensor([[0.0, 0, 4, 4]] * n), "labels": torch.ones(n).long()}
        for n in (1, 2, 3)
    ]
    split = inspect((list(IMAGES[:3]), targets))
    assert {"[0]": "image", "[1]['boxes']": "boxes", "[1]['labels']": "classes"} == roles(split)
    assert 3 == split.samples and 6 == split.objects[0].count


def test_numbers_of_the_images_are_those_of_torch():
    part = inspect(*[(IMAGES[i : i + 8], LABELS[i : i + 8]) for i in (0, 8, 16)]).parts[0]
    numbers = part.numbers
    assert pytest.approx(IMAGES.mean().item(), abs=1e-6) == numbers.mean
    assert pytest.approx(IMAGES.std(correction=0).item(), abs=1e-6) == numbers.std
    assert (IMAGES.min().item(), IMAGES.max().item()) == (numbers.low, numbers.high)
    assert [pytest.approx(m, abs=1e-6) for m in IMAGES.mean(dim=(0, 2, 3)).tolist()] == [
        c.mean for c in part.channels
    ]
    stds = IMAGES.std(dim=(0, 2, 3), correction=0).tolist()
    assert [pytest.approx(s, abs=1e-6) for s in stds] == [c.std for c in part.channels]


def test_reading_ends_at_the_number_of_samples():
    loader = DataLoader(TensorDataset(IMAGES, LABELS), 4, shuffle=True)
    split = cnnprobe.inspect_data(loader, samples=8, pictures=False).data.training
    assert (8, 2, False) == (split.samples, split.batches, split.complete)
    whole = cnnprobe.inspect_data(loader, samples=None, pictures=False).data.training
    assert (24, 6, True) == (whole.samples, whole.batches, whole.complete)


def test_batches_in_order_are_read_from_the_whole_data_set():
    loader = DataLoader(TensorDataset(IMAGES, LABELS.sort().values), 4)
    report = cnnprobe.inspect_data(loader, samples=12, pictures=False)
    assert {0, 1, 2} == {t.spot.label for t in _thumbnails(loader)}
    assert ((0, 8), (1, 8), (2, 8)) == report.data.training.labels.counts


def _thumbnails(loader):
    from cnnprobe.data.reading import read_data
    from cnnprobe.data.source import Limits

    return read_data(loader, limits=Limits(samples=12))[1][0].images.thumbnails


def test_labels_of_the_whole_data_set_are_counted_without_reading_it():
    data = TensorDataset(IMAGES, LABELS)
    labels = cnnprobe.inspect_data(
        DataLoader(Subset(data, range(9)), 3, shuffle=True), samples=3
    ).data.training.labels
    assert (((0, 3), (1, 3), (2, 3)), True) == (labels.counts, labels.complete)


def test_weighted_sampler_counts_what_it_draws():
    sampler = WeightedRandomSampler([1.0] * 24, 24)
    labels = cnnprobe.inspect_data(
        DataLoader(TensorDataset(IMAGES, LABELS), 8, sampler=sampler)
    ).data.training
    assert 24 == labels.loading.draws.weights


@pytest.mark.parametrize(
    "given", [TensorDataset(IMAGES, LABELS), Stream()], ids=["a data set", "a stream"]
)
def test_data_set_is_read_without_a_loader(given):
    split = cnnprobe.inspect_data(given, pictures=False).data.training
    assert (24, {"[0]": "image", "[1]": "class"}) == (split.samples, roles(split))


def test_generator_is_refused_because_it_would_be_used_up():
    batches = (batch for batch in [(X, Y)])
    with pytest.raises(UsageError, match="can be read only once"):
        cnnprobe.inspect_data(batches)
    assert 1 == len(list(batches))


def test_number_gives_no_batches():
    with pytest.raises(TargetError, match="int gives no batches"):
        cnnprobe.inspect_data(3)


def test_report_is_read_back_as_it_was_saved(tmp_path):
    report = cnnprobe.inspect_data(DataLoader(TensorDataset(IMAGES, LABELS), 8))
    assert report.sheets
    for name in ("data.json", "data.html"):
        report.save(tmp_path / name)
        assert report == cnnprobe.load(tmp_path / name)
    assert "What a batch holds" in (tmp_path / "data.html").read_text(encoding="utf-8")


def test_damaged_report_says_so(tmp_path):
    (tmp_path / "data.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ProbeError, match="not a cnnprobe Report"):
        cnnprobe.load(tmp_path / "data.json")


def test_report_shows_itself_in_a_notebook():
    bundle = cnnprobe.inspect_data([(X, Y)])._repr_mimebundle_()
    assert "Classes" in bundle["text/html"] and "nothing was found" in bundle["text/plain"]


class Normalize:
    """Subtracts the means of three channels."""

    def __init__(self):
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)

    def __call__(self, image):
        return image.sub_(self.mean)


class Photos(Dataset):
    """Images of one channel, the last of which are in colour."""

    def __init__(self, grey):
        self.grey = grey
        self.transform = Normalize()

    def __len__(self):
        return 8

    def __getitem__(self, index):
        image = torch.zeros(1 if index < self.grey else 3, 8, 8)
        return self.transform(image), index


FAILS = "Photos raised in the transform Normalize: the image (1, 8, 8) has 1 channel"


def find_unreadable(data):
    findings = cnnprobe.inspect_data(DataLoader(data, 4, shuffle=True)).findings
    return next(f for f in findings if f.rule == "unreadable-samples")


def grey_model():
    return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten())


@pytest.mark.parametrize("workers", [0, 1])
def test_transform_that_fails_on_every_sample_is_named_by_diagnose(workers):
    loader = DataLoader(Photos(8), 4, num_workers=workers)
    with pytest.raises(TargetError, match="the loader gives no batch: failed-sample: ") as caught:
        cnnprobe.diagnose(grey_model(), loader, loss_fn=torch.nn.CrossEntropyLoss())
    assert FAILS in caught.value.what
    assert "use one mean and one std: '0' (Conv2d) expects 1 channel" == caught.value.fix
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_diagnose_says_of_a_failing_transform_what_a_recorded_loop_says():
    loader, model = DataLoader(Photos(8), 4), grey_model()
    with pytest.raises(TargetError) as caught:
        cnnprobe.diagnose(model, loader)
    with contextlib.suppress(RuntimeError), cnnprobe.record(model) as run:
        for images, _ in loader:
            model(images)
    assert run.explanation.message in caught.value.what
    assert run.explanation.repairs[0].title == caught.value.fix


def test_samples_are_not_to_be_removed_where_all_of_them_raise():
    found = find_unreadable(Photos(8))
    assert FAILS in found.message
    assert "8 of 8 samples that were tried raise: " in found.message
    assert "open every image in colour: " in found.fix


def test_one_grey_image_among_coloured_ones_is_to_be_opened_in_colour():
    found = find_unreadable(Photos(1))
    assert "1 of 8 samples that were tried raises: sample 0" in found.message
    assert "open every image in colour: " in found.fix


def test_samples_that_all_raise_for_an_unknown_reason_are_not_to_be_removed():
    class Lost(Photos):
        def __getitem__(self, index):
            raise OSError("no such disk")

    found = find_unreadable(Lost(8))
    assert "correct what the data set or its transform does with every sample" == found.fix
    assert "raises OSError: no such disk; 8 of 8 samples" in found.message


def test_targets_beside_a_loader_are_refused():
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 2), batch_size=4)
    with pytest.raises(UsageError, match="targets are given beside a loader"):
        cnnprobe.diagnose(
            torch.nn.Linear(4, 2), loader, torch.arange(4) % 2, loss_fn=torch.nn.CrossEntropyLoss()
        )


def test_a_suppression_without_a_reason_is_refused():
    loader = DataLoader(TensorDataset(torch.randn(8, 3, 4, 4), torch.arange(8) % 2), batch_size=4)
    with pytest.raises(UsageError, match="ignored without a reason"):
        cnnprobe.inspect_data(loader, ignore={"sizes-differ": " "})
