"""Parts of an input that nothing reads: found by the gradient, confirmed by noise, and nothing is
changed.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe.diagnosis.evidence import Unread
from cnnprobe.training.passes import forward, fresh
from cnnprobe.training.unread import find_unread


class Reading(nn.Module):
    """A linear layer of what a function takes of the input."""

    def __init__(self, take, size):
        super().__init__()
        torch.manual_seed(0)
        self.take, self.fc = take, nn.Linear(size, 3)

    def forward(self, *inputs):
        return self.fc(self.take(*inputs))


def find(take, size, *inputs):
    model = Reading(take, size)
    output = forward(model, fresh(inputs), training=False).output
    return find_unread(model, inputs, output, ())


def make(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_features_behind_the_end_of_a_slice_are_unread():
    expected = (Unread(path="[0]", dim=1, places=(4, 5, 6, 7), size=8),)
    assert expected == find(lambda x: x[:, :4], 4, make(5, 8))


def test_channel_of_a_picture_that_nothing_reads_is_unread():
    expected = (Unread(path="[0]", dim=1, places=(3,), size=4),)
    assert expected == find(lambda x: x[:, :3].flatten(1), 12, make(5, 4, 2, 2))


def test_part_of_the_second_input_is_named_by_its_path():
    found = find(lambda a, b: torch.cat([a, b[:, 2:]], 1), 6, make(5, 4), make(5, 4) + 1)
    assert (Unread(path="[1]", dim=1, places=(0, 1), size=4),) == found


@pytest.mark.parametrize("take", [lambda x: x, lambda x: x.round(), lambda x: x * 1e-3])
def test_input_that_is_read_as_a_whole_has_no_unread_part(take):
    """The gradient of a rounding is zero everywhere: noise shows that it is read."""
    assert () == find(take, 8, make(5, 8))


def test_column_that_is_read_without_a_gradient_is_read():
    def take(x):
        return torch.cat([x[:, :7], x[:, 7:].round()], 1)

    assert () == find(take, 8, make(5, 8) * 3)


def test_edge_that_a_stride_leaves_out_is_no_part():
    """A kernel of 4 with stride 4 over 31 features leaves 3 of them."""
    assert () == find(lambda x: x[:, :28], 28, make(5, 31))


@pytest.mark.parametrize("shape", [(5, 12, 12, 3), (5, 8, 3, 4, 4)])
def test_edge_of_rows_or_frames_before_the_channels_is_no_part(shape):
    size = math.prod(shape[1:]) // shape[1] * (shape[1] - 1)
    assert not find(lambda x: x[:, :-1].flatten(1), size, make(*shape))
    half = math.prod(shape[1:]) // 2
    (found,) = find(lambda x: x[:, : shape[1] // 2].flatten(1), half, make(*shape))
    assert shape[1] // 2 == len(found.places)


def test_forward_that_writes_to_its_input_is_asked_on_a_copy():
    def take(x):
        x.mul_(2.0)
        return x[:, :4]

    given = make(5, 8)
    before = given.clone()
    assert 1 == len(find(take, 4, given))
    assert torch.equal(before, given)


def test_parameters_get_no_gradient_and_the_mode_stays():
    model = Reading(lambda x: x[:, :4], 4).train()
    inputs = (make(5, 8),)
    find_unread(model, inputs, forward(model, inputs, training=False).output, ())
    assert [None, None] == [p.grad for p in model.parameters()]
    assert model.training


def find_in_loss(loss_fn, targets, *, maps=False):
    """What is found of an output of 4 channels that a loss reads."""
    torch.manual_seed(0)
    model = nn.Conv2d(2, 4, 3, padding=1) if maps else nn.Sequential(nn.Flatten(), nn.Linear(72, 4))
    report = cnnprobe.diagnose(
        model, make(8, 2, 6, 6), targets, loss_fn=loss_fn, steps=2, trials=0,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
    )  # fmt: skip
    assert report.error is None
    return [f for f in report.findings if f.rule == "unread-part"]


def reach_slice(first, last):
    return lambda output, boxes: F.mse_loss(output[:, first:last], boxes[:, first:last])


BOXES, FIELDS = make(8, 4), make(8, 5, 6, 6)


def test_channels_of_the_output_that_the_loss_reads_nowhere_are_found():
    (found,) = find_in_loss(reach_slice(1, 3), BOXES)
    assert "the loss reads 2 of the 4 channels of the output: 0, 3 change it by 0" in found.message
    (found,) = find_in_loss(reach_slice(2, 4), FIELDS, maps=True)
    assert "0:2 is in none of them" in found.fix


def ignore_background(output, masks):
    return F.binary_cross_entropy_with_logits(output[:, 1:], masks[:, 1:])


def take_some(output, _boxes):
    """The rest is an output for something else: the targets say nothing of it."""
    return output[:, :2].square().mean()


def clamp_some(output, boxes):
    """A gradient of 0 by a bound, which other values pass."""
    far = torch.cat([output[:, :2], output[:, 2:].clamp(min=0.9)], 1)
    return F.mse_loss(far, boxes)


@pytest.mark.parametrize(
    ("loss_fn", "targets", "maps"),
    [
        (F.mse_loss, BOXES, False),
        (take_some, make(8), False),
        (clamp_some, BOXES, False),
        (ignore_background, F.one_hot(make(8, 6, 6).argsort(2) % 4, 4).movedim(3, 1).float(), True),
        (lambda q, chosen: q.gather(1, chosen).square().mean(), torch.ones(8, 1).long(), False),
    ],
)
def test_output_that_the_loss_reads_as_it_should_has_no_unread_channel(loss_fn, targets, maps):
    assert not find_in_loss(loss_fn, targets, maps=maps)


def test_channels_of_a_state_that_no_target_asks_for_are_meant():
    model = nn.Conv2d(4, 4, 3, padding=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    report = cnnprobe.diagnose(
        model, make(8, 4, 6, 6), make(8, 1, 6, 6), optimizer=optimizer, steps=2, trials=0,
        loss_fn=lambda state, picture: F.mse_loss(state[:, :1], picture),
    )  # fmt: skip
    assert "unread-part" not in {f.rule for f in report.findings}
