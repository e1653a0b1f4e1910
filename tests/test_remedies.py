"""Fixes that are tried: what the finding says, in which order, within which budget, and that all is
as before.
"""

import copy
import functools
import io
import itertools
import os
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from bench.faults import CASES
from torch import nn
from torchvision.ops import sigmoid_focal_loss

import cnnprobe
from cnnprobe.diagnosis import Finding, Severity, Tried, Verdict
from cnnprobe.remedies import progress
from cnnprobe.remedies.losses import compare_losses
from cnnprobe.remedies.ordering import order_beside, order_by_trials
from cnnprobe.remedies.running import run_losses
from cnnprobe.testing import assert_healthy
from cnnprobe.training import Request, keep_request


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))


def make_batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(6, 3, 2, 2, generator=generator), torch.arange(6) % 3


def accumulate(model, optimizer, scheduler=None, random=False):
    """A step without zero_grad."""

    def train_step(inputs, targets):
        noise = torch.rand(1).item() * 0.01 if random else 0.0
        F.cross_entropy(model(inputs + noise), targets).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    return train_step


def diagnose_accumulating(**options):
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = accumulate(model, optimizer)
    return cnnprobe.diagnose(model, *make_batch(), optimizer=optimizer, train_step=step, **options)


def find(report, rule):
    return next(finding for finding in report.findings if finding.rule == rule)


def test_finding_says_what_came_of_its_fix():
    tried = find(diagnose_accumulating(), "no-zero-grad").tried
    assert Verdict.PROVEN == tried.verdict
    assert tried.own_step
    assert tried.said.startswith("0 gradients hold those of the step before (as it is, 4)")


def test_report_shows_the_tried_fix():
    text = str(diagnose_accumulating())
    assert "(tried: 0 gradients hold those of the step before" in " ".join(text.split())


def test_page_draws_the_losses_with_the_fix_and_without_it():
    page = diagnose_accumulating().to("html")
    assert (
        "loss with the fix and as it is: call optimizer.zero_grad() before loss.backward()" in page
    )


def test_tried_fix_survives_json(tmp_path):
    report = diagnose_accumulating()
    report.save(tmp_path / "report.json")
    loaded = cnnprobe.load(tmp_path / "report.json")
    assert report.findings == loaded.findings
    assert report.together == loaded.together


def test_nothing_is_tried_without_a_budget():
    assert [None] * len((report := diagnose_accumulating(trials=0)).findings) == [
        finding.tried for finding in report.findings
    ]


def test_budget_that_is_too_small_leaves_the_fix_untried():
    tried = find(diagnose_accumulating(trials=2), "no-zero-grad").tried
    assert (Verdict.UNTRIED, "the budget was used up") == (tried.verdict, tried.said)


def test_trials_take_no_more_backward_passes_than_the_budget_and_what_was_observed():
    counter = itertools.count()  # no list: what a step appends to is put back
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)
    # of the model: a loss that is asked without it costs next to nothing
    weight = next(model.parameters())
    weight.register_hook(lambda grad: grad if next(counter) >= 0 else None)

    def train_step(inputs, targets):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    given = {"optimizer": optimizer, "train_step": train_step}
    cnnprobe.diagnose(model, *make_batch(), trials=0, **given)
    observed = next(counter)
    cnnprobe.diagnose(model, *make_batch(), trials=20, **given)
    total = next(counter) - 1 - observed
    assert observed < total <= observed + 20


