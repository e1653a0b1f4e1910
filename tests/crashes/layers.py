"""Layers that do not fit what they are given."""

import torch
import torch.nn.functional as F
from torch import nn

from crashes.table import crashes


def images(n=2, c=3, size=32):
    return torch.randn(n, c, size, size)


class ConvLayer(nn.Module):
    def __init__(self, channel_in, channel_out):
        super().__init__()
        self.conv = nn.Conv2d(channel_in, channel_out, kernel_size=3, padding=1)
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.pool(self.relu(self.conv(x)))


class AsWritten(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(ConvLayer(3, 32), ConvLayer(32, 64), ConvLayer(64, 128))
        self.classifier = nn.Sequential(
            nn.Linear(128 * 4 * 4, 512), nn.ReLU(), nn.Dropout(0.5), nn.Linear(512, 10)
        )

    def forward(self, x):
        return self.classifier(self.features(x))


class Repaired(AsWritten):
    def forward(self, x):
        return self.classifier(torch.flatten(self.features(x), 1))


@crashes("missing-flatten", "classifier", repair="nn.Flatten()")
def refactor_lost_the_flatten(fixed):
    return (Repaired() if fixed else AsWritten()), (images(),)


class NoFlatten(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fc = nn.Linear(8 * 16 * 16, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        if self.fixed:
            x = torch.flatten(x, 1)
        return self.fc(x)


@crashes("missing-flatten", "2", "1", repair="nn.Flatten()")
def global_pool_without_flatten(fixed):
    flatten = [nn.Flatten()] if fixed else []
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), *flatten, nn.Linear(8, 4)), (
        images(),
    )


@crashes("missing-flatten", "3", repair="nn.Flatten()")
def series_without_flatten(fixed):
    flatten = [nn.Flatten()] if fixed else []
    return nn.Sequential(
        nn.Conv1d(2, 4, 5), nn.ReLU(), nn.MaxPool1d(2), *flatten, nn.Linear(4 * 14, 3)
    ), (torch.randn(3, 2, 32),)


class WeightOnly(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.kernel = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.weight = nn.Parameter(torch.randn(4, 6 * 30 * 30))

    def forward(self, x):
        x = F.conv2d(x, self.kernel)
        if self.fixed:
            x = x.flatten(1)
        return F.linear(x, self.weight)


@crashes("missing-flatten", "", repair="torch.flatten(x, 1)")
def net_of_parameters_without_flatten(fixed):
    return WeightOnly(fixed), (images(),)


class Digits(nn.Module):
    def __init__(self, features, *, kernel=3):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 16, kernel, padding=1)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(features, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = self.pool(F.relu(self.conv3(x)))
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


@crashes("linear-in-features", "fc1", repair="in_features=256")
def in_features_for_another_channel_count(fixed):
    return Digits(256 if fixed else 32 * 4 * 4), (images(),)


@crashes("window-before-linear", "conv2", repair="kernel_size=3")
def one_convolution_with_a_wrong_kernel(fixed):
    return Digits(256, kernel=3 if fixed else 7), (images(),)


class Lenet(nn.Module):
    def __init__(self, features):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(features, 84)
        self.fc2 = nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(torch.flatten(x, 1))))


@crashes("linear-in-features", "fc1", repair="in_features=256")
def lenet_for_32_pixels_given_28(fixed):
    return Lenet(256 if fixed else 400), (images(c=1, size=28),)


@crashes("linear-in-features", "2", repair="in_features=20")
def second_linear_does_not_fit_the_first(fixed):
    return nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20 if fixed else 24, 3)), (
        torch.randn(5, 12),
    )


class Reader(nn.Module):
    def __init__(self, wide):
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, batch_first=True, bidirectional=True)
        self.head = nn.Linear(wide, 2)

    def forward(self, tokens):
        out, _ = self.lstm(self.embed(tokens))
        return self.head(out[:, -1])


@crashes("linear-in-features", "head", repair="in_features=12")
def bidirectional_lstm_doubles_the_features(fixed):
    return Reader(12 if fixed else 6), (torch.randint(0, 50, (4, 7)),)


@crashes("channel-mismatch", "0", repair="expand(-1, 3, -1, -1)")
def grey_image_into_a_colour_net(fixed):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (images(c=3 if fixed else 1),)


@crashes("channel-mismatch", "0", repair="in_channels=3")
def colour_image_into_a_grey_net(fixed):
    return nn.Sequential(nn.Conv2d(3 if fixed else 1, 8, 3), nn.ReLU()), (images(),)


