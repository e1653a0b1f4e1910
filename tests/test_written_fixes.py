"""Fixes of the loop and the optimizer, written into the user's own program: the patch applies,
changes no other line, and the patched program is without the fault.
"""

import runpy
import subprocess

import pytest

from tests.support import layer_programs, loss_programs, model_programs
from tests.support.fixable_programs import PROGRAMS

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


def find(folder):
    """The rules that find something in the program, also what is but worth knowing; the patch,
    or what only tidies up.
    """
    report = runpy.run_path(str(folder / "program.py"))["report"]
    tidied = [f.tried.patch for f in report.findings if f.tried is not None and f.tried.tidies]
    return {f.rule for f in report.findings}, report.patch or "".join(tidied)


OF_MODELS = [
    (rule, *program)
    for file in (model_programs, layer_programs)
    for rule, program in file.PROGRAMS.items()
]


@pytest.mark.parametrize(("rule", "body", "expected"), OF_MODELS)
def test_fix_of_the_model_is_written_and_the_fault_is_gone(
    rule, body, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(HEAD + body + TAIL, encoding="utf-8")
    rules, patch = find(tmp_path)
    assert rule in rules
    after = apply(tmp_path, patch)
    for text in expected:
        assert text in after
    assert rule not in find(tmp_path)[0]


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
    assert "zero_grad" not in patch


@pytest.mark.parametrize("rule", loss_programs.PROGRAMS)
def test_fix_of_a_loss_is_written_into_the_users_own_function(rule, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    body, expected = loss_programs.PROGRAMS[rule]
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


VALIDATING = """optimizer = torch.optim.SGD(model.parameters(), lr=0.05)


class Trainer:
    def __init__(self):
        self.model, self.done = model, 0

    def validate(self):
        self.model.eval()
        with torch.no_grad():
            self.best = self.model(x).argmax(1)

    def fit(self, inputs, labels):
        if self.done % 3 == 0:
            self.validate()
        self.done += 1
        optimizer.zero_grad()
        F.cross_entropy(self.model(inputs), labels).backward()
        optimizer.step()


step = Trainer().fit
"""


def test_train_is_written_behind_the_evaluation_that_the_step_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(HEAD + VALIDATING + TAIL, encoding="utf-8")
    rules, patch = run(tmp_path)
    assert "eval-mode-in-train" in rules
    after = apply(tmp_path, patch)
    assert "argmax(1)\n        self.model.train()\n\n    def fit" in after
    assert "eval-mode-in-train" not in run(tmp_path)[0]
