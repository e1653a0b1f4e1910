"""Causes that are silent in the loss: each is named, and its healthy look-alike is left alone."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cnnprobe


def diagnose(model, x, **others):
    torch.manual_seed(0)
    given = {"loss_fn": nn.CrossEntropyLoss(), "trials": 0}
    given["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.05)
    return cnnprobe.diagnose(model, x, torch.arange(len(x)) % 4, **given | others)


def find(report, rule):
    return [finding for finding in report.findings if finding.rule == rule]


class Branches(nn.Module):
    """Weighs two branches, which are stacked in front of the batch."""

    def __init__(self, dim):
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(64, 16) for _ in range(2)])
        self.weights = nn.ModuleList([nn.Linear(16, 16) for _ in range(2)])
        self.head, self.dim = nn.Linear(16, 4), dim

    def forward(self, x):
        made = torch.stack([branch(x.flatten(1)).relu() for branch in self.branches])
        told = torch.stack([weight(made.sum(0)) for weight in self.weights])
        return self.head((told.softmax(self.dim) * made).sum(0))


@pytest.mark.parametrize("count", [8, 96])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_softmax_over_a_batch_that_is_not_dim_0_is_named(dim, count):
    torch.manual_seed(0)
    found = find(diagnose(Branches(dim), torch.randn(count, 1, 8, 8)), "batch-leak")
    assert bool(dim) == bool(found)
    if dim:
        assert "first by Tensor.softmax" in found[0].message
        alone = Branches(dim).eval()
        x = torch.randn(count, 1, 8, 8)
        assert not torch.allclose(alone(x)[:1], alone(x[:1]), atol=1e-3)  # as the finding says


class Attending(nn.Module):
    def __init__(self, dim, scores="bihd,bjhd->bijh", result="bijh,bjhd->bihd"):
        super().__init__()
        self.given = nn.Linear(8, 24)
        self.head, self.dim, self.scores, self.result = nn.Linear(8, 4), dim, scores, result

    def forward(self, x):
        q, k, v = self.given(x[:, 0]).view(len(x), 6, 2, 12).chunk(3, dim=-1)
        weights = torch.einsum(self.scores, q, k).softmax(self.dim)
        return self.head(torch.einsum(self.result, weights, v).flatten(2).mean(1))


@pytest.mark.parametrize(
    ("dim", "scores", "result", "found"),
    [
        (1, "bihd,bjhd->bijh", "bijh,bjhd->bihd", True),
        (2, "bihd,bjhd->bijh", "bijh,bjhd->bihd", False),
        (2, "b i h d, b j h d -> b h i j", "b h i j, b j h d -> b i h d", True),
        (-1, "b i h d, b j h d -> b h i j", "b h i j, b j h d -> b i h d", False),
    ],
)
def test_the_softmax_of_an_attention_of_einsums_runs_over_the_keys(dim, scores, result, found):
    torch.manual_seed(0)
    report = diagnose(Attending(dim, scores, result), torch.randn(5, 1, 6, 8))
    assert found == bool(find(report, "softmax-over-queries"))


class Block(nn.Module):
    def __init__(self, skip):
        super().__init__()
        self.conv, self.norm, self.skip = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), skip
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        made = self.norm(self.conv(x))
        return F.relu(x + made if self.skip else made)


@pytest.mark.parametrize("skip", [True, False])
def test_a_norm_of_scale_0_is_found_but_not_at_the_end_of_a_residual_branch(skip):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), Block(skip), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)
    )
    found = find(diagnose(model, torch.randn(8, 1, 8, 8)), "zero-scale")
    assert bool(found) != skip


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 16)
        self.outs = nn.ModuleList([nn.Linear(16, 4) for _ in range(2)])

    def forward(self, x):
        x = self.body(x.flatten(1)).relu()
        return [out(x) for out in self.outs]


def last_only(outputs, y):
    for out in outputs:
        loss = F.cross_entropy(out, y)
    return loss


def logged(outputs, y):
    losses = [F.cross_entropy(out, y) for out in outputs]
    losses[0].item()
    return losses[1]


def one_only(outputs, y):
    return F.cross_entropy(outputs[1], y)


@pytest.mark.parametrize(
    ("loss_fn", "severity"), [(last_only, "warning"), (logged, "info"), (one_only, "info")]
)
def test_an_output_whose_loss_is_computed_and_dropped_is_warned_of(loss_fn, severity):
    torch.manual_seed(0)
    report = diagnose(Deep(), torch.randn(8, 1, 8, 8), loss_fn=loss_fn)
    (finding,) = find(report, "no-grad-params")
    assert (severity, "outs.0") == (finding.severity, finding.module)
    assert (severity == "warning") == ("it is computed, and no backward" in finding.fix)


class Pyramid(nn.Module):
    """Reads two sizes of an image, with a layer for each."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3), nn.Linear(4, 4)
        self.reads = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1) for _ in range(2)])

    def forward(self, x):
        first = self.stem(x).relu()
        sizes = first, F.avg_pool2d(first, 2)
        made = [read(y).mean((2, 3)) for read, y in zip(self.reads, sizes, strict=True)]
        return self.head(made[0] * made[1])


