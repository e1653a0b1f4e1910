"""Posts of functions, hooks, optimizers and losses that were used otherwise than they are meant."""

from crashes.posts import post

post(
    "pooling_without_its_kernel_before_a_fault_of_its_own",
    "window-arguments",
    "",
    repair="write F.avg_pool2d(F.relu(self.conv(x)), 2)",
    old="        x = F.avg_pool2d(F.relu(self.conv(x)))\n        return self.fc(x.flatten(1))",
    new="        x = F.avg_pool2d(F.relu(self.conv(x)), 2)\n        return self.fc(x.mean((2, 3)))",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 2)
    def forward(self, x):
        x = F.avg_pool2d(F.relu(self.conv(x)))
        return self.fc(x.flatten(1))
def inputs(): return torch.randn(2, 1, 8, 8),
""",
)

SCALED = """
class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, scale):
        ctx.save_for_backward(x, scale)
        return x * scale[:, None, None]
    @staticmethod
    def backward(ctx, gradient):
        x, scale = ctx.saved_tensors
        wide = scale[:, None, None]
        return gradient * scale, (gradient * x).sum((0, 2, 3))
class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
    def forward(self, x): return Scale.apply(x, self.scale)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.scaled, self.fc = nn.Conv2d(1, 4, 3), Scaled(), nn.Linear(4, 2)
    def forward(self, x): return self.fc(self.scaled(self.conv(x)).mean((2, 3)))
def run(model):
    F.cross_entropy(model(torch.randn(2, 1, 8, 8)), torch.tensor([0, 1])).backward()
"""

post(
    "own_backward_that_raises",
    "broken-backward",
    "scaled",
    repair="of the shapes (2, 4, 6, 6), (4,)",
    old="gradient * scale,",
    new="gradient * wide,",
    source=SCALED,
)

post(
    "own_backward_of_another_shape",
    "broken-backward",
    "scaled",
    repair="return a gradient of the shape (4,) for 'scale'",
    old="gradient * wide, (gradient * x).sum((0, 1))",
    new="gradient * wide, (gradient * x).sum((0, 2, 3))",
    source=SCALED.replace("gradient * scale,", "gradient * wide,").replace(
        "sum((0, 2, 3))", "sum((0, 1))"
    ),
)

post(
    "labels_of_pairs_with_an_axis_too_many",
    "target-shape",
    None,
    repair="targets.squeeze(1)",
    old="torch.ones(3, 1)",
    new="torch.ones(3)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 8)
    def forward(self, x): return self.fc(self.conv(x).mean((2, 3)))
def run(model):
    a, b = model(torch.randn(3, 1, 8, 8)), model(torch.randn(3, 1, 8, 8))
    nn.CosineEmbeddingLoss()(a, b, torch.ones(3, 1)).backward()
""",
)

post(
    "triplet_of_two_sizes",
    "compared-outputs-differ",
    "b",
    repair="set out_features=8 in 'b'",
    old="nn.Linear(4, 16)",
    new="nn.Linear(4, 8)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(4, 16)
    def forward(self, x, y, z): return self.a(x), self.b(y), self.a(z)
def run(model):
    nn.TripletMarginLoss()(*model(torch.randn(3, 4), torch.randn(3, 4), torch.randn(3, 4))).backward()
""",
)

post(
    "discriminator_of_larger_images",
    "samples-lost-before-loss",
    "",
    repair="an input of 16 x 16",
    old="torch.randn(4, 1, 28, 28)",
    new="torch.randn(4, 1, 16, 16)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = nn.Conv2d(1, 4, 4, 2, 1), nn.Conv2d(4, 8, 4, 2, 1), nn.Conv2d(8, 1, 4, 1, 0)
    def forward(self, x):
        x = F.leaky_relu(self.conv2(F.leaky_relu(self.conv1(x))))
        return torch.sigmoid(self.conv3(x)).view(-1)
def run(model):
    nn.BCELoss()(model(torch.randn(4, 1, 28, 28)), torch.ones(4)).backward()
""",
)
