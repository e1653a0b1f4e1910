"""Weights that stay random: of a frozen body, of a teacher, of what is let train too late."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe

IMAGES = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(16) % 4


class Net(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()
        )
        self.head = nn.Linear(8 * 9, 4)

    def forward(self, x):
        return self.head(self.body(x).flatten(1))


def train(net):
    optimizer = torch.optim.Adam(net.parameters(), 5e-2)
    for _ in range(10):
        optimizer.zero_grad()
        F.cross_entropy(net(IMAGES), LABELS).backward()
        optimizer.step()
    return net


def find(model, name, **given):
    held = given.pop("held", [p for p in model.parameters() if p.requires_grad])
    given = {"optimizer": torch.optim.Adam(held, 1e-3), "loss_fn": nn.CrossEntropyLoss()} | given
    report = cnnprobe.diagnose(model, IMAGES, LABELS, steps=2, trials=0, **given)
    assert report.error is None
    return [f for f in report.findings if f.rule == name]


def load_pretrained(model, source, *, copies):
    for own, other in zip(model.body.parameters(), source.body.parameters(), strict=True):
        if copies:
            own.data.copy_(other.data)
        else:
            own = other.data.clone()  # noqa: PLW2901


@pytest.mark.parametrize("copies", [False, True])
def test_load_that_copies_nothing_into_a_frozen_body_is_found(copies):
    model = Net()
    load_pretrained(model, train(Net(1)), copies=copies)
    model.body.requires_grad_(False)
    found = find(model, "checkpoint-unused")
    assert [f.kind for f in found] == ([] if copies else ["frozen"])
    assert copies or "2 layers of the model are frozen" in found[0].message


def test_body_that_was_never_trained_is_told_as_info():
    model = Net()
    model.body.requires_grad_(False)
    found = find(model, "frozen-params")
    assert [(f.kind, f.severity) for f in found] == [("body", "info")]
    trained = train(Net())
    trained.body.requires_grad_(False)
    assert not find(trained, "frozen-params")


@pytest.mark.parametrize("is_trained", [False, True])
@pytest.mark.parametrize("loss", [F.kl_div, F.mse_loss])
def test_teacher_with_random_weights_is_found_where_it_gives_a_distribution(is_trained, loss):
    teacher, model = Net(1), Net()
    if is_trained:
        train(teacher)
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)

    def train_step(inputs, targets):
        soft, output = teacher(inputs), model(inputs)
        if loss is F.kl_div:
            distance = loss(output.log_softmax(1), soft.softmax(1), reduction="batchmean")
        else:  # random network distillation
            distance = loss(output, soft)
        optimizer.zero_grad()
        (F.cross_entropy(output, targets) + distance).backward()
        optimizer.step()

    found = find(model, "untrained-teacher", train_step=train_step, loss_fn=None)
    assert bool(found) == (not is_trained and loss is F.kl_div)


def test_teacher_that_follows_the_model_is_no_finding():
    teacher, model = Net(), Net()
    teacher.requires_grad_(False)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def train_step(inputs, targets):
        output = model(inputs)
        soft = teacher(inputs).softmax(1)
        distance = F.kl_div(output.log_softmax(1), soft, reduction="batchmean")
        optimizer.zero_grad()
        (F.cross_entropy(output, targets) + distance).backward()
        optimizer.step()
        for own, other in zip(teacher.parameters(), model.parameters(), strict=True):
            own.data.lerp_(other.data, 0.1)

    assert not find(model, "untrained-teacher", train_step=train_step, loss_fn=None)


PROGRAM = """
import torch
from torch import nn
import cnnprobe

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
model[1].requires_grad_(False)
optimizer = torch.optim.SGD({held}, lr=0.1)


def fit(loader, epochs):
    for epoch in range(epochs):
        if epoch == 3:
            for p in model[1].parameters():
                p.requires_grad = True
            {then}
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()


def check(images, labels):
    return cnnprobe.diagnose(
        model, images, labels, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer, steps=2,
        trials=0,
    )
"""


@pytest.mark.parametrize(
    ("held", "then", "is_found"),
    [
        ("[p for p in model.parameters() if p.requires_grad]", "pass", True),
        ("model[3].parameters()", "pass", True),
        ("model.parameters()", "pass", False),
        (
            "[p for p in model.parameters() if p.requires_grad]",
            "optimizer.add_param_group({'params': model[1].parameters()})",
            False,
        ),
        (
            "[p for p in model.parameters() if p.requires_grad]",
            "optimizer = torch.optim.SGD(model.parameters(), lr=0.01)",
            False,
        ),
    ],
)
def test_parameters_that_are_let_train_without_an_optimizer_are_found(
    tmp_path, held, then, is_found
):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(held=held, then=then), encoding="utf-8")
    space = {"__name__": "program", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), space)
    report = space["check"](IMAGES, LABELS)
    found = [f for f in report.findings if f.rule == "unoptimized-params"]
    assert [f.kind for f in found] == (["thawed"] if is_found else [])
