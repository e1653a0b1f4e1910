"""Models of forum posts with mistakes in their code, their functions and their blocks."""

from crashes.posts import post

post(
    "none_input",
    "none-for-tensor",
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
    "lf_vitblock",
    "linear-in-features",
    "blocks.0.mlp.2",
    repair="in_features=128",
    old="        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim, dim))",
    new=(
        "        self.mlp = nn.Sequential(nn.Linear(dim, dim * 4), nn.GELU(), nn.Linear(dim * 4, "
        "dim))"
    ),
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
