"""Programs whose loop, loss or model is at fault, each with the lines that a fix writes."""

PROGRAMS = {
    "no-zero-grad": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    loss = F.cross_entropy(model(inputs), labels)  # of one batch
    loss.backward()
    optimizer.step()
""",
        ("    optimizer.zero_grad()\n    loss.backward()",),
    ),
    "eval-mode-in-train": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(net, inputs, labels):
    \"\"\"One step.\"\"\"
    optimizer.zero_grad()
    F.cross_entropy(net(inputs), labels).backward()
    optimizer.step()
    net.eval()  # for the accuracy
    with torch.no_grad():
        net(inputs)
""",
        ('    """One step."""\n    net.train()\n    optimizer.zero_grad()',),
    ),
    "clip-ineffective": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    nn.utils.clip_grad_norm_(
        model.parameters(),  # all of them
        max_norm=0.5,
    )
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        (
            "    optimizer.zero_grad()\n    F.cross_entropy",
            "        max_norm=0.5,\n    )\n    optimizer.step()",
        ),
    ),
    "lr-collapsed": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.9)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
    scheduler.step()


def train(loader, epochs):
    for epoch in range(epochs):
        for inputs, labels in loader:
            step(inputs, labels)
""",
        (
            "    optimizer.step()\n\n\n",
            "            step(inputs, labels)\n        scheduler.step()\n",
        ),
    ),
    "lr-too-high": (
        """LR = 500.0
optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("\nLR = ",),
    ),
    "unoptimized-params": (
        """optimizer = torch.optim.Adam(model[3].parameters(), lr=1e-3)
model[3].requires_grad_(True)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("torch.optim.Adam(model.parameters(), lr=1e-3)",),
    ),
    "softmax-before-ce": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    probabilities = torch.softmax(model(inputs), dim=1)
    F.cross_entropy(probabilities, labels).backward()
    optimizer.step()
""",
        ("    probabilities = model(inputs)\n",),
    ),
    "loss-broadcast": (
        """model[3] = nn.Linear(8, 1)
y = torch.linspace(-1, 1, 12)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, wanted):
    optimizer.zero_grad()
    (model(inputs) - wanted).pow(2).mean().backward()
    optimizer.step()
""",
        ("    wanted = wanted.unsqueeze(1)\n    optimizer.zero_grad()",),
    ),
    "step-missing": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


class Trainer:
    def __init__(self):
        self.optimizer = optimizer

    def step(self, inputs, labels):
        self.optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()


step = Trainer().step
""",
        (".backward()\n        self.optimizer.step()\n",),
    ),
    "gradients-cleared": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    loss = F.cross_entropy(model(inputs), labels)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
""",
        ("    optimizer.zero_grad()\n    loss.backward()\n    optimizer.step()",),
    ),
    "lr-too-low": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
    optimizer.step()
""",
        ("clip_grad_norm_(model.parameters(), 1.0)",),
    ),
    "negative-loss": (
        """model[3] = nn.Linear(8, 1)
y = (torch.arange(12.0) % 2).view(12, 1) * 255
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, masks):
    optimizer.zero_grad()
    F.binary_cross_entropy_with_logits(model(inputs), masks).backward()
    optimizer.step()
""",
        ("    masks = masks / 255\n",),
    ),
    "optimizer-setting": (
        """optimizer = torch.optim.Adam(model.parameters(), lr=0.01, betas=(0.9999999, 0.999))


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("lr=0.01, betas=(0.9, 0.999))",),
    ),
    "functional-dropout": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        return self.b(F.dropout(torch.relu(self.a(x)), p=0.3))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("F.dropout(torch.relu(self.a(x)), p=0.3, training=self.training)",),
    ),
    "nan-forward": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.b(torch.log(x) / 10)  # of counts


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("torch.log(x.clamp(min=1e-8)) / 10)  # of counts",),
    ),
    "dead-output": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.a(x)
        F.relu(x)
        return self.b(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("        x = F.relu(x)\n",),
    ),
    "unread-part": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(16, 3)

    def forward(self, x):
        both = self.a(x[:, :3]), self.b(x[:, :3])
        return self.fc(torch.relu(torch.cat(both, 1)))


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("self.a(x[:, :3]), self.b(x[:, 3:6])",),
    ),
    "minimised-likelihood": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    loss = torch.log_softmax(model(inputs), 1).gather(1, labels[:, None]).mean()
    loss.backward()
    optimizer.step()
""",
        ("    (-loss).backward()\n",),
    ),
    "loss-out-of-range": (
        """model[3] = nn.Linear(8, 1)
y = (torch.arange(12.0) % 2).view(12, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, masks):
    optimizer.zero_grad()
    predicted = model(inputs)
    shared = (predicted * masks).sum()
    (1 - (2 * shared + 1) / (predicted.sum() + masks.sum() + 1)).backward()
    optimizer.step()
""",
        ("    predicted = model(inputs)\n    predicted = torch.sigmoid(predicted)\n",),
    ),
    "empty-reduction": (
        """model[3] = nn.Linear(8, 1)
y = torch.zeros(12, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, wanted):
    optimizer.zero_grad()
    mask = (wanted > 0).float()
    loss = ((model(inputs) - wanted) ** 2 * mask).sum() / mask.sum()
    loss.backward()
    optimizer.step()
""",
        (".sum() / mask.sum().clamp(min=1)\n",),
    ),
    "unregistered-module": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(6, 6), nn.Linear(6, 6)]  # two of them
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        for layer in self.layers:
            x = torch.relu(layer(x))
        return self.fc(x)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("self.layers = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])  # two",),
    ),
    "unregistered-parameter": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.scale = torch.ones(6, requires_grad=True)

    def forward(self, x):
        return self.fc(x * self.scale)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("self.scale = nn.Parameter(torch.ones(6, requires_grad=True))",),
    ),
    "unregistered-tensor": (
        """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)
        self.mean = torch.full((6,), 0.1)

    def forward(self, x):
        return self.fc(x - self.mean)


model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ('self.register_buffer("mean", torch.full((6,), 0.1))',),
    ),
    "weight-decay-high": (
        """optimizer = torch.optim.SGD(model.parameters(), lr=0.05, weight_decay=5.0)


def step(inputs, labels):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    optimizer.step()
""",
        ("lr=0.05, weight_decay=0.0005)",),
    ),
}