def is_same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(is_same, a, b))
    return a == b


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_everything_is_as_before_to_the_bit(kind):
    model = nn.Sequential(*make_net(), nn.BatchNorm1d(3), nn.Softmax(dim=1))
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer = kind(model.parameters(), lr=0.05, **options)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1)
    step = accumulate(model, optimizer, scheduler, random=True)
    step(*make_batch())  # the optimizer has a state, the parameters have gradients
    model[5].eval()

    def read():
        return copy.deepcopy(
            (
                list(model.state_dict().items()),
                [p.grad for p in model.parameters()],
                [m.training for m in model.modules()],
                optimizer.state_dict(),
                scheduler.state_dict(),
                torch.get_rng_state(),
            )
        )

    before, identities = read(), [id(p) for g in optimizer.param_groups for p in g["params"]]
    report = cnnprobe.diagnose(
        model, *make_batch(), optimizer=optimizer, scheduler=scheduler, train_step=step
    )
    assert any(finding.tried for finding in report.findings)
    assert is_same(read(), before)
    assert identities == [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert [nn.Flatten, nn.Linear, nn.ReLU, nn.Linear, nn.BatchNorm1d, nn.Softmax] == [
        type(child) for child in model
    ]
    assert not optimizer._optimizer_step_pre_hooks
    assert not model._forward_pre_hooks
    assert "forward" not in vars(model)


@pytest.mark.parametrize(
    "name",
    [
        "shift_that_shuts_most_channels",
        "second_half_of_a_table_that_is_never_sliced",
        "intersection_over_union_of_logits",
        "weights_of_classes_that_do_not_occur",
        "sigmoids_in_a_row_that_each_look_sane",
        "clipping_of_scaled_gradients",
        "layer_that_is_made_in_the_forward",
        "warm_up_that_returns_a_rate",
    ],
)
def test_sick_case_whose_fix_is_proven_is_as_before_to_the_bit(name):
    case = CASES[name].build(True)
    model = case["model"]

    def read():
        return copy.deepcopy(
            (
                list(model.state_dict().items()),
                [p.grad for p in model.parameters()],
                [m.training for m in model.modules()],
                case["optimizer"].state_dict(),
                torch.get_rng_state(),
                case["inputs"],
                case["targets"],
            )
        )

    before = read()
    report = cnnprobe.diagnose(**case)
    assert Verdict.PROVEN in [f.tried.verdict for f in report.findings if f.tried]
    assert is_same(read(), before)
    assert "forward" not in vars(model)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_fix_that_changes_nothing_is_no_repair():
    case = CASES["way_through_numpy"].build(True)
    finding = find(cnnprobe.diagnose(**case), "no-grad-path")
    assert Verdict.USELESS == finding.tried.verdict
    assert finding.advice.startswith(f"{finding.fix} (tried: ")
    assert "no-grad-path is still found" in finding.advice


def test_fix_of_the_loss_is_judged_by_the_same_steps():
    model = make_net()
    optimizer = torch.optim.SGD(model.parameters(), lr=100.0)
    report = cnnprobe.diagnose(
        model, *make_batch(), loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer
    )
    tried = find(report, "lr-too-high").tried
    assert Verdict.PROVEN == tried.verdict
    assert not tried.own_step
    assert tried.losses[0] == tried.as_it_is[0]  # from equal weights
    assert tried.losses[-1] < tried.as_it_is[-1]


def test_several_proven_fixes_are_tried_together():
    model = make_net()
    model.eval()
    model.append(nn.Dropout(0.0))
    model.append(nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = accumulate(model, optimizer)
    report = cnnprobe.diagnose(model, *make_batch(), optimizer=optimizer, train_step=step)
    assert report.together.verdict == Verdict.PROVEN
    assert {"no-zero-grad", "softmax-before-ce"} <= set(report.together.clears)


def said(rule, verdict, clears=()):
    tried = Tried(title="", verdict=verdict, clears=clears)
    return Finding(message="", fix="", rule=rule, tried=tried)


def test_proven_fixes_come_first_and_those_that_clear_the_most():
    findings = (
        said("a", Verdict.USELESS),
        said("b", Verdict.PROVEN, ("b",)),
        Finding(message="", fix="", rule="c"),
        said("d", Verdict.PROVEN, ("d", "a")),
    )
    assert ["d", "b", "c", "a"] == [finding.rule for finding in order_by_trials(findings)]


def test_order_of_what_was_tried_leaves_findings_of_the_data_at_their_places():
    proven, useless = (
        Tried(title="", verdict=verdict) for verdict in (Verdict.PROVEN, Verdict.USELESS)
    )
    findings = [
        Finding(message="", fix="", rule=name, severity=Severity.WARNING, tried=tried)
        for name, tried in (("data", None), ("a", useless), ("b", None), ("c", proven))
    ]
    assert ["data", "c", "b", "a"] == [f.rule for f in order_beside(findings, {"data"})]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((2.0, 2.0), (2.0, 0.5), "proven"),
        ((2.0, 1.99), (2.0, 1.98), "useless"),
        ((2.0, 0.5), (2.0, 1.5), "worse"),
        ((2.0, float("nan")), (2.0, 1.0), "proven"),
        ((2.0, 1.0), (2.0, float("nan")), "worse"),
    ],
)
def test_losses_decide_by_where_they_end(before, after, verdict):
    assert verdict == compare_losses(before, after).value


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_line_says_which_fix_is_tried_once_a_second_has_passed(monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    monkeypatch.setattr(progress, "PATIENCE", -1.0)
    diagnose_accumulating()
    assert "trying the fix of no-zero-grad (1 of 2) ... 0 s" in stream.getvalue()
    assert stream.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("is_terminal", [True, False])
def test_nothing_is_written_within_the_first_second_or_where_stderr_is_no_terminal(
    monkeypatch, is_terminal
):
    monkeypatch.setattr(sys, "stderr", stream := Terminal() if is_terminal else io.StringIO())
    quarters = itertools.count(0, 0.25 if is_terminal else 10)  # no real clock: it may be slow here
    clock = types.SimpleNamespace(monotonic=quarters.__next__)
    monkeypatch.setattr(progress, "time", clock)
    diagnose_accumulating(steps=2)
    assert "" == stream.getvalue()


def test_notebook_shows_the_losses_with_the_fix_and_without_it():
    shown = diagnose_accumulating()._repr_mimebundle_()["text/html"]
    assert (
        "loss with the fix and as it is: call optimizer.zero_grad() before loss.backward()" in shown
    )
    assert "with the fix" in shown


def test_assert_healthy_shows_the_tried_fix():
    model = make_net().append(nn.Softmax(dim=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    with pytest.raises(AssertionError, match="tried: loss_fn gets logits"):
        assert_healthy(model, *make_batch(), loss_fn=nn.CrossEntropyLoss(), optimizer=optimizer)


def test_loss_that_is_not_scaled_is_read_as_it_is_beside_a_scaler():
    model, scaler = make_net(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    inputs, targets = make_batch()

    def step(inputs, targets, is_scaled):
        loss = F.cross_entropy(model(inputs), targets)
        scaled = scaler.scale(loss)
        (scaled if is_scaled else loss).backward()
        scaler.step(optimizer)

    expected = F.cross_entropy(model(inputs), targets).item()
    for is_scaled in (True, False):
        request = Request(
            model=model,
            inputs=inputs,
            targets=targets,
            train_step=functools.partial(step, is_scaled=is_scaled),
        )
        with keep_request(request) as (around, _):
            assert pytest.approx(expected) == run_losses(request, around, 1)[0]


def test_hooks_that_a_trial_puts_on_parameters_are_taken_off():
    case = CASES["clipping_to_a_limit_in_millionths"].build(True)
    assert Verdict.PROVEN == find(cnnprobe.diagnose(**case), "lr-too-low").tried.verdict
    for parameter in case["model"].parameters():
        assert not parameter._post_accumulate_grad_hooks
        assert not parameter._backward_hooks


def test_layer_that_a_standard_step_calls_has_the_line_of_the_diagnosis():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 3))
    with torch.no_grad():
        model[1].bias[:17] = -10.0
    report = cnnprobe.diagnose(model, *make_batch(), loss_fn=nn.CrossEntropyLoss())
    assert {"test_remedies.py"} == {
        os.path.basename(call.source.partition(":")[0]) for call in report.trace.calls
    }


def test_fix_under_which_the_loss_rises_is_not_called_proven(monkeypatch):
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    net.register_module("spare", nn.Linear(2, 2))
    net.forward = lambda x: net[1](net[0](x))
    given = (torch.randn(8, 3, 2, 2), torch.arange(8) % 3)
    options = {
        "loss_fn": nn.CrossEntropyLoss(),
        "optimizer": torch.optim.SGD(net.parameters(), 0.1),
    }
    assert (
        Verdict.PROVEN
        is find(cnnprobe.diagnose(net, *given, **options), "unused-module").tried.verdict
    )
    monkeypatch.setattr("cnnprobe.remedies.trials.rises", lambda losses: losses[-1] < losses[0])
    tried = find(cnnprobe.diagnose(net, *given, **options), "unused-module").tried
    assert Verdict.USELESS is tried.verdict
    assert tried.said.startswith("the loss still rises; after 6 steps")


class FocalOfProbabilities(nn.Module):
    def forward(self, logits, targets):
        p = torch.sigmoid(logits)
        cross = F.binary_cross_entropy_with_logits(p, targets, reduction="none")
        sure = p * targets + (1 - p) * (1 - targets)
        return ((1 - sure) ** 2 * cross).mean()


def test_a_sigmoid_that_others_read_stays_and_the_loss_gets_what_goes_into_it():
    x, y = make_batch()
    targets = F.one_hot(y, 3).float()
    report = cnnprobe.diagnose(make_net(), x, targets, loss_fn=FocalOfProbabilities())
    (finding,) = [f for f in report.findings if "sigmoid-before-bcewl" == f.rule]
    assert Verdict.PROVEN == finding.tried.verdict
    changed = [line for line in str(report.patch).splitlines() if line[:2] in ("- ", "+ ")]
    was, now = (line[1:].strip() for line in changed)
    assert was.replace("(p, ", "(logits, ") == now
    # the line as it is written now makes it torchvision's loss
    logits = make_net()(x)
    sure = torch.sigmoid(logits) * targets + (1 - torch.sigmoid(logits)) * (1 - targets)
    scope = {"F": F, "logits": logits, "targets": targets}
    exec(now, scope)
    expected = sigmoid_focal_loss(logits, targets, alpha=-1, reduction="mean")
    torch.testing.assert_close(((1 - sure) ** 2 * scope["cross"]).mean(), expected)
