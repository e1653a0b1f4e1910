"""Calls and statements of a training loop that cannot be meant as they stand: learning rates that
nothing reads, weights that load themselves, arguments in the wrong order.
"""

import importlib.util

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.training.kept_weights import find_kept

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
        ({"before": "optimizer.zero_grad()"}, ["every-clear"]),  # each batch by itself
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


VALIDATING = """
def {name}(loader{given}):
    {before}
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

def main():
    {name}([])
"""


@pytest.mark.parametrize(
    ("changed", "is_found"),
    [
        ({"name": "validate"}, True),
        ({"name": "run_eval"}, True),
        ({"name": "train_and_validate"}, False),
        ({"name": "test_time_adapt"}, False),
        ({"name": "evaluate", "before": "optimizer = torch.optim.SGD(model.parameters(), 0.1)"},
         False),
        ({"name": "retest"}, False),
    ],
)  # fmt: skip
def test_evaluation_that_steps_the_optimizer_is_found(tmp_path, changed, is_found):
    parts = {"given": "", "before": "model.eval()"}
    found = find(tmp_path, "evaluation-trains", VALIDATING.format(**parts | changed))
    assert is_found == bool(found)


PHASES = """
def fit(loaders):
    for phase in ["train", "val"]:
        model.train(phase == "train")
        for x, y in loaders[phase]:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            {condition}
                loss.backward()
                optimizer.step()

def main():
    fit({{"train": [], "val": []}})
"""


@pytest.mark.parametrize(
    ("condition", "is_found"), [("with autocast():", True), ('if phase == "train":', False)]
)
def test_round_that_validates_and_steps_is_found(tmp_path, condition, is_found):
    found = find(tmp_path, "evaluation-trains", PHASES.format(condition=condition))
    assert is_found == bool(found)


METRIC = """
class Meter:
    def __init__(self):
        self.right = 0
    def update(self, right):
        self.right += right
    def compute(self):
        {inner}
        return self.right

def train(loader, epochs):
    {before} = Meter()
    for epoch in range(epochs):
        {within}
        for x, y in loader:
            F.cross_entropy(model(x), y).backward()
            {before}.update((model(x).argmax(1) == y).sum())
        print({before}.compute())

def main():
    train([], 4)
"""


@pytest.mark.parametrize(
    ("changed", "is_found"),
    [
        ({}, True),
        ({"within": "meter.reset()"}, False),
        ({"within": "meter = Meter()"}, False),
        ({"within": "prepare(meter)"}, False),
        ({"inner": "self.reset()"}, False),
        ({"before": "batch_time"}, False),
    ],
)
def test_metric_that_all_epochs_go_into_is_found(tmp_path, changed, is_found):
    parts = {"before": "meter", "within": "pass", "inner": "pass"}
    found = find(tmp_path, "average-misdivided", METRIC.format(**parts | changed))
    assert (["never-cleared"] if is_found else []) == [f.kind for f in found]


STOPPING = """
def train(epochs):
    best, wait = 9.0, 0
    for epoch in range(epochs):
        {before}
        if loss < best:
            best = loss
            {better}
        else:
            wait += 1
            if wait >= 3:
                break

class EarlyStopping:
    def __init__(self):
        self.best, self.counter, self.stop = 9.0, 0, False
    def __call__(self, loss):
        if loss < self.best:
            self.best = loss
            {again}
        else:
            self.counter += 1
        if self.counter >= 3:
            self.stop = True

def main():
    train(4)
    EarlyStopping().__call__(0.1)
"""


@pytest.mark.parametrize(
    ("changed", "subjects"),
    [
        ({}, ["wait", "self.counter"]),
        ({"better": "wait = 0"}, ["self.counter"]),
        ({"again": "self.counter = 0"}, ["wait"]),
        ({"again": "self.counter = 0", "before": "wait = min(wait, 2)"}, []),
    ],
)
def test_patience_that_an_improvement_does_not_renew_is_found(tmp_path, changed, subjects):
    parts = {"before": "loss = 1.0", "better": "pass", "again": "pass"}
    found = find(tmp_path, "loop-cut-short", STOPPING.format(**parts | changed))
    assert sorted(subjects) == sorted(f.subject for f in found)


KEEPING = """
def train(epochs):
    best = 0.0
    for epoch in range(epochs):
        acc = epoch / 10
        {before}
        if acc {sign} best:
            {inside}
            torch.save(model.state_dict(), "best.pt")

def main():
    train(4)
"""


