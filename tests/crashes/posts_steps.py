"""Training steps of forum posts; `run` is the step."""

from crashes.posts import post

post(
    "label_255",
    "label-range",
    None,
    repair="ignore_index=255",
    old="    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask).backward()",
    new="    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask, ignore_index=255).backward()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)
    def forward(self, x): return self.head(x)
def run(model):
    mask = torch.randint(0, 5, (2, 8, 8)); mask[0, 0, 0] = 255
    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask).backward()
""",
)

post(
    "label_segment",
    "label-range",
    None,
    repair="targets // 255",
    old="    mask = (torch.rand(2, 8, 8) > 0.5).long() * 255",
    new="    mask = (torch.rand(2, 8, 8) > 0.5).long() * 1",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Conv2d(3, 2, 1)
    def forward(self, x): return self.out(x)
def run(model):
    mask = (torch.rand(2, 8, 8) > 0.5).long() * 255
    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask).backward()
""",
)

post(
    "l1_swapped_axes",
    "target-shape",
    None,
    repair="targets.permute(0, 2, 1)",
    old="    F.l1_loss(model(x), y).backward()",
    new="    F.l1_loss(model(x).transpose(1, 2), y).backward()",
    source="""
class Net(nn.Module):
    # forecasting: predicts (N, C, L) against (N, L, C)
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 3, 5, padding=2)
    def forward(self, x): return self.conv(x)
def run(model):
    x, y = torch.randn(2, 3, 24), torch.randn(2, 24, 3)
    F.l1_loss(model(x), y).backward()
""",
)

post(
    "disc_view",
    "samples-lost-before-loss",
    "",
    repair="x.flatten(1).mean(1)",
    old="            nn.Conv2d(ndf * 2, 1, 4, 1, 0), nn.Sigmoid())",
    new="            nn.Conv2d(ndf * 2, 1, 8, 1, 0), nn.Sigmoid())",
    source="""
class Discriminator(nn.Module):
    def __init__(self, ndf=8):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, ndf, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 4, 1, 0), nn.Sigmoid())
    def forward(self, img): return self.main(img).view(-1)
def make(): return Discriminator()
def run(model):
    real = torch.randn(4, 3, 32, 32)
    label = torch.ones(4)
    nn.BCELoss()(model(real), label).backward()
""",
)

post(
    "seg_mask4d",
    "target-shape",
    None,
    repair="targets.squeeze(1)",
    old="    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask).backward()",
    new="    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask.squeeze(1)).backward()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 5, 3, padding=1)
    def forward(self, x): return self.head(x)
def run(model):
    mask = torch.randint(0, 5, (2, 1, 8, 8))
    F.cross_entropy(model(torch.randn(2, 3, 8, 8)), mask).backward()
""",
)

post(
    "freeze_inplace",
    "inplace-autograd",
    "",
    repair="div instead of div_",
    old="        h.div_(h.norm(dim=1, keepdim=True))",
    new="        h = h / h.norm(dim=1, keepdim=True)",
    source="""
class Net(nn.Module):
    # normalises in place what softplus saved
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 6)
        self.head = nn.Linear(6, 2)
    def forward(self, x):
        h = torch.tanh(self.stem(x))
        skip = h
        h.div_(h.norm(dim=1, keepdim=True))
        return self.head(h + skip)
def run(model):
    F.cross_entropy(model(torch.randn(3, 6)), torch.tensor([0, 1, 1])).backward()
""",
)

post(
    "own_function_with_a_gradient_too_few",
    "call-signature",
    "",
    repair="return None as well",
    old="        return -ctx.alpha * grad",
    new="        return -ctx.alpha * grad, None",
    source="""
class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)
    @staticmethod
    def backward(ctx, grad):
        return -ctx.alpha * grad
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.domain = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)
    def forward(self, x, alpha=1.0):
        return self.domain(Reversed.apply(F.relu(self.conv(x)).mean((2, 3)), alpha))
def run(model):
    F.cross_entropy(model(torch.randn(4, 3, 8, 8)), torch.tensor([0, 1, 0, 1])).backward()
