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
