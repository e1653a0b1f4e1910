"""Models of forum posts that are right but for the wording of a line, and blocks whose copies break
at the same line.
"""

from crashes.posts import post

post(
    "residual_in_every_layer",
    "residual-mismatch",
    "layer2.0",
    repair="'layer3.0': nn.Conv2d(16, 32, kernel_size=1, stride=2)",
    old="Block(8, 16, 2), Block(16, 16)), nn.Sequential(Block(16, 32, 2))",
    new=(
        "Block(8, 16, 2, Down(8, 16)), Block(16, 16)), nn.Sequential(Block(16, 32, 2, Down(16, "
        "32)))"
    ),
    source="""
class Block(nn.Module):
    def __init__(self, i, o, stride=1, down=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(i, o, 3, stride, 1), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = nn.Conv2d(o, o, 3, 1, 1), nn.BatchNorm2d(o)
        self.down = down
    def forward(self, x):
        identity = x
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.down is not None:
            identity = self.down(x)
        out += identity
        return F.relu(out)
def Down(i, o): return nn.Conv2d(i, o, 1, 2)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer2, self.layer3 = nn.Sequential(Block(8, 16, 2), Block(16, 16)), nn.Sequential(Block(16, 32, 2))
        self.fc = nn.Linear(32, 10)
    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.stem(x))).mean((2, 3)))
def inputs(): return torch.randn(2, 3, 16, 16),
""",
)

post(
    "attention_with_its_weights",
    "tuple-for-tensor",
    "block.attn",
    repair="'block.attn'(...)[0]",
    old="x + self.attn(h, h, h)",
    new="x + self.attn(h, h, h)[0]",
    source="""
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.attn = nn.MultiheadAttention(16, 2, batch_first=True)
    def forward(self, x):
        h = self.norm(x)
        return x + self.attn(h, h, h)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.block = Block()
        self.head = nn.Linear(16, 5)
    def forward(self, x):
        return self.head(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(1))
def inputs(): return torch.randn(2, 3, 16, 16),
""",
)

post(
    "max_with_its_indices",
    "tuple-for-tensor",
    "",
    repair="max(...)[0]",
    old="torch.max(x, 2)",
    new="torch.max(x, 2)[0]",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.fc = nn.Linear(8, 2)
    def forward(self, x):
        x = self.conv(x).flatten(2)
        x = torch.max(x, 2)
        return self.fc(x)
def inputs(): return torch.randn(2, 3, 8, 8),
""",
)

post(
    "hook_of_other_arguments",
    "broken-forward-hook",
    "conv",
    repair="write def grab(module, args, output)",
    old="def grab(output):",
    new="def grab(module, args, output):",
    source="""
kept = []
def grab(output):
    kept.append(output.shape)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.conv.register_forward_hook(grab)
    def forward(self, x): return self.conv(x).mean((2, 3))
def inputs(): return torch.randn(2, 3, 8, 8),
""",
)

post(
    "state_for_a_full_batch",
    "hidden-state-shape",
    "lstm",
    repair="call 'lstm' without a state",
    old="self.lstm(x, (self.h0, self.c0))",
    new="self.lstm(x)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 2)
        self.h0, self.c0 = torch.zeros(1, 16, 8), torch.zeros(1, 16, 8)
    def forward(self, x):
        out, _ = self.lstm(x, (self.h0, self.c0))
        return self.fc(out[:, -1])
def inputs(): return torch.randn(5, 6, 3),
""",
)
