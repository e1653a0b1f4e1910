"""What the wiring of a network and the labels of its loop may and may not look like, beside the
examples of the rules.
"""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(8) % 4


def find(name, model, **given):
    """The findings of one rule."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = {"inputs": IMAGES, "targets": LABELS, "optimizer": optimizer, "trials": 0} | given
    if "train_step" not in given:
        given.setdefault("loss_fn", nn.CrossEntropyLoss())
    report = cnnprobe.diagnose(model, steps=2, **given)
    return [finding for finding in report.findings if finding.rule == name]


def head(channels):
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4)


def classifier():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4))


class Shortcut(nn.Module):
    def __init__(self, first):
        super().__init__()
        self.first = nn.Conv2d(1, 8, first, stride=2, padding=first // 2)
        self.second, self.down = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(1, 8, 1, stride=2)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        made = self.second(self.first(x).relu()) + self.down(x)
        return self.fc(made.relu().mean((2, 3)))


def test_shortcut_with_a_stride_beside_a_layer_that_reads_all_is_no_finding():
    assert not find("skipped-positions", Shortcut(3))


def test_block_of_which_both_paths_begin_with_a_stride_is_info():
    assert {"info"} == {f.severity for f in find("skipped-positions", Shortcut(1))}


def test_share_of_the_positions_that_a_stride_skips_is_that_of_the_windows():
    model = nn.Sequential(nn.Conv2d(1, 8, (1, 3), stride=(4, 3)), nn.ReLU(), *head(8))
    (found,) = find("skipped-positions", model, inputs=torch.randn(8, 1, 16, 18))
    assert "steps over 75% of its input of 16 x 18" in found.message  # 1 of 4 rows, all columns


class Corner(nn.Module):
    def __init__(self, size, place):
        super().__init__()
        self.conv, self.fc, self.place = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 4), place
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x).relu())[:, :, self.place, self.place])


def test_corner_of_a_map_is_found_and_its_only_position_and_its_middle_are_not():
    (found,) = find("skipped-positions", Corner(4, 0))
    assert found.message.startswith("one of 16 positions of the map of 'pool'")
    assert not find("skipped-positions", Corner(1, 0))
    assert not find("skipped-positions", Corner(5, 2))


def test_large_kernel_in_two_depthwise_parts_is_no_finding():
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(),
        nn.Conv2d(8, 8, (1, 5), padding=(0, 2), groups=8),
        nn.Conv2d(8, 8, (5, 1), padding=(2, 0), groups=8), *head(8),
    )  # fmt: skip
    assert not find("separate-groups", model)


def test_halves_of_an_image_side_by_side_are_no_branches():
    class Halves(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
            self.fc = nn.Linear(8, 4)

        def forward(self, x):
            left, right = self.left(x[..., :4]), self.right(x[..., 4:])
            return self.fc(torch.cat([left, right], dim=3).relu().mean((2, 3)))

    assert not find("stacked-branches", Halves())


def test_mask_of_one_channel_beside_the_path_is_no_narrow_passage():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mask = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 1, 1)
            self.after, self.fc = nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)

        def forward(self, x):
            x = self.conv(x).relu()
            return self.fc(self.after(x * self.mask(x).sigmoid()).relu().mean((2, 3)))

    assert not find("narrow-passage", Gated())


def test_sum_of_a_layer_with_itself_is_found_and_that_of_two_chunks_is_not():
    class Sum(nn.Module):
        def __init__(self, chunks):
            super().__init__()
            self.conv, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(4 if chunks else 8, 4)
            self.chunks = chunks

        def forward(self, x):
            x = self.conv(x)
            if self.chunks:
                left, right = x.chunk(2, dim=1)
                return self.fc((left + right).mean((2, 3)))
            return self.fc((x + x).mean((2, 3)))

    (found,) = find("doubled-channels", Sum(chunks=False))
    assert found.kind == "sum"
    assert not find("doubled-channels", Sum(chunks=True))


@pytest.mark.parametrize(
    ("pool", "severity"), [(nn.AdaptiveAvgPool2d(1), "warning"), (nn.AvgPool2d(8), "info")]
)
def test_kernel_behind_a_pooling_of_any_input_to_one_place_is_a_warning(pool, severity):
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), pool, nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), *head(8)
    )
    assert [severity] == [f.severity for f in find("kernel-on-padding", model)]


def step_with(model, optimizer, before_step):
    def train_step(images, labels):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        before_step()
        optimizer.step()

    return train_step


def test_clip_of_parameters_without_a_gradient_is_found():
    model = classifier()
    other = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def clip(clipped):
        return lambda: nn.utils.clip_grad_norm_(clipped.parameters(), 1.0)

    sick = step_with(model, optimizer, clip(other))
    (found,) = find("clip-ineffective", model, train_step=sick, optimizer=optimizer)
    assert found.kind == "elsewhere"
    sound = step_with(model, optimizer, clip(model))
    assert not find("clip-ineffective", model, train_step=sound, optimizer=optimizer)


def test_clip_that_leaves_next_to_nothing_is_found():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    clip = lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-4)
    sick = step_with(model, optimizer, clip)
    (found,) = find("clip-ineffective", model, train_step=sick, optimizer=optimizer)
    assert found.kind == "tiny"


def shuffling(model, optimizer, mixes):
    def train_step(images, labels):
        order = torch.randperm(len(images))
        given = 0.7 * images + 0.3 * images[order] if mixes else images[order]
        optimizer.zero_grad()
        F.cross_entropy(model(given), labels).backward()
        optimizer.step()

    return train_step


def test_inputs_that_are_shuffled_alone_are_found_and_mixed_ones_are_not():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    (found,) = find(
        "shuffled-apart", model, train_step=shuffling(model, optimizer, mixes=False),
        optimizer=optimizer,
    )  # fmt: skip
    assert found.severity == "error"
    assert not find(
        "shuffled-apart", model, train_step=shuffling(model, optimizer, mixes=True),
        optimizer=optimizer,
    )  # fmt: skip


def test_teacher_that_follows_the_model_may_be_in_train_mode():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, 4))
    teacher = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images, labels):
        with torch.no_grad():
            soft = teacher(images).softmax(1)
        output = model(images)
        optimizer.zero_grad()
        (F.cross_entropy(output, labels) + F.cross_entropy(output, soft)).backward()
        optimizer.step()
        with torch.no_grad():
            for follower, leader in zip(teacher.parameters(), model.parameters(), strict=True):
                follower.lerp_(leader, 0.01)

    assert not find("teacher-in-train-mode", model, train_step=train_step, optimizer=optimizer)


def test_argument_of_the_step_that_its_text_never_reads_is_found():
    model = classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images, labels):
        output = model(images)
        optimizer.zero_grad()
        F.cross_entropy(output, output.argmax(1)).backward()
        optimizer.step()

    found = find("unread-name", model, train_step=train_step, optimizer=optimizer)
    assert ["labels"] == [f.subject for f in found]


def noising(model, optimizer, draws_again):
    def train_step(images):
        noise = torch.randn_like(images)
        noisy = images + (torch.randn_like(images) if draws_again else noise)
        optimizer.zero_grad()
        F.mse_loss(model(noisy), noise).backward()
        optimizer.step()

    return train_step


def test_noise_that_is_drawn_twice_is_no_target_for_the_model():
    model = nn.Conv2d(1, 1, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    given = {"targets": None, "optimizer": optimizer}
    sick = noising(model, optimizer, draws_again=True)
    assert len(find("unpredictable-target", model, train_step=sick, **given)) == 1
    sound = noising(model, optimizer, draws_again=False)
    assert not find("unpredictable-target", model, train_step=sound, **given)


def test_label_that_is_blurred_with_noise_is_a_target():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

    def train_step(images):
        label = 1 - 0.1 * torch.rand(len(images), 1)
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(images), label).backward()
        optimizer.step()

    given = {"targets": None, "optimizer": optimizer, "train_step": train_step}
    assert not find("unpredictable-target", model, **given)


def test_negative_of_a_trained_loss_that_is_logged_is_no_unused_loss():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    log = {}

    def train_step(images):
        loss = model(images).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log["estimate"] = -loss

    given = {"targets": None, "optimizer": optimizer, "train_step": train_step}
    assert not find("unused-loss", model, **given)


class Growing(nn.Module):
    """Blocks of which a number says how many are used."""

    def __init__(self, depth, made=3):
        super().__init__()
        self.depth = depth
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(made))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for i in range(self.depth - 1):
            x = self.blocks[i](x).relu()
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(("depth", "severity"), [(2, "info"), (3, "warning")])
def test_block_of_another_stage_is_info_and_one_that_a_loop_forgets_is_found(depth, severity):
    found = find("unused-module", Growing(depth))  # 3 is their number: a stage after it is none
    assert {severity} == {finding.severity for finding in found}
    assert (severity == "info") == ("where model.depth is 2" in found[0].message)


class TwoTasks(nn.Module):
    """A head for each task, by an argument; and a layer that no line calls."""

    def __init__(self):
        super().__init__()
        self.body, self.forgotten = nn.Linear(64, 16), nn.Linear(16, 16)
        self.turned, self.shown = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x, task="shown"):
        h = self.body(x.flatten(1)).relu()
        if task == "turned":
            return self.turned(h)
        return self.shown(h)


def test_head_of_another_task_is_info_and_a_layer_that_no_line_calls_is_found():
    found = {f.module: f for f in find("unused-module", TwoTasks())}
    assert {"forgotten": "warning", "turned": "info"} == {
        name: finding.severity for name, finding in found.items()
    }
    assert "the argument task of model decides" in found["turned"].message


class Block(nn.Module):
    """Makes an activation, and calls it or not."""

    def __init__(self, channels, calls):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.relu, self.calls = nn.ReLU(), calls

    def forward(self, x):
        x = self.norm(self.conv(x))
        return self.relu(x) if self.calls == "module" else F.relu(x) if self.calls else x


class Blocks(nn.Module):
    def __init__(self, calls, after):
        super().__init__()
        self.one, self.two, self.after = Block(1, calls), Block(8, calls), after
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        return self.fc(self.after(self.two(self.after(self.one(x)))).mean((2, 3)))


def pool(x):
    return F.avg_pool2d(x, 2)


@pytest.mark.parametrize(
    ("calls", "after", "severities"),
    [
        ("", pool, ["warning"]),
        ("", lambda x: F.relu(pool(x)), ["info"]),
        ("function", pool, ["info"]),
        ("module", pool, []),
    ],
    ids=["forgotten", "behind the block", "as a function", "called"],
)
def test_activation_that_is_never_called_is_a_fault_where_none_stands_in_its_place(
    calls, after, severities
):
    torch.manual_seed(0)
    found = find("unused-module", Blocks(calls, after))
    assert severities == [finding.severity for finding in found]
    if severities == ["warning"]:
        assert found[0].message.startswith("2 activations were called 0 times (the first is ")
        assert "call " in found[0].fix and "one.relu in the forward" in found[0].fix