@pytest.mark.parametrize(
    ("before", "sign", "inside", "is_found"),
    [
        ("best = max(best, acc)", ">", "pass", True),
        ("if best < acc: best = acc", ">", "pass", True),
        ("best = max(best, acc)", ">=", "pass", False),
        ("best = min(best, acc)", ">", "pass", False),
        ("best = max(best, acc); acc = 1.0", ">", "pass", False),
        ("if acc < best: best = acc", ">", "pass", False),
        ("pass", ">", "best = acc", False),
    ],
)
def test_best_value_that_is_taken_before_it_is_compared_is_found(
    tmp_path, before, sign, inside, is_found
):
    path = tmp_path / "program.py"
    path.write_text(KEEPING.format(before=before, sign=sign, inside=inside))
    kinds = [kept.kind for kept in find_kept([], str(path), frozenset({"model"}))]
    assert is_found == ("overtaken" in kinds)


SUMMING = """
def train(loader):
    total = 0.0
    for x, y in loader:
        {before}
        loss = F.cross_entropy(model(x), y)
        total = total + loss
        {backward}
        optimizer.step()

def main():
    train([])
"""


@pytest.mark.parametrize(
    ("before", "backward", "is_found"),
    [
        ("pass", "total.backward(retain_graph=True)", True),
        ("pass", "loss.backward(retain_graph=True)", False),
        ("total = 0.0", "total.backward(retain_graph=True)", False),
    ],
)
def test_backward_of_a_sum_that_grows_with_each_batch_is_found(
    tmp_path, before, backward, is_found
):
    found = find(tmp_path, "graph-kept-alive", SUMMING.format(before=before, backward=backward))
    assert is_found == bool(found)


SCHEDULING = """
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR
EPOCHS = 5

def train(loader):
    scheduler = {made}
    for epoch in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            {inner}
        {outer}

def main():
    train([])
"""
CYCLE = "OneCycleLR(optimizer, 0.1, epochs=EPOCHS, steps_per_epoch=len(loader))"
LONG = "OneCycleLR(optimizer, 0.1, total_steps=EPOCHS * len(loader))"
COSINE = "CosineAnnealingLR(optimizer, T_max=EPOCHS)"
COSINE_OF_BATCHES = "CosineAnnealingLR(optimizer, T_max=EPOCHS * len(loader))"
PLATEAU = "ReduceLROnPlateau(optimizer, patience=2)"
PATIENT = "ReduceLROnPlateau(optimizer, patience=500)"


@pytest.mark.parametrize(
    ("made", "inner", "outer", "rule"),
    [
        (CYCLE, "pass", "scheduler.step()", "schedule-unused"),
        (LONG, "pass", "scheduler.step()", "schedule-unused"),
        (COSINE_OF_BATCHES, "pass", "scheduler.step()", "schedule-unused"),
        (CYCLE, "scheduler.step()", "pass", ""),
        (COSINE, "scheduler.step()", "pass", "lr-collapsed"),
        (COSINE, "pass", "scheduler.step()", ""),
        (COSINE_OF_BATCHES, "scheduler.step()", "pass", ""),
        (PLATEAU, "scheduler.step(loss)", "pass", "lr-collapsed"),
        (PLATEAU, "pass", "scheduler.step(loss)", ""),
        (PATIENT, "scheduler.step(loss)", "pass", ""),
    ],
)
def test_schedule_that_counts_in_another_unit_is_found(tmp_path, made, inner, outer, rule):
    text = SCHEDULING.format(made=made, inner=inner, outer=outer)
    for name in ("schedule-unused", "lr-collapsed"):
        assert (rule == name) == bool(find(tmp_path, name, text))


REMAKING = """
def train(loader):
    model = nn.Linear(4, 2)
    for {name} in range(3):
        model = {made}
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

def main():
    train([])
"""


@pytest.mark.parametrize(
    ("name", "made", "is_found"),
    [
        ("epoch", "nn.Linear(4, 2)", True),
        ("fold", "nn.Linear(4, 2)", False),
        ("epoch", "model.to('cpu')", False),
        ("epoch", "torch.compile(model)", False),
    ],
)
def test_model_that_each_epoch_makes_anew_is_found(tmp_path, name, made, is_found):
    found = find(tmp_path, "optimizer-renewed", REMAKING.format(name=name, made=made))
    assert is_found == bool(found)


PLACING = """
def weighted(outputs, targets, beta=1.0, weights=None, reduction="mean"):
    return outputs

def train(outputs, targets, weights, beta):
    weighted({given})

def main():
    train(1, 2, 3, 4)
"""


@pytest.mark.parametrize(
    ("given", "is_found"),
    [
        ("outputs, targets, weights", True),
        ("outputs, targets, weights=weights", False),
        ("outputs, targets, beta, weights", False),
        ("outputs, targets, weights, weights=weights", False),
        ("outputs, weights", False),
    ],
)
def test_variable_in_the_place_of_another_option_is_found(tmp_path, given, is_found):
    found = find(tmp_path, "swapped-arguments", PLACING.format(given=given))
    assert is_found == bool(found)


def test_rules_of_the_text_read_no_model_that_is_given_alone():
    report = cnnprobe.diagnose(nn.Linear(4, 2), torch.randn(3, 4), trials=0)
    assert not [f for f in report.findings if f.rule in ("schedule-unused", "swapped-arguments")]
