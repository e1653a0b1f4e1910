"""Which round of a loop its calls stand in, as the text of a program says."""

import pytest
import torch

HEAD = """
import torch
from torch import nn
import cnnprobe

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
other = torch.optim.SGD(model[1].parameters(), lr=0.1)
loss_fn = nn.CrossEntropyLoss()
N = 4


def check(images, labels):
    return cnnprobe.diagnose(
        model, images, labels, loss_fn=loss_fn, optimizer=optimizer, steps=2, trials=0
    )


def score(loader):
    return train(loader, 3)
"""
ACCUMULATING = """
def train(loader, epochs):
    for epoch in range(epochs):
        for i, (x, y) in enumerate(loader):
            {first}
            loss = loss_fn(model(x), y) / N
            loss.backward()
            if (i + 1) % N == 0:
                {under}
            {last}
"""
EPOCHS = """
def evaluate(loader):
    model.eval()
    with torch.no_grad():
        return sum((model(x).argmax(1) == y).sum() for x, y in loader)


def train(loader, epochs):
    {before}
    for epoch in range(epochs):
        {each}
        for x, y in loader:
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
        evaluate(loader)
        {end}
"""
BEHIND = """
def train(loader, epochs):
    for epoch in range(epochs):
        {start}
        for x, y in loader:
            optimizer.zero_grad()
            loss {sign} loss_fn(model(x), y)
        loss.backward()
        optimizer.step()
"""


def find(tmp_path, name, text):
    path = tmp_path / "program.py"
    path.write_text(HEAD + text, encoding="utf-8")
    space = {"__name__": "program", "__file__": str(path)}
    exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), space)
    report = space["check"](torch.randn(8, 1, 8, 8), torch.arange(8) % 4)
    assert report.error is None
    return [f.kind for f in report.findings if f.rule == name]


@pytest.mark.parametrize(
    ("first", "under", "last", "expected"),
    [
        ("pass", "optimizer.step(); optimizer.zero_grad()", "pass", []),
        ("optimizer.zero_grad()", "optimizer.step()", "pass", ["every-clear"]),
        ("pass", "print(i)", "optimizer.step(); optimizer.zero_grad()", ["every-step"]),
        ("optimizer.zero_grad()", "print(i)", "pass", []),
        (
            "other.zero_grad()",
            "optimizer.zero_grad(); loss_fn(model(x), y).backward(); optimizer.step()",
            "other.step()",
            [],
        ),  # a generator that is trained in every n-th round
    ],
)
def test_calls_outside_of_the_condition_of_an_accumulation_are_found(
    tmp_path, first, under, last, expected
):
    text = ACCUMULATING.format(first=first, under=under, last=last)
    assert expected == find(tmp_path, "accumulation-shifted", text)


def test_loss_that_is_divided_behind_its_backward_is_not_divided(tmp_path):
    text = ACCUMULATING.format(
        first="pass", under="optimizer.step(); optimizer.zero_grad()", last="loss = loss / N"
    ).replace("y) / N", "y)")
    assert find(tmp_path, "accumulation-shifted", text) == ["undivided"]


@pytest.mark.parametrize(
    ("before", "each", "end", "is_found"),
    [
        ("model.train()", "pass", "pass", True),
        ("pass", "model.train()", "pass", False),
        ("model.train()", "pass", "model.train()", False),
        ("pass", "pass", "pass", False),  # whoever calls it may do so
    ],
)
def test_eval_mode_that_is_never_left_is_found(tmp_path, before, each, end, is_found):
    text = EPOCHS.format(before=before, each=each, end=end)
    found = find(tmp_path, "eval-mode-in-train", text)
    assert found == (["never-back"] if is_found else [])


@pytest.mark.parametrize(
    ("start", "sign", "is_found"), [("pass", "=", True), ("loss = 0", "+=", False)]
)
def test_backward_behind_the_loop_is_found_where_it_has_one_batch(tmp_path, start, sign, is_found):
    found = find(tmp_path, "loop-cut-short", BEHIND.format(start=start, sign=sign))
    assert found == (["last-batch"] if is_found else [])


def test_comparison_in_the_place_of_an_assignment_is_found(tmp_path):
    text = (
        "for p in model[1].parameters():\n    p.requires_grad == False\n\n\ndef train(a, b): pass"
    )
    assert find(tmp_path, "function-uncalled", text) == ["compared"]
