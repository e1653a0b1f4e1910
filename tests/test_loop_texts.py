"""Calls and statements of a training loop that cannot be meant as they stand: learning rates that
nothing reads, weights that load themselves, arguments in the wrong order.
"""

import importlib.util

import pytest
import torch
from torch import nn

import cnnprobe

HEAD = """
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

torch.manual_seed(0)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
optimizer = torch.optim.SGD(model.parameters(), lr=0.05)

def train_step(inputs, targets):
    optimizer.zero_grad()
    F.cross_entropy(model(inputs), targets).backward()
    optimizer.step()

"""


def find(tmp_path, rule, text):
    """The findings of a rule for a program with this text behind its step."""
    path = tmp_path / "program.py"
    path.write_text(HEAD + text)
    spec = importlib.util.spec_from_file_location(f"program_{abs(hash(text))}", path)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    report = cnnprobe.diagnose(
        program.model, torch.randn(4, 1, 8, 8), torch.arange(4), optimizer=program.optimizer,
        train_step=program.train_step, trials=0, steps=1,
    )  # fmt: skip
    return [finding for finding in report.findings if finding.rule == rule]


@pytest.mark.parametrize(
    ("mode", "given", "fix"),
    [
        ("", "val_acc", 'mode="max" in plateau'),
        (', mode="min"', "scores['accuracy']", 'mode="max" in plateau'),
        (', "max"', "val_loss", 'mode="min" in plateau'),
        (', mode="max"', "val_acc", ""),
        ("", "val_loss", ""),
        ("", "-val_acc", ""),
        ("", "metric", ""),
        (", mode=MODE", "val_acc", ""),
    ],
)
def test_plateau_that_waits_for_the_wrong_direction_is_found(tmp_path, mode, given, fix):
    text = f"""
MODE = "max"
plateau = ReduceLROnPlateau(optimizer{mode})

def fit(val_acc, val_loss, metric, scores):
    plateau.step({given})
"""
    assert ([fix] if fix else []) == [f.fix for f in find(tmp_path, "lr-collapsed", text)]


RENEWED = "optimizer = torch.optim.Adam(model.parameters())"
SCHEDULED = "scheduler = StepLR(optimizer, 3)"


@pytest.mark.parametrize(
    ("lines", "is_found"),
    [
        ((SCHEDULED, RENEWED), True),
        ((RENEWED, SCHEDULED), False),
        ((SCHEDULED, RENEWED, SCHEDULED), False),
        ((SCHEDULED, "for _ in range(2): optimizer.step()", RENEWED), False),
    ],
)
def test_scheduler_of_the_optimizer_before_is_found(tmp_path, lines, is_found):
    text = "\n".join((*lines, "def end_epoch():", "    scheduler.step()", ""))
    found = find(tmp_path, "schedule-unused", text)
    assert is_found == bool(found)
    assert all("scheduler changes the learning rate of the optimizer" in f.message for f in found)


@pytest.mark.parametrize(
    ("statement", "is_found"),
    [
        ("group = dict(group, lr=rate)", True),
        ('group = {**group, "lr": rate}', True),
        ('group["lr"] = rate', False),
        ("group.update(lr=rate)", False),
        ("set_rate(group, rate)", False),
    ],
)
def test_rate_that_is_written_to_a_copy_of_the_group_is_found(tmp_path, statement, is_found):
    text = f"""
def adjust(rate):
    for group in optimizer.param_groups:
        {statement}

def end_epoch():
    adjust(0.01)
"""
    found = [f for f in find(tmp_path, "schedule-unused", text) if f.kind == "group-copied"]
    assert is_found == bool(found)


@pytest.mark.parametrize("source", ["target", "model"])
def test_weights_that_are_loaded_into_themselves_are_found(tmp_path, source):
    text = f"""
target = nn.Linear(2, 2)

def synchronise(target, model):
    target.load_state_dict({source}.state_dict())
"""
    assert (source == "target") == bool(find(tmp_path, "checkpoint-unused", text))


