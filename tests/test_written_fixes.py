"""Fixes of the loop and the optimizer, written into the user's own program: the patch applies,
changes no other line, and the patched program is without the fault.
"""

import runpy
import subprocess

import pytest

HEAD = """import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
x, y = torch.randn(12, 6), torch.arange(12) % 3
"""
TAIL = """
report = cnnprobe.diagnose(model, x, y, optimizer=optimizer, train_step=step)
"""
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

PARTS = """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    for part, wanted in zip(inputs.chunk(3), labels.chunk(3)):
        optimizer.zero_grad()
        F.cross_entropy(model(part), wanted).backward()
    optimizer.step()
"""


def run(folder):
    """The rules that find something in the program, and the patch of their fixes."""
    report = runpy.run_path(str(folder / "program.py"))["report"]
    return {f.rule for f in report.findings if f.severity != "info"}, report.patch


def apply(folder, patch):
    subprocess.run(
        ["git", "apply", "--recount", "-"], cwd=folder, input=patch, text=True, check=True
    )
    return (folder / "program.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("rule", PROGRAMS)
def test_patch_mends_the_program_and_changes_no_other_line(rule, tmp_path, monkeypatch):
    body, expected = PROGRAMS[rule]
    before = HEAD + body + TAIL
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(before, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert rule in rules
    after = apply(tmp_path, patch)
    for text in expected:
        assert text in after
    assert len(after.splitlines()) - len(before.splitlines()) in (0, 1)
    assert set(before.splitlines()) - set(after.splitlines()) <= {
        line for line in before.splitlines() if f"-{line}" in patch
    }
    assert rule not in run(tmp_path)[0]


def test_zero_grad_in_a_loop_moves_to_the_beginning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(HEAD + PARTS + TAIL, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "step-missing" in rules
    after = apply(tmp_path, patch)
    assert "    optimizer.zero_grad()\n    for part, wanted" in after
    assert 1 == after.count("zero_grad")
    assert "step-missing" not in run(tmp_path)[0]


def test_step_on_one_line_with_another_statement_is_not_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


def step(inputs, labels):
    loss = F.cross_entropy(model(inputs), labels); loss.backward(); optimizer.step()
"""
    (tmp_path / "program.py").write_text(HEAD + body + TAIL, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "no-zero-grad" in rules
    assert "" == patch


LOSSES = {
    "swapped-arguments": (
        """y = F.one_hot(torch.arange(12) % 3, 3).float()
criterion = nn.CrossEntropyLoss()


def loss_fn(output, labels):
    return criterion(labels, output) + 0.01 * output.square().mean()
""",
        "    return criterion(output, labels) + 0.01",
    ),
    "unsigned-labels": (
        """model[3] = nn.Linear(8, 1)
y = (torch.arange(12.0) % 2).view(12, 1)


def loss_fn(output, labels):
    return torch.relu(1 - labels * output).mean()
""",
        "    labels = 2 * labels - 1\n    return",
    ),
    "loss-activation-mismatch": (
        """y = torch.log_softmax(torch.randn(12, 3), 1)


def loss_fn(output, taught):
    return F.kl_div(torch.log_softmax(output, 1), taught, reduction="batchmean")
""",
        'reduction="batchmean", log_target=True)',
    ),
    "minimised-likelihood": (
        """y = torch.arange(12) % 3


def loss_fn(output, labels):
    return torch.log_softmax(output, 1).gather(1, labels[:, None]).mean()
""",
        "    return -torch.log_softmax(",
    ),
    "loss-out-of-range": (
        """y = F.one_hot(torch.arange(12) % 3, 3).float()


def loss_fn(output, masks):
    \"\"\"Dice.\"\"\"
    shared = (output * masks).sum()
    return 1 - (2 * shared + 1) / (output.sum() + masks.sum() + 1)
""",
        "    output = torch.softmax(output, dim=1)\n    shared = ",
    ),
    "loss-broadcast": (
        """model[3] = nn.Linear(8, 1)
y = torch.linspace(-1, 1, 12)


def loss_fn(output, wanted):
    return ((output - wanted) ** 2).mean()
""",
        "    wanted = wanted.unsqueeze(1)\n    return",
    ),
}


@pytest.mark.parametrize("rule", LOSSES)
def test_fix_of_a_loss_is_written_into_the_users_own_function(rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body, expected = LOSSES[rule]
    tail = """
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
report = cnnprobe.diagnose(model, x, y, loss_fn=loss_fn, optimizer=optimizer)
"""
    (tmp_path / "program.py").write_text(HEAD + body + tail, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert rule in rules
    assert expected in apply(tmp_path, patch)
    assert rule not in run(tmp_path)[0]


def test_loss_of_torch_has_no_line_of_the_users(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = "model[3] = nn.Linear(8, 1)\ny = torch.linspace(-1, 1, 12)\n"
    tail = "report = cnnprobe.diagnose(model, x, y, loss_fn=nn.MSELoss())\n"
    (tmp_path / "program.py").write_text(HEAD + body + tail, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "loss-broadcast" in rules
    assert "" == patch


TURNS = """G, D = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
model = nn.ModuleDict({"G": G, "D": D})
makes = torch.optim.Adam(G.parameters(), lr=1e-3)
judges = torch.optim.Adam(D.parameters(), 1e-3, betas=(0.5, 0.999))


def step(inputs, labels):
    fake = G(inputs[:, :4])
    FIRST
    (F.softplus(D(fake)).mean() + F.softplus(-D(inputs)).mean()).backward()
    judges.step()
    SECOND
    F.softplus(-D(G(inputs[:, 2:]))).mean().backward()
    makes.step()
"""
TAKING_TURNS = {
    "an optimizer that is never cleared": (
        {"FIRST": "judges.zero_grad()", "SECOND": "last = fake"},
        "no-zero-grad",
        ("    judges.step()\n    makes.zero_grad()\n    last = fake",),
    ),
    "gradients of the other's loss": (
        {
            "RATE": "1e-3",
            "FIRST": "makes.zero_grad()\n    judges.zero_grad()",
            "SECOND": "last = fake",
        },
        "no-zero-grad",
        ("    judges.step()\n    makes.zero_grad()\n    last = fake",),
    ),
}


@pytest.mark.parametrize("name", TAKING_TURNS)
def test_fix_is_written_where_two_optimizers_take_turns(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts, rule, expected = TAKING_TURNS[name]
    body = TURNS
    for part, text in parts.items():
        body = body.replace(part, text)
    tail = "report = cnnprobe.diagnose(model, x, y, optimizer=makes, train_step=step)\n"
    (tmp_path / "program.py").write_text(HEAD + body + "\n" + tail, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert rule in rules
    after = apply(tmp_path, patch)
    for text in expected:
        assert text in after
    assert rule not in run(tmp_path)[0]


TWO = """first = torch.optim.SGD(model[0].parameters(), lr=0.1)
second = torch.optim.SGD(model[3].parameters(), lr=0.1)


def step(inputs, labels):
    first.zero_grad()
    second.zero_grad()
    F.cross_entropy(model(inputs), labels).backward()
    first.step()
    second.step()

report = cnnprobe.diagnose(model, x, y, optimizer=first, train_step=step)
"""


def test_step_of_the_optimizer_that_never_steps_is_added_after_the_last_backward(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    body = TWO.replace("    second.step()\n", "")
    (tmp_path / "program.py").write_text(HEAD + body, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "idle-optimizer" in rules
    assert ".backward()\n    second.step()\n    first.step()\n" in apply(tmp_path, patch)
    assert "idle-optimizer" not in run(tmp_path)[0]


def test_rates_of_two_optimizers_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = TWO.replace("lr=0.1", "lr=1e-10")
    (tmp_path / "program.py").write_text(HEAD + body, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "lr-too-low" in rules
    after = apply(tmp_path, patch)
    assert "1e-10" not in after
    assert "lr-too-low" not in run(tmp_path)[0]


def test_settings_are_written_to_the_optimizer_that_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body = TWO.replace("model[3].parameters(), lr=0.1", "model[3].parameters(), 0.1, momentum=1.0")
    (tmp_path / "program.py").write_text(HEAD + body, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "optimizer-setting" in rules
    after = apply(tmp_path, patch)
    assert "model[0].parameters(), lr=0.1)\nsecond" in after
    assert "model[3].parameters(), 0.1, momentum=0.9)" in after
    assert "optimizer-setting" not in run(tmp_path)[0]
