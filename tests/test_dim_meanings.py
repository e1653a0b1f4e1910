"""Dims followed through views, permutes and layers: each fault beside the same model done right."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Pipe(nn.Module):
    """A first layer, and a function of the model behind it."""

    def __init__(self, run, **layers):
        super().__init__()
        self.run = run
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x):
        return self.run(self, x)


def find(rule, run, inputs=IMAGES, targets=None, **layers):
    """The kinds, messages and fixes of one rule for a model of these layers."""
    torch.manual_seed(0)
    model = Pipe(run, **layers)
    targets = torch.zeros_like(model(inputs)).detach() if targets is None else targets
    given = {"loss_fn": nn.MSELoss(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.01)}
    report = cnnprobe.diagnose(model, inputs, targets, steps=1, trials=0, **given)
    assert report.error is None
    return [(f.kind, f.message, f.fix) for f in report.findings if f.rule == rule]


def scrambles(run, **layers):
    return find("reshape-scramble", run, **layers)


def test_view_to_a_larger_map_is_found_and_pixel_shuffle_is_not():
    conv = nn.Conv2d(3, 12, 3, padding=1)
    ((kind, message, fix),) = scrambles(lambda m, x: m.c(x).view(4, 3, 32, 32), c=conv)
    assert kind == "cut-across"
    assert "dim 2 holds the channels of 'c' (Conv2d) and a part of the height" in message
    assert fix == "F.pixel_shuffle(x, 2)"
    assert not scrambles(lambda m, x: F.pixel_shuffle(m.c(x), 2), c=conv)


def shuffle_by_hand(order):
    def run(m, x):
        return m.c(x).view(4, 3, 2, 2, 16, 16).permute(order).reshape(4, 3, 32, 32)

    return run


def test_pixel_shuffle_by_hand_is_found_where_it_puts_whole_maps_beside_each_other():
    conv = nn.Conv2d(3, 12, 3, padding=1)
    right, wrong = (0, 1, 4, 2, 5, 3), (0, 1, 2, 4, 3, 5)
    x = torch.arange(4 * 12 * 256.0).view(4, 12, 16, 16)
    assert torch.equal(
        shuffle_by_hand(right)(Pipe(None, c=nn.Identity()), x), F.pixel_shuffle(x, 2)
    )
    ((kind, message, _),) = scrambles(shuffle_by_hand(wrong), c=conv)
    assert kind == "tiles"
    assert "it puts 2 x 2 whole maps beside each other" in message
    assert not scrambles(shuffle_by_hand(right), c=conv)


def unpatch(m, t):
    return m.d(t).reshape(4, 4, 4, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(4, 3, 16, 16)


def test_patches_put_together_by_a_view_are_found_and_those_by_a_permute_are_not():
    layers = {"e": nn.Conv2d(3, 24, 4, 4), "d": nn.Linear(24, 48)}

    def tokens(m, x):
        return m.e(x).flatten(2).transpose(1, 2).relu()

    ((kind, message, _),) = scrambles(
        lambda m, x: m.d(tokens(m, x)).reshape(4, 3, 16, 16), **layers
    )
    assert kind == "straddling"
    assert "mixes it with the features of 'd' (Linear)" in message
    assert not scrambles(lambda m, x: unpatch(m, tokens(m, x)), **layers)


def test_tokens_viewed_as_a_map_are_found_where_no_axis_sizes_are_exchanged():
    layers = {
        "e": nn.Conv2d(3, 24, 4, 4),
        "d": nn.Linear(24, 8),
        "u": nn.Conv2d(8, 1, 3, padding=1),
    }

    def tokens(m, x):
        return m.d(m.e(x).flatten(2).transpose(1, 2).relu()).relu()

    ((kind, message, _),) = scrambles(lambda m, x: m.u(tokens(m, x).reshape(4, 8, 4, 4)), **layers)
    assert kind in ("cut-across", "slides")
    assert "(4, 8, 4, 4)" in message
    right = scrambles(lambda m, x: m.u(tokens(m, x).transpose(1, 2).reshape(4, 8, 4, 4)), **layers)
    assert not right


def test_two_views_without_a_transpose_between_them_are_no_channel_shuffle():
    layers = {"c": nn.Conv2d(3, 8, 3, padding=1), "d": nn.Conv2d(8, 8, 3, padding=1, groups=2)}

    def shuffle(turn):
        def run(m, x):
            parts = m.c(x).relu().view(4, 2, 4, 16, 16)
            return m.d((parts.transpose(1, 2) if turn else parts).reshape(4, 8, 16, 16))

        return run

    ((kind, message, fix),) = scrambles(shuffle(turn=False), **layers)
    assert kind == "rejoined"
    assert message.endswith("between them no dims change places, so nothing is shuffled")
    assert fix == "transpose the two parts between the two views"
    assert not scrambles(shuffle(turn=True), **layers)


def test_windows_put_back_in_another_order_are_found_where_they_are_added_to_the_map():
    layers = {"c": nn.Conv2d(3, 8, 3, padding=1)}

    def windows(back):
        def run(m, x):
            x = m.c(x)
            parts = x.view(4, 8, 4, 4, 4, 4).permute(0, 2, 4, 1, 3, 5).tanh()
            return x + parts.permute(back).reshape(4, 8, 16, 16)

        return run

    ((kind, message, _),) = scrambles(windows((0, 3, 4, 1, 5, 2)), **layers)
    assert kind == "shuffled-sum"
    assert "dim 2, the height, lies in them in different orders" in message
    assert not scrambles(windows((0, 3, 1, 4, 2, 5)), **layers)


def test_video_flattened_into_the_batch_needs_its_time_beside_the_batch():
    video = torch.randn(4, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    conv = nn.Conv2d(3, 2, 3, padding=1)

    def run(m, x):
        return m.c(x.reshape(20, 3, 16, 16)).view(4, 5, 2, 16, 16)

    ((_, _, fix),) = find("reshape-scramble", run, inputs=video, c=conv)
    assert fix == "permute(0, 2, 1, 3, 4) first, then reshape"

    def turned(m, x):
        return m.c(x.transpose(1, 2).reshape(20, 3, 16, 16)).view(4, 5, 2, 16, 16)

    assert not find("reshape-scramble", turned, inputs=video, c=conv)


def positions(run, inputs=IMAGES, **layers):
    return find("positions-for-channels", run, inputs=inputs, **layers)


def test_layer_norm_of_a_map_is_found_and_that_of_its_channels_last_is_not():
    layers = {"c": nn.Conv2d(3, 16, 3, padding=1), "n": nn.LayerNorm(16)}
    ((_, message, fix),) = positions(lambda m, x: m.n(m.c(x)), **layers)
    assert message.startswith("'n' (LayerNorm) runs over dim 3 of (4, 16, 16, 16), the width alone")
    assert fix.endswith("normalized_shape=16")
    assert not positions(lambda m, x: m.n(m.c(x).permute(0, 2, 3, 1)), **layers)


SEQUENCE = torch.randn(4, 16, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("turned", [False, True])
def test_batch_norm_behind_a_linear_counts_the_features_in_dim_1(turned):
    layers = {"l": nn.Linear(6, 16), "n": nn.BatchNorm1d(16)}

    def run(m, x):
        h = m.l(x)
        return m.n(h.transpose(1, 2)).transpose(1, 2) if turned else m.n(h)

    assert len(positions(run, SEQUENCE, **layers)) == (0 if turned else 1)


def test_batch_norm_of_a_dim_that_was_normalised_before_counts_its_channels():
    layers = {"a": nn.BatchNorm1d(16), "l": nn.Linear(6, 16), "n": nn.BatchNorm1d(16)}
    assert not positions(lambda m, x: m.n(m.l(m.a(x))), SEQUENCE, **layers)


def test_mean_over_channels_and_rows_is_found_where_a_linear_reads_the_columns():
    layers = {"c": nn.Conv2d(3, 16, 3, padding=1), "f": nn.Linear(16, 2)}
    ((_, message, fix),) = positions(lambda m, x: m.f(m.c(x).mean((1, 2))), **layers)
    assert "over dim (1, 2) of (4, 16, 16, 16) leaves no channels" in message
    assert fix == "dim=(2, 3), and in_features=16 in 'f' (Linear)"
    assert not positions(lambda m, x: m.f(m.c(x).mean((2, 3))), **layers)
    gate = {"c": layers["c"], "g": nn.Conv2d(1, 1, 3, padding=1)}
    assert not positions(lambda m, x: m.g(m.c(x).mean(1, keepdim=True)).sigmoid(), **gate)


def test_columns_of_a_map_are_the_steps_of_a_recurrent_layer_and_not_its_channels():
    layers = {"c": nn.Conv2d(3, 16, (16, 1)), "r": nn.GRU(16, 4, batch_first=True)}
    ((_, message, _),) = positions(lambda m, x: m.r(m.c(x).squeeze(2))[0], **layers)
    assert "its steps are the channels of 'c' (Conv2d), and its features are positions" in message
    assert not positions(lambda m, x: m.r(m.c(x).squeeze(2).transpose(1, 2))[0], **layers)


def test_mixing_of_patches_behind_a_transpose_is_no_finding():
    layers = {"c": nn.Conv2d(3, 16, 4, 4), "n": nn.LayerNorm(16), "l": nn.Linear(16, 16)}

    def run(m, x):
        patches = m.n(m.c(x).flatten(2).transpose(1, 2))
        return m.l(patches.transpose(1, 2)).transpose(1, 2)

    assert not positions(run, **layers)
    assert not scrambles(run, **layers)


def test_head_of_a_detector_needs_its_values_last_before_the_view():
    layers = {"c": nn.Conv2d(3, 12, 3, padding=1)}
    ((kind, message, fix),) = scrambles(lambda m, x: m.c(x).view(4, -1, 4), **layers)
    assert kind == "cut-end"
    assert "its last dim holds 4 positions of one map, not 4 of the channels of 'c'" in message
    assert fix == "permute(0, 2, 3, 1) first, then reshape"

    def run(m, x):
        return m.c(x).permute(0, 2, 3, 1).reshape(4, -1, 4)

    assert not scrambles(run, **layers)
    assert not scrambles(lambda m, x: m.c(x).view(4, 12, 16, 4, 4), **layers)  # windows of 4


def test_last_feature_in_place_of_the_last_step_is_found():
    layers = {"r": nn.GRU(6, 8, batch_first=True), "f": nn.Linear(16, 2), "g": nn.Linear(8, 2)}
    ((_, message, fix),) = positions(lambda m, x: m.f(m.r(x)[0][:, :, -1]), SEQUENCE, **layers)
    assert message.startswith("an index at one place of dim 2 of (4, 16, 8) leaves no channels")
    assert fix == "take a place of dim 1, and in_features=8 in 'f' (Linear)"
    assert not positions(lambda m, x: m.g(m.r(x)[0][:, -1]), SEQUENCE, **layers)
    assert not positions(lambda m, x: m.g(m.r(x)[0][..., -1, :]), SEQUENCE, **layers)


def test_frames_and_features_viewed_as_channels_and_time_are_found():
    video = torch.randn(4, 6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    layers = {"c": nn.Conv2d(3, 8, 3), "t": nn.Conv1d(8, 2, 3, padding=1)}

    def read(turned):
        def run(m, x):
            f = m.c(x.flatten(0, 1)).mean((2, 3))
            return m.t(f.view(4, 6, 8).transpose(1, 2) if turned else f.view(4, 8, 6))

        return run

    ((kind, _, _),) = find("reshape-scramble", read(turned=False), inputs=video, **layers)
    assert kind
    assert not find("reshape-scramble", read(turned=True), inputs=video, **layers)


def test_parameter_of_the_channels_is_not_spread_over_the_width():
    class Scaled(Pipe):
        def __init__(self, run):
            super().__init__(run, c=nn.Conv2d(3, 16, 3, padding=1))
            self.scale = nn.Parameter(torch.rand(16))

    def judge(run):
        torch.manual_seed(0)
        model = Scaled(run)
        given = {"loss_fn": nn.MSELoss(), "optimizer": torch.optim.SGD(model.parameters(), lr=0.01)}
        report = cnnprobe.diagnose(model, IMAGES, torch.zeros(4, 16, 16, 16), trials=0, **given)
        return [f for f in report.findings if f.rule == "positions-for-channels"]

    (found,) = judge(lambda m, x: m.c(x) * m.scale)
    assert "spreads the 16 values of model.scale over dim 3 of (4, 16, 16, 16)" in found.message
    assert not judge(lambda m, x: m.c(x) * m.scale.view(1, -1, 1, 1))
    assert not judge(lambda m, x: m.c(x) * m.scale[:, None, None])


@pytest.mark.parametrize("turned", [False, True])
def test_scores_by_steps_beside_labels_by_samples_are_found(turned):
    layers = {"r": nn.GRU(6, 8), "f": nn.Linear(8, 3)}
    model = Pipe(lambda m, x: m.f(m.r(x.transpose(0, 1))[0]), **layers)

    def loss_fn(output, labels):
        rows = output.transpose(0, 1) if turned else output
        return F.cross_entropy(rows.reshape(-1, 3), labels.reshape(-1))

    labels = torch.arange(64).view(4, 16) % 3
    given = {"loss_fn": loss_fn, "optimizer": torch.optim.SGD(model.parameters(), lr=0.01)}
    report = cnnprobe.diagnose(model, SEQUENCE, labels, trials=0, **given)
    found = [f.kind for f in report.findings if f.rule == "reshape-scramble"]
    assert found == ([] if turned else ["order"])
