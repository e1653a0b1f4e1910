"""Models of forum posts with mistakes in their code, their functions and their blocks."""

from crashes.posts import post

post(
    "no_return",
    "not-a-tensor",
    "block1",
    repair="return x",
    old="        x = F.relu(self.bn(self.conv(x)))",
    new="        x = F.relu(self.bn(self.conv(x)))\n        return x",
    source="""
class ConvBlock(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1)
        self.bn = nn.BatchNorm2d(o)
    def forward(self, x):
        x = F.relu(self.bn(self.conv(x)))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1 = ConvBlock(3, 8)
        self.block2 = ConvBlock(8, 8)
    def forward(self, x): return self.block2(self.block1(x))
def inputs(): return torch.randn(1, 3, 8, 8),
""",
)

post(
    "none_input",
    "not-a-tensor",
    "",
    repair="'mask'",
    old="def inputs(): return torch.randn(2, 4),",
    new="def inputs(): return torch.randn(2, 4), torch.randn(2, 4)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.mask_fc = nn.Linear(4, 2)
    def forward(self, x, mask=None):
        return self.fc(x) + self.mask_fc(mask)
def inputs(): return torch.randn(2, 4),
""",
)

post(
    "gru_tuple",
    "not-a-tensor",
    "gru",
    repair="[0]",
    old="        out = self.gru(f)",
    new="        out, _ = self.gru(f)",
    source="""
class CRNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.cnn = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d((4, 1)))
        self.gru = nn.GRU(16, 12, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(24, 11)
    def forward(self, x):
        f = self.cnn(x)                                  # N, 8, 2, W
        f = f.permute(0, 3, 1, 2).flatten(2)
        out = self.gru(f)
        return F.log_softmax(self.fc(out), 2)
Net = CRNN
def inputs(): return torch.randn(2, 1, 8, 20),
""",
)

post(
    "none_down",
    "missing-attribute",
    "block",
    repair="'down'",
    old="        self.block = Blk(3, 8)",
    new="        self.block = Blk(3, 8, nn.Conv2d(3, 8, 1))",
    source="""
class Blk(nn.Module):
    def __init__(self, i, o, down=None):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, 1, 1)
        self.down = down
    def forward(self, x):
        return self.conv(x) + self.down(x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Blk(3, 8)
    def forward(self, x): return self.block(x)
def inputs(): return torch.randn(2, 3, 8, 8),
""",
)

post(
    "mha_one_arg",
    "call-signature",
    "attn",
    repair="key, value",
    old="        y, _ = self.attn(x)",
    new="        y, _ = self.attn(x, x, x)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
    def forward(self, x):
        y, _ = self.attn(x)
        return y
def inputs(): return torch.randn(2, 5, 16),
""",
)

post(
    "einsum",
    "shape-mismatch",
    "",
    repair="(5, 8, 4)",
    old="        self.w = nn.Parameter(torch.randn(7, 8, 4))",
    new="        self.w = nn.Parameter(torch.randn(5, 8, 4))",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(7, 8, 4))
    def forward(self, x):
        return torch.einsum("bnd,ndk->bnk", x, self.w)
def inputs(): return torch.randn(2, 5, 8),
""",
)

post(
    "split",
    "shape-mismatch",
    "",
    repair="out_features=32",
    old="        self.enc = nn.Linear(20, 30)",
    new="        self.enc = nn.Linear(20, 32)",
    source="""
class VAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Linear(20, 30)
        self.dec = nn.Linear(16, 20)
    def forward(self, x):
        mu, logvar = torch.split(self.enc(x), [16, 16], dim=1)
        z = mu + torch.randn_like(mu) * (0.5 * logvar).exp()
        return self.dec(z)
Net = VAE
def inputs(): return torch.randn(4, 20),
""",
)

post(
    "interp3d",
    "shape-mismatch",
    "",
    repair="mode='linear'",
    old='        return F.interpolate(y, scale_factor=2, mode="bilinear")',
    new='        return F.interpolate(y, scale_factor=2, mode="linear")',
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Conv1d(4, 8, 3, padding=1)
    def forward(self, x):
        y = self.fc(x)
        return F.interpolate(y, scale_factor=2, mode="bilinear")
def inputs(): return torch.randn(2, 4, 10),
""",
)

post(
    "siamese",
    "residual-mismatch",
    "",
    repair="give 'b' the size of 'a'",
    old="def inputs(): return torch.randn(2, 1, 28, 28), torch.randn(2, 1, 32, 32)",
    new="def inputs(): return torch.randn(2, 1, 28, 28), torch.randn(2, 1, 28, 28)",
    source="""
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.enc = nn.Sequential(nn.Conv2d(1, 4, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.fc = nn.LazyLinear(1) if False else nn.Linear(4 * 12 * 12, 1)
    def forward(self, a, b):
        d = torch.abs(self.enc(a) - self.enc(b))
        return torch.sigmoid(self.fc(d))
Net = Siamese
def inputs(): return torch.randn(2, 1, 28, 28), torch.randn(2, 1, 32, 32)
""",
)

post(
    "leaf_inplace",
    "inplace-autograd",
    "",
    repair="torch.no_grad()",
    old="        self.scale += 0.1",
    new="        with torch.no_grad():\n            self.scale += 0.1",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.fc = nn.Linear(4, 2)
    def forward(self, x):
        self.scale += 0.1
        return self.fc(x * self.scale)
def run(model):
    model(torch.randn(3, 4)).sum().backward()
""",
)

post(
    "lf_vitblock",
    "linear-in-features",
    "blocks.0.mlp.2",
    repair="in_features=128",
    old="        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim, dim))",
    new="        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, dim))",
    source="""
class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim, dim))
    def forward(self, x):
        h = self.norm1(x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 32, 8, 8)
        self.cls = nn.Parameter(torch.zeros(1, 1, 32))
        self.pos = nn.Parameter(torch.zeros(1, 17, 32))
        self.blocks = nn.ModuleList([Block(32, 4) for _ in range(2)])
        self.head = nn.Linear(32, 10)
    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.pos
        for b in self.blocks:
            x = b(x)
        return self.head(x[:, 0])

def inputs(): return torch.randn(2, 3, 32, 32),
""",
)

post(
    "list_layers_dev",
    "device-mismatch",
    "",
    repair="nn.ModuleList",
    old="        self.heads = [nn.Linear(8, 2) for _ in range(3)]",
    new="        self.heads = nn.ModuleList([nn.Linear(8, 2) for _ in range(3)])",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
        self.heads = [nn.Linear(8, 2) for _ in range(3)]
    def forward(self, x):
        h = self.body(x)
        return [head(h) for head in self.heads]
def make(): return Net().to("meta")
def inputs(): return torch.randn(2, 4, device="meta"),
""",
)

post(
    "lf_bilstm",
    "linear-in-features",
    "fc",
    repair="in_features=64",
    old="        self.fc = nn.Linear(hidden, 6)",
    new="        self.fc = nn.Linear(2 * hidden, 6)",
    source="""
class Net(nn.Module):
    def __init__(self, hidden=32):
        super().__init__()
        self.lstm = nn.LSTM(20, hidden, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(hidden, 6)

    def forward(self, x):
        out, _ = self.lstm(x)
        return self.fc(out[:, -1, :])

def inputs(): return torch.randn(4, 15, 20),
""",
)
