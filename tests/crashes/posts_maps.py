"""Models of forum posts whose maps have axes too many or too few, other channels, or another size
than what they meet.
"""

from crashes.posts import post

post(
    "channels_as_many_as_pixels",
    "channel-mismatch",
    "blocks.1.depthwise",
    repair="in_channels=64",
    old="Separable(8, 64), Separable(16, 64)",
    new="Separable(8, 16), Separable(16, 64)",
    source="""
class Separable(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.depthwise = nn.Conv2d(i, i, 3, padding=1, groups=i, bias=False)
        self.pointwise, self.bn = nn.Conv2d(i, o, 1, bias=False), nn.BatchNorm2d(o)
    def forward(self, x): return F.relu(self.bn(self.pointwise(self.depthwise(x))))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.blocks = nn.Sequential(Separable(8, 64), Separable(16, 64))  # on a map of 16 x 16
        self.fc = nn.Linear(64, 10)
    def forward(self, x): return self.fc(self.blocks(self.stem(x)).mean([2, 3]))
def inputs(): return torch.randn(2, 3, 32, 32),
""",
)

post(
    "transposed_swapped",
    "channel-mismatch",
    "up1",
    repair="set in_channels=32, out_channels=16 in 'up1'",
    old="nn.ConvTranspose2d(16, 32, 4, 2, 1)",
    new="nn.ConvTranspose2d(32, 16, 4, 2, 1)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.up1 = nn.ConvTranspose2d(16, 32, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(16, 1, 4, 2, 1)
    def forward(self, x): return torch.sigmoid(self.up2(F.relu(self.up1(self.enc(x)))))
def inputs(): return torch.rand(2, 1, 32, 32),
""",
)

post(
    "transposed_without_output_padding",
    "cat-mismatch",
    "up",
    repair="set output_padding=1 in 'up'",
    old="kernel_size=3, stride=2, padding=1)",
    new="kernel_size=3, stride=2, padding=1, output_padding=1)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc1, self.enc2 = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 4, 2, 1)
        self.up = nn.ConvTranspose2d(32, 16, kernel_size=3, stride=2, padding=1)
        self.dec = nn.Conv2d(32, 1, 3, padding=1)
    def forward(self, x):
        a = F.relu(self.enc1(x))
        return self.dec(torch.cat((self.up(F.relu(self.enc2(a))), a), 1))
def inputs(): return torch.randn(2, 1, 32, 32),
""",
)

post(
    "decoder_too_small_for_its_images",
    "output-size",
    "d.0",
    repair="set output_padding=1 in 'd.0' (now (0, 0)), and set output_padding=1 in 'd.2'",
    old="nn.ConvTranspose2d(32, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1)",
    new="nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1, 1)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.e = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU())
        self.d = nn.Sequential(nn.ConvTranspose2d(32, 16, 3, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 3, 2, 1), nn.Sigmoid())
    def forward(self, x): return self.d(self.e(x))
def run(model):
    x = torch.rand(4, 1, 28, 28)
    F.binary_cross_entropy(model(x), x).backward()
""",
)

post(
    "gate_of_two_resolutions",
    "residual-mismatch",
    "att",
    repair="'att.wg' (Conv2d): F.interpolate",
    old="F.relu(self.wg(g) + self.wx(x))",
    new="F.relu(F.interpolate(self.wg(g), size=x.shape[2:]) + self.wx(x))",
    source="""
class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.wg, self.wx, self.psi = nn.Conv2d(32, 8, 1), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 1, 1)
    def forward(self, g, x):
        a = F.relu(self.wg(g) + self.wx(x))
        return x * torch.sigmoid(self.psi(a))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.e1, self.e2, self.att = nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 32, 3, 2, 1), Gate()
        self.up, self.out = nn.ConvTranspose2d(32, 16, 2, 2), nn.Conv2d(32, 1, 1)
    def forward(self, x):
        s = F.relu(self.e1(x))
        g = F.relu(self.e2(s))
        return self.out(torch.cat([self.up(g), self.att(g, s)], 1))
def inputs(): return torch.randn(1, 1, 16, 16),
""",
)

post(
    "decoder_without_unflatten",
    "flattened-before-conv",
    "dec.2",
    repair="put nn.Unflatten(1, (8, 14, 14)) before 'dec.2'",
    old="nn.ReLU(), nn.ConvTranspose2d",
    new="nn.ReLU(), nn.Unflatten(1, (8, 14, 14)), nn.ConvTranspose2d",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.Flatten(), nn.Linear(8 * 14 * 14, 16))
        self.dec = nn.Sequential(nn.Linear(16, 8 * 14 * 14), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Sigmoid())
    def forward(self, x): return self.dec(self.enc(x))
def inputs(): return torch.rand(2, 1, 28, 28),
""",
)

post(
    "pooling_with_indices_unpacked_nowhere",
    "tuple-for-tensor",
    "pool",
    repair="x, indices = 'pool'(...), and call 'unpool'(x, indices)",
    old=(
        "x = self.pool(F.relu(self.conv(x)))\n        return "
        "self.out(self.unpool(F.relu(self.mid(x))))"
    ),
    new=(
        "x, i = self.pool(F.relu(self.conv(x)))\n        return "
        "self.out(self.unpool(F.relu(self.mid(x)), i))"
    ),
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.mid, self.out = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 2, 1)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)
    def forward(self, x):
        x = self.pool(F.relu(self.conv(x)))
        return self.out(self.unpool(F.relu(self.mid(x))))
def inputs(): return torch.randn(2, 3, 16, 16),
""",
)

post(
    "positions_of_another_image",
    "parameter-size",
    "",
    repair="give the model an input of 32 x 32",
    old="torch.randn(2, 3, 48, 48)",
    new="torch.randn(2, 3, 32, 32)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, 16, 8, 8)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 17, 16))
        self.head = nn.Linear(16, 4)
    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        return self.head(x[:, 0])
def inputs(): return torch.randn(2, 3, 48, 48),
""",
)
