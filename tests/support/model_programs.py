"""Programs whose model is at fault, each with the lines that a fix writes."""

STEP = """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
"""
REGRESSING = STEP.replace("cross_entropy", "mse_loss")


def net(init, forward, *, step=STEP):
    """A program with a class of its own."""
    lines = [f"        {line}" for line in init.splitlines()]
    body = [f"        {line}" for line in forward.splitlines()]
    return "\n".join(
        [
            "class Net(nn.Module):",
            "    def __init__(self):",
            "        super().__init__()",
            *lines,
            "",
            "    def forward(self, x):",
            *body,
            "",
            "",
            "model = Net()",
            step,
        ]
    )


WIDE = "self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)"
PROGRAMS = {
    "backward-missing": (
        STEP.replace(
            "    F.cross_entropy(model(inputs), labels).backward()\n    optimizer.step()\n",
            "    loss = F.cross_entropy(model(inputs), labels)\n    optimizer.step()\n"
            "    return loss.item()\n",
        ),
        ("    loss.backward()\n    optimizer.step()\n",),
    ),
    "loss-activation-mismatch": (
        net(
            "layers = []\nfor width in (6, 8):\n"
            "    layers += [nn.Linear(6 if width == 6 else 6, 6), nn.Sigmoid()]\n"
            "self.body = nn.Sequential(*layers)",
            "return self.body(x)",
            step="y = torch.randn(12, 6)\n" + REGRESSING,
        ),
        ("self.body = nn.Sequential(*layers[:-1])",),
    ),
    "redundant-bias": (
        net(
            "self.a, self.n = nn.Linear(6, 8), nn.BatchNorm1d(8)\n"
            "self.b = nn.Linear(8, 8)\nself.m = nn.BatchNorm1d(8)\nself.c = nn.Linear(8, 3)",
            "x = torch.relu(self.n(self.a(x)))\nreturn self.c(torch.relu(self.m(self.b(x))))",
        ).replace(
            "self.a, self.n = nn.Linear(6, 8), nn.BatchNorm1d(8)",
            "self.a = nn.Linear(6, 8)\n        self.n = nn.BatchNorm1d(8)",
        ),
        ("self.a = nn.Linear(6, 8, bias=False)", "self.b = nn.Linear(8, 8, bias=False)"),
    ),
    "shared-module": (
        net(
            "self.a = nn.Linear(6, 8)\nself.b = nn.Linear(8, 3)\n"
            "self.body = nn.Sequential(*(2 * [nn.Linear(8, 8)]))",
            "return self.b(self.body(self.a(x).relu()))",
        ),
        ("self.body = nn.Sequential(*([nn.Linear(8, 8) for _ in range(2)]))",),
    ),
    "zero-scale": (
        net(
            "self.a = nn.Linear(6, 8)\nself.n = nn.BatchNorm1d(8)\nself.c = nn.Linear(8, 3)\n"
            "nn.init.zeros_(self.n.weight)",
            "return self.c(torch.relu(self.n(self.a(x))))",
        ),
        ("model.n.weight.data.fill_(1.0)",),
    ),
    "bn-momentum-zero": (
        net(
            "self.a = nn.Linear(6, 8)\nself.n = nn.BatchNorm1d(8, momentum=0.0)\n"
            "self.b = nn.Linear(8, 8)\nself.m = nn.BatchNorm1d(8, momentum=0)\n"
            "self.c = nn.Linear(8, 3)",
            "x = torch.relu(self.n(self.a(x)))\nreturn self.c(torch.relu(self.m(self.b(x))))",
        ),
        ("self.n = nn.BatchNorm1d(8, momentum=0.1)", "self.m = nn.BatchNorm1d(8, momentum=0.1)"),
    ),
    "no-grad-path": (
        net(
            WIDE,
            "with torch.no_grad():\n    # of both views\n    x = self.a(x)\n    x = torch.relu(x)\n"
            "return self.b(x)",
        ),
        ("    def forward(self, x):\n        x = self.a(x)\n        x = torch.relu(x)\n",),
    ),
    "frozen-bn-drift": (
        "for parameter in model[:2].parameters():\n    parameter.requires_grad_(False)\n"
        + STEP.replace("    optimizer.zero_grad()", "    model.train()\n    optimizer.zero_grad()"),
        ("    model.train()\n    model[1].eval()\n",),
    ),
    "reshape-scramble": (
        net(
            "self.conv, self.fc = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4, 3)",
            "x = self.conv(x.view(-1, 2, 3))\nx = x.view(-1, 3, 4)  # time first\n"
            "return self.fc(torch.relu(x)).mean(1)",
        ),
        ("x.permute(0, 2, 1).reshape(-1, 3, 4)  # time first",),
    ),
    "eval-nondeterminism": (
        net(WIDE, "x = torch.relu(self.a(x))\nreturn self.b(x + 0.5 * torch.randn_like(x))"),
        ("0.5 * (torch.randn_like(x) if self.training else 0.0))",),
    ),
    "constant-init": (
        "model[1] = nn.Identity()\nwith torch.no_grad():\n    model[0].weight.fill_(0.3)\n" + STEP,
        ('nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")\n',),
    ),
    "bad-init": (
        "model[1] = nn.Identity()\nwith torch.no_grad():\n    model[0].weight.mul_(1000)\n" + STEP,
        ('nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")\n',),
    ),
    "dead-relu": (
        net(
            WIDE + "\nself.relu = nn.ReLU()\nself.a.weight.data.sub_(5)\nself.a.bias.data.sub_(50)",
            "return self.b(self.relu(self.a(x)))",
            step="x = x.abs()\n" + STEP,
        ),
        ('nn.init.kaiming_normal_(model.a.weight, nonlinearity="relu")\nif model.a.bias',),
    ),
    "loss-at-init": (
        "model[1] = nn.Identity()\nmodel[3].weight.data.mul_(100)\n"
        + STEP.replace("lr=0.05", "lr=1e-5"),
        ('nn.init.kaiming_normal_(model[3].weight, nonlinearity="relu")\n',),
    ),
    "missing-nonlinearity": (
        net(
            "self.a = nn.Linear(6, 32)\nself.b = nn.Linear(32, 3)",
            "return self.b(self.a(x))",
        ),
        ("self.a = nn.Sequential(nn.Linear(6, 32), nn.ReLU())",),
    ),
    "unused-module": (
        net(
            WIDE + "\nself.spare = nn.Linear(4, 4)  # not yet",
            "return self.b(torch.relu(self.a(x)))",
        ),
        ("nn.Linear(32, 3)\n\n    def forward",),
    ),
    "loss-detached": (
        STEP.replace(
            "    F.cross_entropy(model(inputs), labels).backward()\n",
            "    loss = F.cross_entropy(model(inputs), labels)\n"
            "    loss = torch.tensor(loss.item(), requires_grad=True)\n    loss.backward()\n",
        ),
        ("    loss = loss\n",),
    ),
    "probs-into-nll": (
        STEP.replace(
            "    F.cross_entropy(model(inputs), labels).backward()\n",
            (
                "    out = torch.softmax(model(inputs), dim=1)\n    F.nll_loss(out, "
                "labels).backward()\n"
            ),
        ),
        ("    out = torch.log_softmax(model(inputs), dim=1)\n",),
    ),
    "input-mutated": (
        net(WIDE, "x.mul_(2)\nreturn self.b(torch.relu(self.a(x)))"),
        ("        x = x.clone()\n        x.mul_(2)\n",),
    ),
    "inverted-focal-weight": (
        STEP.replace(
            "    F.cross_entropy(model(inputs), labels).backward()\n",
            '    error = F.cross_entropy(model(inputs), labels, reduction="none")\n'
            "    sure = torch.exp(-error)\n    (sure**2 * error).mean().backward()\n",
        ),
        ("((1 - sure)**2 * error)",),
    ),
    "weights-rewritten": (
        net(
            WIDE,
            "nn.init.normal_(self.a.weight, std=0.1)\nreturn self.b(torch.relu(self.a(x)))",
        ),
        ("    def forward(self, x):\n        return",),
    ),
    "unscaled-targets": (
        "model[3] = nn.Linear(8, 1)\ny = torch.randn(12, 1) * 3000 + 5000\n" + REGRESSING,
        ("    labels = (labels - labels.mean()) / labels.std()\n",),
    ),
    "input-range": (
        "model[1] = nn.Identity()\nx = torch.rand(12, 6) * 255\n" + STEP,
        ("    inputs = (inputs - inputs.mean()) / inputs.std()\n",),
    ),
    "sample-without-gradient": (
        net(
            "self.a, self.s, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)",
            "d = torch.distributions.Normal(self.a(x), F.softplus(self.s(x)) + 0.1)\n"
            "return self.b(d.sample())",
        ),
        ("self.b(d.rsample())",),
    ),
    "schedule-at-zero": (
        STEP.replace(
            "\n\ndef step",
            "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: min(1, n / 100))\n"
            "\n\ndef step",
        )
        + "    return scheduler\n",
        ("    optimizer.step()\n    scheduler.step()\n",),
    ),
    "lr-too-high": (
        "def build(optimizer):\n    return optimizer\n\n\n"
        + STEP.replace(
            "torch.optim.SGD(model.parameters(), lr=0.05)",
            "build(torch.optim.SGD(model.parameters(), lr=500.0))",
        ),
        ("build(torch.optim.SGD(model.parameters(), lr=0.",),
    ),
    "frozen-params": (
        "for parameter in model[3].parameters():\n    parameter.requires_grad_(False)\n" + STEP,
        ("model[3].requires_grad_(True)\noptimizer = ",),
    ),
    "batch-as-time": (
        net(
            "self.a, self.r = nn.Linear(2, 8), nn.LSTM(8, 8)\nself.b = nn.Linear(8, 3)",
            "x, _ = self.r(self.a(x.view(-1, 3, 2)))\nreturn self.b(x[:, -1])",
        ).replace(
            "self.a, self.r = nn.Linear(2, 8), nn.LSTM(8, 8)",
            "self.a = nn.Linear(2, 8)\n        self.r = nn.LSTM(8, 8)",
        ),
        ("nn.LSTM(8, 8, batch_first=True)",),
    ),
}
