"""Rows that read their input as something else: indices as values, a grid, rows of a table, small
whole numbers, labels of a CTC loss.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.test_structure_rules import IMAGES, classifier, find


class Largest(nn.Module):
    def __init__(self, read):
        super().__init__()
        self.conv, self.fc, self.read = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(64, 4), read

    def forward(self, x):
        return self.fc(self.read(self.conv(x).max(dim=1)).flatten(1))


def test_indices_beside_which_the_values_are_read_are_no_finding():
    assert find("indices-as-values", Largest(lambda m: m.indices / 7))
    assert not find("indices-as-values", Largest(lambda m: m.values))
    assert not find("indices-as-values", Largest(lambda m: m.values + m.indices / 7))


class Steps(nn.Module):
    def __init__(self, keep):
        super().__init__()
        self.cell, self.fc, self.keep = nn.GRUCell(8, 8), nn.Linear(8, 4), keep

    def forward(self, x):
        first = torch.zeros(len(x), 8)
        states = [self.cell(x[:, 0, step], first) for step in range(5)]
        return self.fc(torch.stack(states).mean(0) if self.keep else states[-1])


def test_calls_of_a_cell_whose_results_are_all_read_carry_no_state_on_purpose():
    (found,) = find("state-not-carried", Steps(keep=False))
    assert (
        "called 5 times in a loop, but nothing reads what its first 4 calls give" in found.message
    )
    assert not find("state-not-carried", Steps(keep=True))


class Warped(nn.Module):
    def __init__(self, grid):
        super().__init__()
        self.grid, self.conv, self.fc = grid, nn.Conv2d(1, 2, 3, padding=1), nn.Linear(64, 4)

    def forward(self, x):
        flow = 0.1 * self.conv(x).permute(0, 2, 3, 1)
        return self.fc(F.grid_sample(x, self.grid() + flow, align_corners=True).flatten(1))


def mesh(low, high, order, indexing="ij"):
    """A grid from meshgrid, its coordinates in this order."""

    def make():
        side = torch.linspace(low, high, 8)
        both = torch.meshgrid(side, side, indexing=indexing)
        return torch.stack([both[k] for k in order], dim=-1)

    return make


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (mesh(0, 7, (1, 0)), "with a mean of 3."),
        (mesh(-1, 1, (0, 1)), "row to row first"),
        (mesh(-1, 1, (1, 0), "xy"), "row to row first"),
        (mesh(-1, 1, (1, 0)), None),
        (mesh(-1, 1, (0, 1), "xy"), None),
    ],
)
def test_grid_of_pixels_and_grid_with_y_first_are_found_for_either_indexing(grid, said):
    torch.manual_seed(0)
    found = find("sampling-grid", Warped(grid))
    assert [said is not None] == [bool(found)]
    assert said is None or said in found[0].message


def test_grid_from_0_to_1_reads_a_quarter_of_the_map():
    class Still(Warped):
        def forward(self, x):
            grid = self.grid().expand(len(x), 8, 8, 2)
            return self.fc(F.grid_sample(self.conv(x)[:, :1], grid, align_corners=True).flatten(1))

    (found,) = find("sampling-grid", Still(mesh(0, 1, (1, 0))))
    assert "lower right quarter" in found.message
    x = torch.arange(64.0).view(1, 1, 8, 8)
    read = F.grid_sample(x, mesh(0, 1, (1, 0))()[None], align_corners=True)
    assert read.min() >= x[0, 0, 3, 3]


class Read(nn.Module):
    """Tokens of patches with a table of positions, its rows chosen by `rows`."""

    def __init__(self, rows):
        super().__init__()
        self.patch, self.fc, self.rows = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 4), rows
        self.register_buffer("table", torch.randn(40, 1, 8))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc((x + self.rows(self.table, x)).relu().mean(1))


def test_table_of_positions_is_read_by_the_positions_and_not_by_the_samples():
    (found,) = find("one-position-for-all", Read(lambda table, x: table[: x.size(0)]))
    assert (
        "the first 8 rows of model.table are added to the 8 samples of (8, 16, 8)" in found.message
    )
    assert not find("one-position-for-all", Read(lambda t, x: t[: x.size(1)].transpose(0, 1)))


class Places(nn.Module):
    """Tokens of patches with a trained table of this shape."""

    def __init__(self, *shape):
        super().__init__()
        self.patch, self.fc = nn.Conv2d(1, 8, 2, 2), nn.Linear(8, 4)
        self.places = nn.Parameter(torch.randn(*shape))

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc((x + self.places).relu().mean(1))


@pytest.mark.parametrize("shape", [(8, 1, 8), (8, 16, 8)])
def test_table_with_a_row_for_each_sample_of_the_batch_is_found(shape):
    (found,) = find("one-position-for-all", Places(*shape))
    assert "is added to the 8 samples of (8, 16, 8)" in found.message
    assert "make it of shape (1, 16, 8)" in found.fix


@pytest.mark.parametrize("shape", [(1, 16, 8), (1, 1, 8), (16, 8)])
def test_table_of_positions_alone_is_right(shape):
    assert not find("one-position-for-all", Places(*shape))


class Attending(nn.Module):
    def __init__(self, weigh):
        super().__init__()
        self.patch, self.fc, self.weigh = nn.Conv2d(1, 32, 2, 2), nn.Linear(16, 4), weigh
        self.query, self.key = nn.Linear(32, 16), nn.Linear(32, 16)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        scores = self.weigh(self.query(x) @ self.key(x).transpose(1, 2))
        return self.fc((scores.softmax(-1) @ self.key(x)).mean(1))


@pytest.mark.parametrize(
    ("weigh", "factor"),
    [
        (lambda scores: scores * 16**0.5, "4"),
        (lambda scores: (scores * 4).masked_fill(torch.eye(16).bool(), -1e9), "4"),
        (lambda scores: scores / 16**-0.5, "4"),
        (lambda scores: scores * 16, "16"),
        (lambda scores: scores / 16**0.5, ""),
        (lambda scores: scores * 16**-0.5, ""),
        (lambda scores: scores, ""),
        (lambda scores: scores * 10, ""),  # a temperature
    ],
)
def test_scores_of_an_attention_that_are_scaled_up_are_found(weigh, factor):
    found = find("broken-formula", Attending(weigh))
    assert bool(factor) == bool(found)
    assert all(f"are multiplied by {factor}: expected a division by 4" in f.message for f in found)


class Masking(nn.Module):
    def __init__(self, end):
        super().__init__()
        self.conv, self.end = nn.Conv2d(1, 1, 3, padding=1), end

    def forward(self, x):
        return self.end(self.conv(x))


@pytest.mark.parametrize(("end", "is_found"), [(nn.Softmax(dim=1), True), (nn.Sigmoid(), False)])
def test_softmax_over_the_only_channel_of_a_map_is_found(end, is_found):
    masks = (IMAGES > 0).float()
    found = find("loss-activation-mismatch", Masking(end), targets=masks, loss_fn=nn.BCELoss())
    assert is_found == bool(found)
    assert all("a softmax over a single value" in finding.message for finding in found)


class Gate(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.conv, self.squeeze, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8, 8), nn.Linear(8, 4)
        self.dim = dim

    def forward(self, x):
        x = self.conv(x).relu()
        weights = self.squeeze(x.mean((2, 3))).softmax(self.dim)
        return self.fc((x * weights[:, :, None, None]).mean((2, 3)))


def test_softmax_of_a_gate_over_the_batch_is_found_though_it_hardly_shows():
    (found,) = find("softmax-dim", Gate(0))
    assert found.message.endswith("runs over dim 0 of (8, 8), which is the batch")
    assert not find("softmax-dim", Gate(1))


def denoise(add):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images):
        noisy = add(images, 0.3 * torch.randn_like(images))
        optimizer.zero_grad()
        F.mse_loss(model(noisy.clamp(-2, 2)), images).backward()
        optimizer.step()

    given = {"targets": None, "optimizer": optimizer, "train_step": train_step}
    return find("noisy-target", model, inputs=IMAGES.clone(), **given)


def test_noise_added_in_place_to_the_data_is_a_noisy_target():
    (found,) = denoise(lambda x, noise: x.add_(noise).clamp_(-2, 2))
    assert "an in-place sum" in found.fix or "before the noise" in found.fix
    assert not denoise(lambda x, noise: (x + noise).clamp_(-2, 2))


def shift(change, dtype=torch.uint8):
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images, labels):
        optimizer.zero_grad()
        F.cross_entropy(model(change(images).float() / 128), labels).backward()
        optimizer.step()

    images = (IMAGES * 40 + 128).clamp(0, 255).to(dtype)
    given = {"inputs": images, "optimizer": optimizer, "train_step": train_step}
    return find("integer-overflow", model, **given)


@pytest.mark.parametrize(
    ("change", "count"),
    [
        (lambda x: x - 128, 1),
        (lambda x: x * 2, 1),
        (lambda x: x + 200, 1),
        (lambda x: 255 - x, 0),
        (lambda x: x.int() - 128, 0),
        (lambda x: x // 2 + 1, 0),
    ],
)
def test_arithmetic_of_uint8_is_found_where_it_wraps_around_alone(change, count):
    x = (IMAGES * 40 + 128).clamp(0, 255).to(torch.uint8)
    wraps = bool((change(x).long() != change(x.long())).any())
    assert wraps == bool(count)
    assert len(shift(change)) == count


def read_ctc(labels, blank, lengths, dim=2, log=True):
    model = nn.Linear(6, 5)

    def loss_fn(output, labels):
        steps = output.log_softmax(dim) if log else output.softmax(2)
        sizes = torch.full((8,), 9), torch.tensor(lengths)
        return F.ctc_loss(steps.transpose(0, 1), labels, *sizes, blank=blank, zero_infinity=True)

    x = torch.randn(8, 9, 6, generator=torch.Generator().manual_seed(0))
    return find("ctc-misread", model, inputs=x, targets=labels, loss_fn=loss_fn)


def test_ctc_loss_needs_a_blank_beside_the_labels_and_log_probabilities_of_classes():
    labels, whole = torch.arange(24).view(8, 3) % 4, [3] * 8
    assert find_fix(read_ctc(labels, 0, whole)) == "blank=4"
    assert not read_ctc(labels, 4, whole)
    assert not read_ctc(labels + 1, 0, whole)
    padded = torch.cat([labels + 1, torch.zeros(8, 1, dtype=torch.long)], 1)
    assert not read_ctc(padded, 0, whole)  # 0 behind the length is padding
    assert find_fix(read_ctc(labels + 1, 0, whole, dim=1)) == "dim=2"
    (found,) = read_ctc(labels + 1, 0, whole, log=False)
    assert found.message.startswith("CTC takes log-probabilities, which are at most 0")


def find_fix(findings):
    (found,) = findings
    return found.fix


def weigh(pos_weight):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    rare = (torch.arange(8) == 3).float()[:, None]
    loss_fn = nn.BCEWithLogitsLoss(pos_weight=torch.tensor([pos_weight]))
    return find("inverted-class-weights", model, targets=rare, loss_fn=loss_fn, trials=20)


def test_weight_of_rare_positives_is_negatives_over_positives():
    (found,) = weigh(1 / 7)
    assert found.fix == "pos_weight = negatives / positives"
    assert found.tried is not None
    assert found.tried.title == found.fix
    assert not weigh(7.0)
    assert not weigh(1.0)


def score_all(output, target):
    labelled = target >= 0  # noqa: F841  (the fault)
    return ((output - target) ** 2).mean()


def score_labelled(output, target):
    labelled = target >= 0
    return ((output - target) ** 2 * labelled).mean()


def test_mask_that_the_loss_computes_and_never_reads_is_found():
    model, target = nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), torch.rand(8, 4) - 0.5
    (found,) = find("dead-output", model, targets=target, loss_fn=score_all)
    assert "score_all computes labelled = target >= 0" in found.message
    assert not find("dead-output", model, targets=target, loss_fn=score_labelled)


class Attend(nn.Module):
    """Attention over the rows of an image, of which `mask` hides some."""

    def __init__(self, mask):
        super().__init__()
        self.q, self.k, self.fc, self.mask = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4), mask

    def forward(self, x):
        x = x[:, 0]
        scores = self.q(x) @ self.k(x).transpose(1, 2)
        scores = self.mask(scores, x.sum(-1) > 1)
        return self.fc((scores.softmax(-1) @ x).mean(1))


def test_mask_of_queries_alone_is_found_and_that_of_keys_is_not():
    (found,) = find("mask-of-queries", Attend(lambda s, p: s.masked_fill(p[:, :, None], -1e9)))
    assert "has size 1 along dim 2 of (8, 8, 8), which the softmax runs over" in found.message
    assert not find("mask-of-queries", Attend(lambda s, p: s.masked_fill(p[:, None], -1e9)))

    def both(s, p):
        return s.masked_fill(p[:, None], -1e9).masked_fill(p[:, :, None], -1e9)

    assert not find("mask-of-queries", Attend(both))
    scores, whole = torch.randn(3, 3), torch.tensor([[True], [False], [False]])
    masked = scores.masked_fill(whole, -1e9).softmax(-1)
    assert torch.equal(masked[1:], scores.softmax(-1)[1:])  # no key is hidden from the others
    assert torch.allclose(masked[0], torch.full((3,), 1 / 3))


class Quantised(nn.Module):
    """Codes are exchanged for the nearest rows of a table, as `hand_on` makes of both."""

    def __init__(self, hand_on):
        super().__init__()
        self.code, self.fc, self.hand_on = nn.Linear(64, 8), nn.Linear(8, 4), hand_on
        self.table = nn.Embedding(16, 8)

    def forward(self, x):
        z = self.code(x.flatten(1))
        rows = self.table(torch.cdist(z, self.table.weight).argmin(1))
        return self.fc(self.hand_on(z, rows))


@pytest.mark.parametrize(
    ("hand_on", "is_found"),
    [
        (lambda _z, rows: rows, True),
        (lambda z, rows: rows.view(z.shape).contiguous(), True),
        (lambda z, rows: z + (rows - z).detach(), False),
        (lambda z, rows: z + rows, False),  # the codes themselves go on beside them
    ],
)
def test_nearest_rows_of_a_table_that_a_layer_gets_as_they_are_stop_the_gradient(hand_on, is_found):
    found = find("sample-without-gradient", Quantised(hand_on))
    assert is_found == bool(found)
    assert all("'fc' (Linear) gets rows of table.weight" in finding.message for finding in found)


def test_rows_of_another_table_than_that_of_the_distances_are_no_code():
    class Looked(Quantised):
        def forward(self, x):
            z = self.code(x.flatten(1))
            return self.fc(z) + self.fc(self.table(z.argmax(1)))

    assert not find("sample-without-gradient", Looked(None))
