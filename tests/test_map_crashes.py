"""Further crashes of maps: each program is named, and its first repair is tried and right."""

import pytest

from cnnprobe.crash.cause import HEAD
from tests.support.examples import explain_text

OTHERS = {
    "filter for each channel": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("k", torch.ones(1, 1, 3, 3))
    def forward(self, x):
        return F.conv2d(x, self.k, padding=1)
model, args = Net(), (torch.randn(2, 3, 8, 8),)
""",
        "channel-mismatch",
        "weight.repeat(3, 1, 1, 1), groups=3",
    ),
    "filter of two dims": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("k", torch.ones(3, 3))
    def forward(self, x):
        return F.conv2d(x, self.k, padding=1)
model, args = Net(), (torch.randn(2, 1, 8, 8),)
""",
        "wrong-layer-dims",
        "weight[None, None]",
    ),
    "indices of an unpooling": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.unpool = nn.MaxUnpool2d(2)
    def forward(self, x):
        x, indices = self.pool(x)
        return self.unpool(self.conv(x), indices)
model, args = Net(), (torch.randn(2, 4, 8, 8),)
""",
        "channel-mismatch",
        "out_channels=4 in 'conv'",
    ),
    "output padding": (
        """
model = nn.Sequential(nn.ConvTranspose2d(4, 1, 3, output_padding=1))
args = (torch.randn(1, 4, 4, 4),)
""",
        "window-arguments",
        "output_padding=0",
    ),
    "reflection": (
        """
model = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReflectionPad2d(3))
args = (torch.randn(2, 3, 8, 8),)
""",
        "spatial-collapse",
        "at least 15 x 15",
    ),
    "kernel over an embedding": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 50)
        self.conv = nn.Conv2d(1, 16, (3, 60))
    def forward(self, x):
        return self.conv(self.embed(x).unsqueeze(1))
model, args = Net(), (torch.randint(0, 100, (4, 20)),)
""",
        "spatial-collapse",
        "kernel_size=(3, 50)",
    ),
    "sentence shorter than its kernel": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(100, 8)
        self.conv = nn.Conv1d(8, 16, 5)
    def forward(self, x):
        return self.conv(self.embed(x).transpose(1, 2)).max(2)[0]
model, args = Net(), (torch.randint(0, 100, (4, 3)),)
""",
        "spatial-collapse",
        "F.pad(x, (0, 2))",
    ),
    "norm over height and width": (
        """
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.LayerNorm([8, 30, 30]))
args = (torch.randn(2, 3, 28, 28),)
""",
        "layer-norm-shape",
        "an input of 32 x 32",
    ),
    "padding index": (
        """
model = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 2))
args = (torch.tensor([[1, 2, -1]]),)
""",
        "index-out-of-table",
        "pass x + 1 to the model, and set num_embeddings=11",
    ),
    "image with alpha and channels last": (
        """
model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 900, 3))
args = (torch.rand(2, 32, 32, 4),)
""",
        "nhwc-input",
        "x.permute(0, 3, 1, 2) to the model, and pass x[:, :3]",
    ),
    "square map with as many channels as pixels": (
        """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8, 3, 3))
    def forward(self, x):
        return F.conv2d(x, self.w)
model, args = Net(), (torch.randn(2, 3, 8, 8),)
""",
        "channel-mismatch",
        "shape (8, 3, 3, 3)",
    ),
    "one grey image": (
        """
model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
args = (torch.randn(16, 16),)
""",
        "wrong-layer-dims",
        "x[None, None]",
    ),
    "variable of a block": (
        """
class Block(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1)
    def forward(self, x):
        return F.relu(self.conv(x))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.b1, self.b2, self.b3 = Block(3, 16), Block(16, 32), Block(32, 64)
    def forward(self, x):
        y = self.b1(x)
        z = self.b2(y)
        return self.b3(y)
model, args = Net(), (torch.randn(2, 3, 8, 8),)
""",
        "wrong-variable",
        "write self.b3(z) instead of self.b3(y)",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_crash_of_a_map_is_named_and_its_first_repair_is_tried_and_right(name, tmp_path):
    program, diagnosis, repair = OTHERS[name]
    explanation = explain_text(HEAD + program, tmp_path)
    assert diagnosis == explanation.diagnosis, explanation.message
    assert repair in explanation.repairs[0].title
    assert explanation.repairs[0].works
