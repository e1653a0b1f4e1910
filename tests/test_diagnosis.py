"""What `diagnose` promises: everything as before, root causes first, suppression with a reason."""

import copy
import cProfile
import gc
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from bench.parts import Classifier, images, labels
from torch import nn

import cnnprobe
from cnnprobe.errors import TargetError


def trained(optimizer_class, **options):
    model = Classifier()
    optimizer = optimizer_class(model.parameters(), **options)
    F.cross_entropy(model(images()), labels()).backward()
    optimizer.step()
    return model, optimizer


def frozen_copy(value):
    return copy.deepcopy(value)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_diagnose_leaves_model_optimizer_and_gradients_as_they_were(kind):
    model, optimizer = trained(kind, lr=0.01)
    state, optimizer_state = frozen_copy(model.state_dict()), frozen_copy(optimizer.state_dict())
    grads = [(p.grad, p.grad.clone()) for p in model.parameters()]
    cnnprobe.diagnose(model, images(), labels(), loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)
    assert same(state, model.state_dict())
    assert same(optimizer_state, optimizer.state_dict())
    assert all(
        p.grad is grad and torch.equal(grad, kept)
        for p, (grad, kept) in zip(model.parameters(), grads)
    )


def test_diagnose_leaves_random_generators_modes_and_hooks_as_they_were():
    model = Classifier().train()
    model.backbone.eval()
    before, modes = torch.get_rng_state(), [m.training for m in model.modules()]
    cnnprobe.diagnose(
        model,
        images(),
        labels(),
        loss_fn=nn.CrossEntropyLoss(),
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
    )
    assert torch.equal(before, torch.get_rng_state())
    assert modes == [m.training for m in model.modules()]
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert sys.getprofile() is None


def test_diagnose_leaves_the_variables_of_a_train_step_as_they_were():
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    history, count = [], 0

    def train_step(x, y):
        nonlocal count
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        history.append(loss.item())
        count += 1

    before = scheduler.state_dict()
    cnnprobe.diagnose(model, images(), labels(), train_step=train_step, optimizer=optimizer)
    assert ([], 0) == (history, count)
    assert before == scheduler.state_dict()
    assert 0.1 == optimizer.param_groups[0]["lr"]


def test_diagnose_restores_everything_when_the_step_raises():
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = frozen_copy(model.state_dict())

    def train_step(x, y):
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        raise ValueError("enough")

    report = cnnprobe.diagnose(
        model, images(), labels(), train_step=train_step, optimizer=optimizer
    )
    assert isinstance(report.error, ValueError)
    assert same(state, model.state_dict())