@crashes("channel-mismatch", "0", repair="x[:, :3]")
def image_with_an_alpha_channel(fixed):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (images(c=3 if fixed else 4),)


class Fused(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 4, 1)
        self.fuse = nn.Conv2d(width, 8, 1)

    def forward(self, x):
        return self.fuse(torch.cat([self.left(x), self.right(x)], dim=1))


@crashes("channel-mismatch", "fuse", repair="in_channels=12")
def width_after_a_concatenation(fixed):
    return Fused(12 if fixed else 8), (images(),)


@crashes("channel-mismatch", "2", repair="in_channels=6", on_meta=False)
def transposed_convolution_with_wrong_channels(fixed):
    return nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6 if fixed else 5, 3, 2)
    ), (images(),)


@crashes("channel-mismatch", "1", repair="in_channels=4")
def volume_with_wrong_channels(fixed):
    return nn.Sequential(nn.Conv3d(1, 4, 3), nn.Conv3d(4 if fixed else 8, 4, 3)), (
        torch.randn(1, 1, 8, 8, 8),
    )


@crashes("nhwc-input", "0", repair="permute(0, 2, 1)")
def channels_last_series(fixed):
    x = torch.randn(2, 50, 6)
    return nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU()), (x.permute(0, 2, 1) if fixed else x,)


@crashes("bn-features-mismatch", "1", repair="num_channels=12")
def group_norm_of_another_width(fixed):
    return nn.Sequential(nn.Conv2d(3, 12, 3), nn.GroupNorm(4, 12 if fixed else 16)), (images(),)


def _pooled(times):
    return [
        layer for _ in range(times) for layer in (nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2))
    ]


@crashes("spatial-collapse", "9", repair="at least 32 x 32")
def input_too_small_for_its_poolings(fixed):
    return nn.Sequential(*_pooled(5)), (images(size=32 if fixed else 16),)


@crashes("spatial-collapse", "1", repair="at least 9 x 9")
def kernel_larger_than_the_map(fixed):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 7)), (images(size=9 if fixed else 6),)


class FunctionalPools(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        for _ in range(3):
            x = F.avg_pool2d(self.conv(x)[:, :3], 2)
        return x


@crashes("spatial-collapse", "", repair="at least 8 x 8")
def functional_poolings_of_a_small_input(fixed):
    return FunctionalPools(), (images(size=8 if fixed else 4),)


@crashes("hidden-state-shape", "rnn", repair="batch_first=True")
def hidden_state_for_the_other_batch_axis(fixed):
    class Carried(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 4, batch_first=fixed)

        def forward(self, x):
            return self.rnn(x, torch.zeros(1, x.shape[0], 4, device=x.device))[0]

    return Carried(), (torch.randn(3, 5, 6),)


@crashes("sequence-features", "attention", repair="embed_dim=12")
def attention_of_another_width(fixed):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(12 if fixed else 8, 4, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x)[0]

    return Attending(), (torch.randn(2, 5, 12),)


@crashes("missing-pooling", "", repair="nn.AdaptiveAvgPool2d(1)")
def global_pooling_is_missing(fixed):
    pool = [nn.AdaptiveAvgPool2d(1)] if fixed else []
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), *pool, nn.Flatten(), nn.Linear(64, 10)), (
        images(size=8),
    )


class Tokens(nn.Module):
    def __init__(self, fixed):
        super().__init__()
        self.fixed = fixed
        self.patches = nn.Conv2d(3, 32, 8, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 1
        )
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2)
        if self.fixed:
            x = x.transpose(1, 2)
        return self.head(self.encoder(x)[:, 0])


@crashes("sequence-features", "encoder", repair="transpose(1, 2)")
def tokens_without_transpose(fixed):
    return Tokens(fixed), (images(),)


class Lenient(nn.Module):
    def __init__(self, kernel):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, kernel)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(16 * 5 * 5, 10)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc1(x.view(-1, 16 * 5 * 5))


@crashes("window-before-linear", "conv2", repair="kernel_size=5")
def wrong_kernel_before_a_view(fixed):
    return Lenient(5 if fixed else 3), (images(n=4),)


@crashes("missing-batch", "", repair="unsqueeze(0)")
def one_image_where_the_code_unpacks_four_sizes(fixed):
    class Unpacking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            n, c, h, w = x.shape
            return self.conv(x.reshape(n, c, h, w))

    x = torch.randn(3, 8, 8)
    return Unpacking(), (x[None] if fixed else x,)
