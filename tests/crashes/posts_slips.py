"""Forum posts with a slip of the pen: a name, a pair of parentheses, a class for its object, a name
too few.
"""

from crashes.posts import post

post(
    "one_tensor_for_two_names",
    "unpacking-count",
    "",
    repair="write out instead of out, _",
    old="out, _ = self.conv(x)",
    new="out = self.conv(x)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(4, 8, 3, padding=1), nn.Linear(8, 2)
    def forward(self, x):
        out, _ = self.conv(x)
        return self.fc(out.mean(2))
def inputs(): return torch.randn(5, 4, 10),
""",
)

post(
    "boxes_of_other_classes",
    "view-element-count",
    "",
    repair="set out_channels=75 in 'head'",
    old="nn.Conv2d(16, 45, 1)",
    new="nn.Conv2d(16, 75, 1)",
    source="""
class Net(nn.Module):
    def __init__(self, classes=20):
        super().__init__()
        self.classes, self.body, self.head = classes, nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 45, 1)
    def forward(self, x):
        y = self.head(F.relu(self.body(x)))
        b, _, h, w = y.shape
        return y.view(b, 3, 5 + self.classes, h, w)
def inputs(): return torch.randn(2, 3, 16, 16),
""",
)

post(
    "flattened_before_its_convolution",
    "flattened-before-conv",
    "conv",
    repair="take view at",
    old="x.view(x.size(0), -1)",
    new="x.view(x.size(0), 1, 12, 12)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 8, 3), nn.Linear(8 * 100, 2)
    def forward(self, x):
        x = x.view(x.size(0), -1)
        return self.fc(F.relu(self.conv(x)).flatten(1))
def inputs(): return torch.randn(2, 1, 12, 12),
""",
)

post(
    "pyramid_of_odd_maps",
    "residual-mismatch",
    "",
    repair="resize the output of torch.nn.functional.interpolate",
    old="scale_factor=2",
    new="size=c3.shape[-2:]",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.c3, self.c4 = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 32, 3, 2, 1)
        self.l3, self.l4 = nn.Conv2d(16, 8, 1), nn.Conv2d(32, 8, 1)
    def forward(self, x):
        c3 = F.relu(self.c3(x))
        p4 = self.l4(F.relu(self.c4(c3)))
        return self.l3(c3) + F.interpolate(p4, scale_factor=2)
def inputs(): return torch.randn(1, 3, 26, 26),
""",
)

post(
    "layer_made_of_sizes_beside_another_fault",
    "cat-mismatch",
    "b",
    repair="set padding=1 in 'b'",
    old="nn.Conv2d(3, 4, 3)",
    new="nn.Conv2d(3, 4, 3, padding=1)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(3, 4, 3), nn.Conv2d(15, 2, 1)
    def forward(self, x):
        sizes = tuple(x.shape[2:])
        up = nn.Upsample(sizes)
        block = nn.Sequential(*[layer for layer in (self.out,)])
        return block(torch.cat([up(self.a(x)), x, self.b(x)], 1))
def inputs(): return torch.randn(2, 3, 8, 8),
""",
)

post(
    "checkpoint_of_another_width",
    "state-mismatch",
    "conv",
    repair="with out_channels=16 in 'conv' and num_features=16 in 'bn' and in_features=16 in 'fc'",
    old="Net(16).state_dict()",
    new="Net(8).state_dict()",
    source="""
class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Linear(width, 2)
    def forward(self, x): return self.fc(self.bn(self.conv(x)).mean((2, 3)))
def run(model):
    model.load_state_dict(Net(16).state_dict())
""",
)