class Times(Pyramid):
    """With one layer, which stands twice in the list."""

    def __init__(self):
        super().__init__()
        self.reads = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1)] * 2)


class Named(Pyramid):
    """With one layer that has a name, on purpose."""

    def __init__(self):
        super().__init__()
        shared = nn.Conv2d(4, 4, 3, padding=1)
        self.reads = nn.ModuleList([shared for _ in range(2)])


class Chosen(Pyramid):
    """With one layer where that is asked for."""

    def __init__(self, shared=False):
        super().__init__()
        if shared:
            self.reads = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1)] * 2)
        else:
            self.reads = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), self.reads[0]])


@pytest.mark.parametrize("kind", [Pyramid, Times, Named, Chosen])
def test_one_layer_in_a_list_times_two_is_found_where_its_inputs_differ(kind):
    torch.manual_seed(0)
    report = diagnose(kind(), torch.randn(8, 1, 10, 10))
    assert (kind is Times) == bool(find(report, "shared-module"))


def mix_apart(x, y, order, other):
    return 0.7 * x + 0.3 * x[order], 0.7 * y + 0.3 * y[other]


@pytest.mark.parametrize("way", ["apart", "together", "images only", "shuffled twice"])
def test_images_and_soft_labels_that_are_mixed_in_two_orders_are_found(way):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def train_step(x, y):
        y = F.one_hot(y, 4).float()
        order, other = torch.randperm(len(x)), torch.randperm(len(x))
        if way == "shuffled twice":
            x, y = x[other], y[other]
        if way == "images only":
            x = x.index_select(0, order)
        else:
            x, y = mix_apart(x, y, order, other if way == "apart" else order)
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    report = cnnprobe.diagnose(
        model, torch.randn(8, 1, 8, 8), torch.arange(8) % 4, optimizer=optimizer,
        train_step=train_step, trials=0,
    )  # fmt: skip
    assert (way == "apart") == bool(find(report, "unpaired-order"))


class Columns(nn.Module):
    """Scores of each column of a picture, the columns first, as a CTC loss takes them."""

    def __init__(self, mixed):
        super().__init__()
        self.conv, self.head, self.mixed = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(32, 5), mixed

    def forward(self, x):
        columns = self.conv(x).permute(3, 0, 1, 2).flatten(2)
        columns = columns - columns.mean(1, keepdim=True) if self.mixed else columns
        return self.head(columns).log_softmax(-1)


@pytest.mark.parametrize("mixed", [False, True])
def test_steps_first_are_no_leak_where_there_are_as_many_as_samples(mixed):
    def loss_fn(scores, labels):
        lengths = torch.full((8,), 8), torch.full((8,), 2)
        return F.ctc_loss(scores, labels[:, None].expand(8, 2) + 1, *lengths, zero_infinity=True)

    torch.manual_seed(0)
    report = diagnose(Columns(mixed), torch.randn(8, 1, 8, 8), loss_fn=loss_fn)
    assert mixed == bool(find(report, "batch-leak"))