SWAPPING = """
triplet = nn.TripletMarginLoss()

def follow(teacher, student, decay=0.9):
    return teacher

class Trainer:
    def compare(self, output, labels):
        return output

    def diverge(self, p_log, q_log):
        return p_log

    def diverge_from(self, first, second):
        return first

    def run(self, output, labels, negative, positive, student, teacher, n, p, p_log, q_log,
            first, second):
        {call}
"""


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ("triplet(output, negative, positive)", True),
        ("triplet(model(output), model(n), model(p))", True),
        ("F.triplet_margin_loss(output, negative.detach(), positive.detach())", True),
        ("follow(student, teacher)", True),
        ("self.compare(labels, output)", True),
        ("triplet(output, positive, negative)", False),
        ("follow(teacher, student)", False),
        ("follow(student, teacher), follow(teacher, student)", False),  # both on purpose
        ("self.compare(output, labels)", False),
        ("torch.compare(labels, output)", False),  # another function
        ("follow(p, n)", False),
        ("self.diverge(q_log, p_log)", False),  # two of a kind: the reverse divergence
        ("self.diverge_from(second, first)", False),
    ],
)
def test_variables_under_each_others_names_are_found(tmp_path, call, is_found):
    found = find(tmp_path, "swapped-arguments", SWAPPING.format(call=call))
    assert is_found == bool(found)
    assert all("have changed places" in finding.message for finding in found)


ACCUMULATING = """
def train(loader, n):
    for {index} in {loop}:
        {before}
        loss = F.cross_entropy(model(loader), loader){scale}
        loss.backward()
        if {test}:
            {inner}
            optimizer.zero_grad()

def main():
    train([], 4)
"""


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({}, ["first-step"]),
        ({"test": "not i % n"}, ["first-step"]),
        ({"test": "i % n == 0 or i == len(loader) - 1"}, ["first-step"]),
        ({"index": "i", "loop": "range(len(loader))"}, ["first-step"]),
        ({"scale": ""}, ["first-step", "undivided"]),
        ({"test": "(i + 1) % n == 0", "scale": ""}, ["undivided"]),
        ({"test": "(i + 1) % n == 0"}, []),
        ({"loop": "enumerate(loader, 1)"}, []),
        ({"loop": "enumerate(loader, start=1)"}, []),
        ({"before": "optimizer.zero_grad()"}, []),  # each batch by itself
        ({"inner": "loss.backward(); optimizer.step()"}, []),  # a loss of its own, as a generator's
        ({"inner": "print(loss)"}, []),
    ],
)
def test_step_after_the_first_of_several_batches_is_found(tmp_path, changed, kinds):
    parts = {
        "index": "i, x", "loop": "enumerate(loader)", "before": "pass", "scale": " / n",
        "test": "i % n == 0", "inner": "optimizer.step()",
    }  # fmt: skip
    found = find(tmp_path, "accumulation-shifted", ACCUMULATING.format(**parts | changed))
    assert kinds == sorted(finding.kind for finding in found)


AVERAGING = """
def train(loader, epochs):
    {before}
    for epoch in range(epochs):
        {within}
        for i, (x, y) in enumerate(loader):
            output = model(x)
            loss = F.cross_entropy(output, y)
            loss.backward()
            right = (output.argmax(1) == y)
            total += {summand}
            count += y.size(0)
        print(total / {divisor})

def main():
    train([], 4)
"""
SUMMED = "measure = nn.MSELoss(reduction='sum')"
OUTSIDE = {"before": "total = count = 0", "within": "pass"}
COUNTING = {"before": "pass", "within": "total, count = 0, 0"}


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"summand": "right.sum().item()", "divisor": "len(loader)"}, ["by-batches"]),
        ({"summand": "(output.argmax(1) == y).float().sum()", "divisor": "len(loader)"},
         ["by-batches"]),
        ({"summand": "right.sum().item()", "divisor": "count"}, []),
        ({"summand": "right.sum().item()", "divisor": "len(loader.dataset)"}, []),
        ({"summand": "right.float().mean().item()", "divisor": "len(loader)"}, []),
        ({"summand": "loss.item()", "divisor": "len(loader.dataset)"}, ["by-samples"]),
        ({"summand": "loss.item()", "divisor": "len(loader)"}, []),
        ({"summand": "loss.item() * y.size(0)", "divisor": "len(loader.dataset)"}, []),
        ({"summand": "loss.item()", "divisor": "len(loader.dataset)", "before": SUMMED},
         []),
        ({"summand": "loss.item()", "divisor": "len(loader)", **OUTSIDE},
         ["never-reset"]),
        ({"summand": "loss.item()", "divisor": "count", **OUTSIDE},
         []),
        ({"summand": "loss.item()", "divisor": "(epoch + 1)", **OUTSIDE},
         []),
    ],
)  # fmt: skip
def test_average_by_another_number_than_it_was_added_up_over_is_found(tmp_path, changed, kinds):
    found = find(tmp_path, "average-misdivided", AVERAGING.format(**COUNTING | changed))
    assert kinds == [finding.kind for finding in found]


def test_rules_of_the_text_read_no_model_that_is_given_alone():
    report = cnnprobe.diagnose(nn.Linear(4, 2), torch.randn(3, 4), trials=0)
    assert not [f for f in report.findings if f.rule in ("schedule-unused", "swapped-arguments")]
