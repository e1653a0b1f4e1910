"""Data without images: rows of tables, windows of series, tokens, and workers that draw alike."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import cnnprobe
from cnnprobe.data.padding import find_padding


def seed(number=0):
    return torch.Generator().manual_seed(number)


def load(*parts, **settings):
    return DataLoader(TensorDataset(*parts), 16, **{"shuffle": True, **settings})


def find(rule, training, validation=None, **more):
    report = cnnprobe.inspect_data(training, validation, pictures=False, **more)
    assert [] == [note for note in report.notes if "could not" in note]
    return [finding for finding in report.findings if rule == finding.rule]


# ---------------------------------------------------------------- tables


def test_rows_of_a_table_in_both_splits_are_counted():
    rows, labels = torch.randn(200, 8, generator=seed()), torch.arange(200) % 2
    both = torch.cat([rows[150:], rows[:25]])
    training = load(rows[:150], labels[:150])
    (found,) = find("train-validation-leak", training, load(both, torch.arange(75) % 2))
    assert "25 of 75 validation samples are rows of the training too" in found.message
    assert [] == find("train-validation-leak", training, load(rows[150:], labels[150:]))


def test_rows_of_a_few_values_are_equal_by_chance():
    rows = torch.randint(3, (400, 4), generator=seed()).float()
    labels = torch.arange(400) % 2
    split = load(rows[:300], labels[:300]), load(rows[300:], labels[300:])
    assert [] == find("train-validation-leak", *split)


@pytest.mark.parametrize("features", [1, 3])
def test_windows_of_a_series_are_told_where_they_were_split_at_random(features):
    series = torch.randn(600, features, generator=seed()).cumsum(0)
    windows = series.unfold(0, 32, 1).transpose(1, 2).contiguous()
    windows = windows[..., 0] if features == 1 else windows
    order = torch.randperm(len(windows), generator=seed(1))
    next_ones = torch.randn(len(windows), 1, generator=seed(2))

    def split(order):
        parts = order[:440], order[440:]
        return [load(windows[part], next_ones[part]) for part in parts]

    (found,) = find("train-validation-leak", *split(order))
    assert "of 129 validation samples are windows of a series" in found.message
    by_time = find("train-validation-leak", *split(torch.arange(len(windows))))
    assert [] == [f for f in by_time if f.severity != "info"]


def test_flattened_pictures_of_few_levels_are_no_windows_of_a_series():
    rows = torch.tensor(load_digits().data, dtype=torch.float32)
    rows = (rows - 4.88) / 6.02
    order = torch.randperm(len(rows), generator=seed())
    labels = torch.arange(len(rows)) % 10
    split = [load(rows[part], labels[part]) for part in (order[:1400], order[1400:])]
    assert [] == find("train-validation-leak", *split)


def test_series_that_stand_still_do_not_overlap():
    windows = torch.zeros(200, 32, 3)
    windows[:, :8] = torch.randn(200, 8, 3, generator=seed())
    split = load(windows[:140], torch.rand(140, 1)), load(windows[140:], torch.rand(60, 1))
    assert [] == find("train-validation-leak", *split)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (lambda y, noise: y, 1),
        (lambda y, noise: 5 - 2 * y, 1),
        (lambda y, noise: (y > 0).to(y), 0),  # tells one class of three
        (lambda y, noise: torch.where(noise > 2, 1, y), 0),  # nearly the target
        (lambda y, noise: y + 0.01 * noise, 0),  # tells all, with values of its own
        (lambda y, noise: torch.ones_like(y), 0),
    ],
)
def test_class_among_the_features_is_found(column, expected):
    labels, rows = torch.arange(240) % 3, torch.randn(240, 6, generator=seed())
    rows[:, 4] = column(labels.float(), torch.randn(240, generator=seed(1)))
    found = find("target-in-features", load(rows, labels))
    assert ["4"] * expected == [f.message[-1] for f in found]


@pytest.mark.parametrize(("noise", "expected"), [(0.0, 1), (0.01, 0)])
def test_number_to_be_predicted_among_the_features_is_found(noise, expected):
    rows = torch.randn(240, 6, generator=seed())
    target = 3 * rows[:, 2:3] + 1 + noise * torch.randn(240, 1, generator=seed(1))
    assert expected == len(find("target-in-features", load(rows, target), loss_fn=nn.MSELoss()))
    line = load(rows[:, 2:3], target)  # one feature: the law itself is asked for
    assert [] == find("target-in-features", line)


# ---------------------------------------------------------------- tokens


def ragged(n=64, length=20):
    lengths = torch.randint(5, length, (n, 1), generator=seed())
    lengths[::8] = length
    ids = torch.randint(1, 99, (n, length), generator=seed(1))
    return ids.masked_fill(torch.arange(length) >= lengths, 0)


def test_padding_is_what_fills_the_ends_of_rows_of_several_lengths():
    pad, places = find_padding(ragged())
    assert 0 == pad
    assert torch.equal(ragged() == 0, places)
    assert find_padding(torch.randint(1, 99, (64, 20), generator=seed())) is None
    assert find_padding(torch.randint(2, (64, 20), generator=seed())) is None
    dotted = torch.randint(1, 99, (64, 20), generator=seed())
    dotted[:, -1] = 0  # all rows end in one full stop
    assert find_padding(dotted) is None


@pytest.mark.parametrize(
    ("fill", "loss", "expected"),
    [
        (0, nn.CrossEntropyLoss(), 1),
        (0, nn.CrossEntropyLoss(ignore_index=0), 0),
        (-100, nn.CrossEntropyLoss(), 0),
        (0, nn.CrossEntropyLoss(reduction="none"), 0),  # masked by hand
        (0, None, 0),  # the model has a loss of its own
    ],
)
def test_padding_in_the_loss_depends_on_what_the_loss_leaves_out(fill, loss, expected):
    ids = ragged()
    given = [{"input_ids": ids, "labels": (ids % 7 + 1).masked_fill(ids == 0, fill)}]
    assert expected == len(find("padded-targets", given, loss_fn=loss))


@pytest.mark.parametrize(("filled", "expected"), [(True, 1), (False, 0)])
def test_mask_of_ones_is_told_beside_padding_alone(filled, expected):
    ids = ragged() if filled else torch.randint(1, 99, (64, 20), generator=seed())
    given = [{"input_ids": ids, "attention_mask": torch.ones_like(ids), "y": torch.arange(64) % 2}]
    assert expected == len(find("unmasked-padding", given))
    given[0]["attention_mask"] = (ids != 0).long()
    assert [] == find("unmasked-padding", given)


def test_labels_of_a_causal_model_that_shifts_them_are_let_pass():
    ids = torch.randint(1, 99, (64, 20), generator=seed())
    loss = nn.CrossEntropyLoss()
    assert [] == find(
        "unshifted-targets", [{"input_ids": ids, "labels": ids.clone()}], loss_fn=loss
    )
    (found,) = find("unshifted-targets", [(ids, ids.clone())], loss_fn=loss)
    assert "tokens[:, 1:]" in found.fix
    assert [] == find("unshifted-targets", [(ids[:, :-1], ids[:, 1:])], loss_fn=loss)


# ---------------------------------------------------------------- workers


class Clouds(Dataset):
    """Points that are turned by a random angle."""

    def __init__(self, *, own):
        self.random = np.random.RandomState(0) if own else None

    def __len__(self):
        return 32

    def __getitem__(self, index):
        angle = self.random.rand() if self.random is not None else float(torch.rand(()))
        points = np.random.RandomState(index).randn(16, 3)
        points[:, 0] += angle
        return {"points": torch.tensor(points).float(), "label": index % 3}


@pytest.mark.parametrize(("own", "expected"), [(True, 1), (False, 0)])
def test_workers_that_draw_alike_are_found_without_images(own, expected):
    data = Clouds(own=own)
    state = data.random.get_state()[1].copy() if own else None
    loader = DataLoader(data, batch_size=8, shuffle=True, num_workers=2)
    assert expected == len(find("repeated-random-numbers", loader))
    assert not own or np.array_equal(state, data.random.get_state()[1])
