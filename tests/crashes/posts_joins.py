"""Models of forum posts whose branches, axes and dtypes do not fit."""

from crashes.posts import post

post(
    "res_stride",
    "residual-mismatch",
    "layer.downsample.0",
    repair="stride=2",
    old="        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o))",
    new="        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1, stride), nn.BatchNorm2d(o))",
    source="""
class Block(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, 3, stride, 1)
        self.conv2 = nn.Conv2d(o, o, 3, 1, 1)
        self.downsample = nn.Sequential(nn.Conv2d(i, o, 1), nn.BatchNorm2d(o))
    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(y + self.downsample(x))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = Block(3, 8, 2)
    def forward(self, x): return self.layer(x)
def inputs(): return torch.randn(2, 3, 16, 16),
""",
)

post(
    "res_nopad",
    "residual-mismatch",
    "blocks.0.body.0",
    repair="padding=1",
    old=(
        "        self.body = nn.Sequential(nn.Conv2d(c, c, 3), nn.ReLU(), nn.Conv2d(c, c, 3, "
        "padding=1))"
    ),
    new=(
        "        self.body = nn.Sequential(nn.Conv2d(c, c, 3, padding=1), nn.ReLU(), nn.Conv2d(c, "
        "c, 3, padding=1))"
    ),
    source="""
class Res(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(c, c, 3), nn.ReLU(), nn.Conv2d(c, c, 3, padding=1))
    def forward(self, x):
        return x + self.body(x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 12, 3, padding=1)
        self.blocks = nn.Sequential(*[Res(12) for _ in range(3)])
        self.tail = nn.Conv2d(12, 3, 3, padding=1)
    def forward(self, x):
        return self.tail(self.blocks(self.head(x)))
def inputs(): return torch.randn(1, 3, 24, 24),
""",
)

post(
    "cat_unet_odd",
    "map-size-not-divisible",
    "",
    repair="F.interpolate",
    old="def inputs(): return torch.randn(1, 3, 50, 50),",
    new="def inputs(): return torch.randn(1, 3, 52, 52),",
    source="""
def block(i, o):
    return nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True))
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.mid = block(3, 8), block(8, 16), block(16, 32)
        self.pool = nn.MaxPool2d(2)
        self.up2 = nn.ConvTranspose2d(32, 16, 2, 2)
        self.dec2 = block(32, 16)
        self.up1 = nn.ConvTranspose2d(16, 8, 2, 2)
        self.dec1 = block(16, 8)
        self.out = nn.Conv2d(8, 2, 1)
    def forward(self, x):
        c1 = self.down1(x)
        c2 = self.down2(self.pool(c1))
        m = self.mid(self.pool(c2))
        u2 = self.dec2(torch.cat([self.up2(m), c2], dim=1))
        u1 = self.dec1(torch.cat([self.up1(u2), c1], dim=1))
        return self.out(u1)
def inputs(): return torch.randn(1, 3, 50, 50),
""",
)

post(
    "noncontig",
    "noncontiguous-view",
    "",
    repair="reshape",
    old="        return c.view(c.size(0), -1, self.classes)",
    new="        return c.reshape(c.size(0), -1, self.classes)",
    source="""
class Net(nn.Module):
    # SSD like head
    def __init__(self, classes=4, anchors=3):
        super().__init__()
        self.classes = classes
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.cls = nn.Conv2d(16, classes * anchors, 3, padding=1)
    def forward(self, x):
        f = F.relu(self.conv(x))
        c = self.cls(f).permute(0, 2, 3, 1)
        return c.view(c.size(0), -1, self.classes)
def inputs(): return torch.randn(2, 3, 8, 8),
""",
)

post(
    "onehot_int",
    "dtype-mismatch",
    "fc",
    repair="x.float()",
    old="        onehot = F.one_hot(ids, 7)",
    new="        onehot = F.one_hot(ids, 7).float()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(7, 3)
    def forward(self, ids):
        onehot = F.one_hot(ids, 7)
        return self.fc(onehot)
def inputs(): return torch.tensor([0, 3, 6]),
""",
)

post(
    "dict_input",
    "input-dtype",
    "net.0",
    repair="batch['image'].float()",
    old=(
        'def inputs(): return {"image": torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8), '
        '"id": torch.arange(2)},'
    ),
    new=(
        'def inputs(): return {"image": torch.randint(0, 255, (2, 3, 8, 8), '
        'dtype=torch.uint8).float(), "id": torch.arange(2)},'
    ),
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    def forward(self, batch):
        return self.net(batch["image"])
def inputs(): return {"image": torch.randint(0, 255, (2, 3, 8, 8), dtype=torch.uint8), "id": torch.arange(2)},
""",
)

post(
    "second_input_double",
    "input-dtype",
    "tab.0",
    repair="tabular.float()",
    old="def inputs(): return torch.randn(2, 3, 12, 12), torch.randn(2, 6, dtype=torch.float64)",
    new="def inputs(): return torch.randn(2, 3, 12, 12), torch.randn(2, 6)",
    source="""
class Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.img = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.tab = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.out = nn.Linear(16, 1)
    def forward(self, image, tabular):
        return self.out(torch.cat([self.img(image), self.tab(tabular)], -1))
def make(): return Fusion()
def inputs(): return torch.randn(2, 3, 12, 12), torch.randn(2, 6, dtype=torch.float64)
""",
)