""",
)

post(
    "generator_kept_for_both_losses",
    "backward-twice",
    "g",
    repair="detach() what 'g' gives for the earlier backward",
    old="bce(model.d(fake), torch.zeros(4, 1)).backward()",
    new="bce(model.d(fake.detach()), torch.zeros(4, 1)).backward()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Sequential(nn.ConvTranspose2d(8, 4, 4), nn.ReLU(), nn.ConvTranspose2d(4, 1, 4, 2, 1), nn.Tanh())
        self.d = nn.Sequential(nn.Conv2d(1, 8, 3, 2), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(72, 1))
    def forward(self, z): return self.d(self.g(z))
def run(model):
    bce, fake = nn.BCEWithLogitsLoss(), model.g(torch.randn(4, 8, 1, 1))
    bce(model.d(fake), torch.zeros(4, 1)).backward()
    bce(model.d(fake), torch.ones(4, 1)).backward()
""",
)

post(
    "weights_stepped_between_two_losses",
    "inplace-autograd",
    "body.2",
    repair="'body.2.weight'",
    old="    opt.step()\n    F.cross_entropy(b, y).backward()",
    new="    F.cross_entropy(b, y).backward()\n    opt.step()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        self.a, self.b = nn.Linear(8, 2), nn.Linear(8, 2)
    def forward(self, x):
        f = self.body(x)
        return self.a(f), self.b(f)
def run(model):
    opt, y = torch.optim.SGD(model.parameters(), lr=0.1), torch.zeros(4).long()
    a, b = model(torch.randn(4, 8))
    F.cross_entropy(a, y).backward(retain_graph=True)
    opt.step()
    F.cross_entropy(b, y).backward()
""",
)

post(
    "outputs_with_names",
    "loss-given-no-tensor",
    "",
    repair="pass output.logits to the loss",
    old="F.cross_entropy(out, ",
    new="F.cross_entropy(out.logits, ",
    source="""
from collections import namedtuple
Outputs = namedtuple("Outputs", ["logits", "aux"])
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.aux = nn.Linear(8, 3), nn.Linear(8, 3)
    def forward(self, x): return Outputs(self.fc(x), self.aux(x))
def run(model):
    out = model(torch.randn(4, 8))
    F.cross_entropy(out, torch.tensor([0, 1, 2, 0])).backward()
""",
)

post(
    "graph_given_to_numpy",
    "graph-to-numpy",
    None,
    repair="out.softmax(1).detach().numpy()",
    old="out.softmax(1).numpy()",
    new="out.softmax(1).detach().numpy()",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
    def forward(self, x): return self.fc(x)
def run(model):
    out = model(torch.randn(4, 8))
    return out.softmax(1).numpy()
""",
)

post(
    "argmax_on_the_way_to_the_loss",
    "detached-graph",
    None,
    repair="without argmax",
    old="    pred = model(torch.randn(4, 8)).argmax(1).float()\n    loss = F.mse_loss(pred, y.float())",
    new="    pred = model(torch.randn(4, 8))\n    loss = F.cross_entropy(pred, y)",
    source="""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 3)
    def forward(self, x): return self.fc(x)
def run(model):
    y = torch.tensor([0, 1, 2, 0])
    pred = model(torch.randn(4, 8)).argmax(1).float()
    loss = F.mse_loss(pred, y.float())
    loss.backward()
""",
)

post(
    "module_without_super_init",
    "missing-attribute",
    None,
    repair="call super().__init__() first in the __init__ of Head",
    old="    def __init__(self):\n        self.fc = nn.Linear(8, 2)",
    new="    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(8, 2)",
    source="""
class Head(nn.Module):
    def __init__(self):
        self.fc = nn.Linear(8, 2)
    def forward(self, x): return self.fc(x)
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 8)
    def forward(self, x): return self.body(x)
def run(model):
    nn.Sequential(model, Head())(torch.randn(2, 4))
""",
)

post(
    "images_of_several_sizes",
    "cat-mismatch",
    None,
    repair="transforms.Resize((height, width))",
    old="torch.randn(3, 16, 14 + i)",
    new="torch.randn(3, 16, 16)",
    source="""
class Images(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, i): return torch.randn(3, 16, 14 + i), i % 2
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
    def forward(self, x): return self.conv(x).mean((2, 3))
def run(model):
    for x, y in torch.utils.data.DataLoader(Images(), batch_size=2):
        F.cross_entropy(model(x), y).backward()
""",
)