def test_crash_of_the_forward_is_a_finding():
    model = nn.Sequential(nn.Flatten(), nn.Linear(99, 4))
    report = cnnprobe.diagnose(model, images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert ("1", "error") == (report.findings[0].module, report.findings[0].severity)
    assert not report.ok


def test_batch_of_a_train_step_is_the_inputs_alone_where_there_are_no_targets():
    model = Classifier()

    def reconstructs(batch):
        model(batch).square().mean().backward()

    def classifies(batch):
        x, y = batch
        F.cross_entropy(model(x), y).backward()

    alone = cnnprobe.diagnose(model, images(), train_step=reconstructs, trials=0)
    pair = cnnprobe.diagnose(model, images(), labels(), train_step=classifies, trials=0)
    assert (alone.error, pair.error) == (None, None)


def test_train_step_of_a_class_is_observed():
    class Trainer:
        def __init__(self):
            self.net = Classifier()
            self.opt = torch.optim.SGD(self.net.parameters(), lr=0.05)

        def step(self, x, y):
            F.cross_entropy(self.net(x), y).backward()
            self.opt.step()

    trainer = Trainer()
    report = cnnprobe.diagnose(trainer.net, images(), labels(), train_step=trainer.step)
    assert ["no-zero-grad"] == [f.rule for f in report.findings]
    assert "self.opt.zero_grad()" in report.findings[0].fix


def test_fix_is_in_the_users_own_names():
    my_net = nn.Sequential(
        nn.Flatten(), nn.Linear(768, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(1)
    )
    finding = cnnprobe.diagnose(my_net, images(), labels(), loss_fn=nn.CrossEntropyLoss()).findings[
        0
    ]
    assert "my_net[4]" in finding.fix


def test_findings_survive_saving_and_loading(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 4), nn.Softmax(1))
    report = cnnprobe.diagnose(model, images(), labels(), loss_fn=nn.CrossEntropyLoss())
    report.save(tmp_path / "report.json")
    assert report.findings == cnnprobe.load(tmp_path / "report.json").findings != ()


def test_lazy_model_is_refused():
    with pytest.raises(TargetError, match="lazy"):
        cnnprobe.diagnose(nn.LazyLinear(3), torch.ones(2, 4))


def test_model_without_parameters_is_said_to_have_nothing_to_train():
    report = cnnprobe.diagnose(nn.Flatten(), images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert ("detached-graph", "the model has no parameters: there is nothing to train") == (
        report.explanation.diagnosis,
        report.explanation.message,
    )


def test_crash_of_the_forward_is_explained_with_repairs():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(392, 4))
    report = cnnprobe.diagnose(model, images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert ("missing-flatten", "forward") == (
        report.explanation.diagnosis,
        report.explanation.stage,
    )
    assert report.explanation.diagnosis == report.findings[0].rule
    assert "tried: the forward passes" in report.explanation.repairs[0].tried
    assert 1 == str(report).count("error: missing-flatten")


def test_crash_in_a_train_step_that_prepares_its_inputs_is_explained_with_what_the_model_was_given():  # noqa: E501
    def train_step(model, x, y):
        F.cross_entropy(model(x.permute(0, 2, 3, 1)), y).backward()

    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(392, 4))
    report = cnnprobe.diagnose(model, images(), labels(), train_step=train_step)
    assert "nhwc-input" == report.explanation.diagnosis


def test_crash_of_the_loss_is_explained():
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
    report = cnnprobe.diagnose(model, images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert ("label-range", "loss") == (report.explanation.diagnosis, report.trace.failure.stage)


class Counting(nn.Module):
    """Keeps the state of its recurrent layer from one batch to the next."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 16, batch_first=True)
        self.fc = nn.Linear(16, 3)
        self.state = None

    def forward(self, x):
        output, state = self.rnn(x, self.state)
        self.state = tuple(part.detach() for part in state)
        return self.fc(output[:, -1])


def test_state_that_is_kept_from_batch_to_batch_is_not_called_random():
    torch.manual_seed(0)
    batch = torch.randn(6, 5, 8), torch.arange(6) % 3
    report = cnnprobe.diagnose(Counting(), *batch, loss_fn=nn.CrossEntropyLoss())
    assert "eval-nondeterminism" not in [finding.rule for finding in report.findings]


def test_tuple_that_the_standard_step_hands_to_a_stock_loss_is_the_crash_that_it_is():
    class Two(Classifier):
        def forward(self, x):
            return super().forward(x), x

    report = cnnprobe.diagnose(Two(), images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert "not-a-tensor" in (report.explanation.diagnosis, report.explanation.family)


def test_who_keeps_the_graphs_of_earlier_steps_is_named():
    model, losses = Classifier(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(model, inputs, targets):
        optimizer.zero_grad()
        losses.append(F.cross_entropy(model(inputs), targets))
        losses[-1].backward()
        optimizer.step()

    report = cnnprobe.diagnose(model, images(), labels(), optimizer=optimizer, train_step=step)
    (finding,) = [each for each in report.findings if each.rule == "graph-kept-alive"]
    held = "held by an item of the list 'losses' in test_who_keeps_the_graphs_of_earlier_steps_is"
    assert held in finding.message
    assert [] == losses


def test_graph_that_only_a_cycle_holds_is_not_called_kept_alive():
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

    def step(model, inputs, targets):
        loss = F.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle = [loss]
        cycle.append(cycle)

    gc.disable()
    try:
        report = cnnprobe.diagnose(model, images(), labels(), optimizer=optimizer, train_step=step)
    finally:
        gc.enable()
    assert "graph-kept-alive" not in [finding.rule for finding in report.findings]


def test_a_training_step_is_diagnosed_under_cprofile_which_goes_on_afterwards():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    profile = cProfile.Profile()
    profile.enable()
    try:
        report = cnnprobe.diagnose(
            model,
            torch.randn(8, 4),
            torch.arange(8) % 2,
            loss_fn=nn.CrossEntropyLoss(),
            optimizer=optimizer,
        )
        torch.nn.functional.threshold(torch.ones(2), 0.5, 0.0)
    finally:
        profile.disable()
    assert report.error is None
    assert "_threshold" in {
        entry.code.co_name for entry in profile.getstats() if not isinstance(entry.code, str)
    }


def test_cut_loss_is_explained_by_the_crash_and_stands_below_it():
    def train_step(model, x, y):
        F.cross_entropy(model(x).detach(), y).backward()

    report = cnnprobe.diagnose(Classifier(), images(), labels(), train_step=train_step)
    found = {f.rule: f.follows_from for f in report.findings}
    assert "detached-graph" == next(iter(found))
    assert ("detached-graph",) == found["loss-detached"]


class OutputsDict(nn.Module):
    def __init__(self, key):
        super().__init__()
        self.key, self.net = key, Classifier()

    def forward(self, x):
        return {"aux": x.mean(), self.key: self.net(x)}


@pytest.mark.parametrize("key", ["out", "logits"])
def test_report_notes_which_part_of_a_dict_the_loss_was_given(key):
    report = cnnprobe.diagnose(OutputsDict(key), images(), labels(), loss_fn=nn.CrossEntropyLoss())
    assert any(f"the loss was given output['{key}']: " in note for note in report.trace.notes)


def test_no_part_is_noted_where_the_output_is_a_tensor_or_the_step_is_the_users_own():
    def train_step(model, x, y):
        F.cross_entropy(model(x)["out"], y).backward()

    reports = (
        cnnprobe.diagnose(Classifier(), images(), labels(), loss_fn=nn.CrossEntropyLoss()),
        cnnprobe.diagnose(OutputsDict("out"), images(), labels(), train_step=train_step),
    )
    assert not any("the loss was given" in note for r in reports for note in r.trace.notes)


class Excited(nn.Module):
    """A ReLU in place whose output is read twice, and nothing that is overwritten."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 3)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(x)))
        return self.fc((x * x.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)))


def test_running_statistics_of_a_pass_in_train_mode_are_no_overwritten_skip():
    same_images = torch.rand(1, 3, 8, 8).repeat(4, 1, 1, 1)  # then train mode is looked at too
    report = cnnprobe.diagnose(
        Excited(), same_images, torch.tensor([0, 1, 2, 0]), loss_fn=nn.CrossEntropyLoss()
    )
    assert "inplace-skip" not in [finding.rule for finding in report.findings]


class Variable:
    """What a variable of the caller holds."""


def diagnose_and_leave(kind):
    """Diagnose within a function, and say what of its variables is there afterwards."""
    held, model = Variable(), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer, batch = (
        torch.optim.SGD(model.parameters(), 0.1),
        (torch.randn(6, 4), torch.arange(6) % 3),
    )

    def train_step(inputs, targets):
        if kind != "no zero_grad":
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    if kind == "standard step":
        cnnprobe.diagnose(model, *batch, loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)
    else:
        cnnprobe.diagnose(model, *batch, train_step=train_step, optimizer=optimizer)
    return weakref.ref(held), weakref.ref(model)


@pytest.mark.parametrize("kind", ["standard step", "own step", "no zero_grad"])
def test_variables_of_the_caller_do_not_wait_for_the_garbage_collector(kind):
    gc.collect()
    gc.disable()
    try:
        assert [None, None] == [reference() for reference in diagnose_and_leave(kind)]
    finally:
        gc.enable()
