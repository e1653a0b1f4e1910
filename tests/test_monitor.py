"""A monitor around the user's own training loop: what it sees, that it changes nothing, and what it says."""

import copy
import io
import json
import math
import os
import pickle
import signal
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import cnnprobe
from cnnprobe.diagnosis import Finding, rule
from cnnprobe.errors import NonFiniteError, ProbeError, TargetError, UnknownNameError, UsageError
from cnnprobe.monitoring import hooks, judging
from cnnprobe.monitoring.line import TerminalLine, line
from cnnprobe.monitoring.pace import Pace
from cnnprobe.records import schema
from cnnprobe.records.history import drift
from cnnprobe.stats import native
from reference_models.models import CNNModel, SimpleCNN
from tests.support.python import run_python


def small(*, inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(4 * 36, 5)
    )


def batch(n=4):
    torch.manual_seed(1)
    return torch.randn(n, 3, 8, 8), torch.arange(n) % 5


def run(model, *, steps=3, lr=0.1, after=lambda step: None, data=None, optimizer=None, **options):
    """A plain loop under a monitor."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=lr)
    x, y = data or batch()
    with cnnprobe.monitor(model, optimizer, **options) as monitor:
        for step in range(steps):
            optimizer.zero_grad()
            monitor.loss(cross_entropy(model(x), y)).backward()
            optimizer.step()
            after(step)
    return monitor


def rules(monitor):
    return {finding.rule for finding in monitor.findings}


def is_clean(model):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# -- neutrality ------------------------------------------------------------------------------------------------------------


def trained(make, *, watched, **options):
    torch.manual_seed(0)
    model, loss_fn = make(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    monitor = cnnprobe.monitor(model, optimizer, loss_fn=loss_fn, **options)
    with monitor if watched else io.BytesIO():
        for _ in range(3):
            x, y = (
                torch.randn(4, 3, 32, 32, generator=generator),
                torch.randint(0, 10, (4,), generator=generator),
            )
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
    return model, optimizer, torch.get_rng_state(), monitor


@pytest.mark.parametrize(
    "make",
    [lambda: SimpleCNN(10), lambda: CNNModel(num_of_output_classes=10)],
    ids=["SimpleCNN", "CNNModel"],
)
@pytest.mark.parametrize(
    "options",
    [{}, {"every": 2, "histograms": True}, {"fraction": 0.5}],
    ids=["all", "some", "part"],
)
def test_the_reference_models_train_to_the_same_bits_and_nothing_is_found(make, options):
    bare, watched = trained(make, watched=False), trained(make, watched=True, **options)
    for a, b in zip(bare[0].state_dict().values(), watched[0].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    moments = [
        [t for state in run[1].state.values() for t in state.values()] for run in (bare, watched)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))
    assert torch.equal(bare[2], watched[2])
    assert ((), ()) == (watched[3].findings, watched[3].history.notes)
    assert is_clean(watched[0])


def test_a_loop_that_raises_leaves_no_hook_and_the_history_until_there():
    model = small()

    def stop(step):
        if step == 1:
            raise KeyboardInterrupt

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), cnnprobe.monitor(model, optimizer) as monitor:
        for step in range(3):
            cross_entropy(model(batch()[0]), batch()[1]).backward()
            optimizer.step()
            stop(step)
    assert (0, 1) == monitor.history.steps
    assert is_clean(model)
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_copies_and_pickles_of_a_watched_model_are_ordinary_models():
    model = small()
    copies = []
    monitor = run(
        model,
        after=lambda _: copies.extend([copy.deepcopy(model), pickle.loads(pickle.dumps(model))]),
    )
    for each in copies:
        each(batch()[0])
    assert 3 == monitor.history.total


# -- numbers against torch --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("engine", ["kernel", "none"])
def test_activations_gradients_parameters_and_updates_are_torchs_own(inplace, engine, monkeypatch):
    if engine == "none":
        monkeypatch.setattr(native, "kernel", lambda: None)
    model = small(inplace=inplace)
    oracle, (x, y) = copy.deepcopy(model), batch()
    history = run(model, steps=1).history
    conv = oracle[0](x)
    relu = torch.relu(conv)
    conv.retain_grad()
    relu.retain_grad()
    loss = cross_entropy(oracle[3](relu.flatten(1)), y)
    loss.backward()
    for fqn, tensor in (("0", conv), ("1", relu)):
        seen = history.of(fqn)
        assert [
            tensor.mean().item(),
            tensor.std(correction=0).item(),
            tensor.norm().item(),
            (tensor == 0).sum().item(),
        ] == pytest.approx([seen[name][0] for name in ("mean", "std", "norm", "zeros")], rel=1e-5)
        assert tensor.grad.norm().item() == pytest.approx(
            history.of(fqn, "gradient")["norm"][0], rel=1e-5
        )
    weight = oracle[0].weight
    assert weight.norm().item() == pytest.approx(
        history.of("0.weight", "parameter")["norm"][0], rel=1e-5
    )
    assert weight.grad.norm().item() == pytest.approx(
        history.of("0.weight", "gradient")["norm"][0], rel=1e-5
    )
    change = history.of("0.weight", "update")
    assert 0.1 * weight.grad.norm().item() == pytest.approx(change["norm"][0], rel=1e-4)
    assert change["norm"][0] / weight.norm().item() == pytest.approx(change["ratio"][0], rel=1e-5)
    total = math.sqrt(sum(p.grad.square().sum().item() for p in oracle.parameters()))
    assert [loss.item(), total, 0.1] == pytest.approx(
        [history.curve(n).values[0] for n in ("loss", "gradient norm", "learning rate")]
    )


def test_drift_is_how_far_the_mean_has_moved_in_standard_deviations_of_the_first_step():
    model, (x, _) = small(), batch()
    outputs = [copy.deepcopy(model[0])(x)]
    history = run(
        model, steps=3, lr=1.0, after=lambda _: outputs.append(copy.deepcopy(model[0])(x))
    ).history
    expected = [
        ((output.mean() - outputs[0].mean()) / outputs[0].std(correction=0)).item()
        for output in outputs[:3]
    ]
    assert expected == pytest.approx(list(drift(history.of("0"))), rel=1e-4)
    assert abs(expected[2]) > 0.01


def test_batches_that_are_accumulated_add_up_to_one_step():
    model, (x, y) = small(), batch(8)
    whole = run(copy.deepcopy(model), steps=1, data=(x, y)).history
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer) as monitor:
        for part, labels in zip(x.split(4), y.split(4), strict=True):
            (monitor.loss(cross_entropy(model(part), labels)) / 2).backward()
        optimizer.step()
    history = monitor.history
    assert 1 == history.total
    for name in ("count", "mean", "std", "min", "max", "zeros", "norm"):
        assert whole.of("1")[name] == pytest.approx(history.of("1")[name], rel=1e-5)
    assert whole.curve("loss").values == pytest.approx(history.curve("loss").values)


def test_gradients_under_a_grad_scaler_are_told_without_its_scale_and_skipped_steps_are_no_event():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(6, 8)
    optimizer, scaler = (
        torch.optim.SGD(model.parameters(), lr=0.0),
        torch.amp.GradScaler("cpu", init_scale=2.0**20),
    )
    plain = run(copy.deepcopy(model), steps=1, lr=0.0, data=(x, torch.arange(6) % 4)).history
    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(6):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.float16):
                loss = monitor.loss(cross_entropy(model(x), torch.arange(6) % 4))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
    history = monitor.history
    assert plain.of("2", "gradient")["norm"][0] == pytest.approx(
        history.of("2", "gradient")["norm"][-1], rel=2e-2
    )
    assert (None, 6) == (history.nonfinite, history.total)
    assert any("skipped by the GradScaler" in note for note in history.notes)
    assert {"unchanged-weights"} == rules(monitor)  # the rate is 0


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
        self.fc = nn.Linear(4 * 36, 5)
        self.reentrant = reentrant

    def forward(self, x):
        if self.reentrant is None:
            return self.fc(self.inner(x).flatten(1))
        return self.fc(checkpoint(self.inner, x, use_reentrant=self.reentrant).flatten(1))


@pytest.mark.parametrize("reentrant", [True, False])
def test_calls_that_checkpointing_makes_again_are_said_and_not_counted_twice(reentrant):
    def numbers(how):
        torch.manual_seed(0)
        x, y = batch()
        history = run(Checkpointed(how), steps=2, data=(x.requires_grad_(), y)).history
        return history, [
            history.of(fqn, what)["norm"]
            for fqn in ("inner.0", "inner.1", "fc")
            for what in ("activation", "gradient")
        ]

    plain, again = numbers(None), numbers(reentrant)
    assert plain[1] == again[1]
    assert () == plain[0].notes
    assert (
        "made again in backward passes by activation checkpointing; they are not counted"
        in again[0].notes[0]
    )


# -- which steps, which layers ----------------------------------------------------------------------------------------------


def test_only_every_third_step_is_observed_and_the_hooks_are_off_in_between():
    model, seen = small(), []
    monitor = run(
        model, steps=7, every=3, after=lambda _: seen.append(bool(model[0]._forward_hooks))
    )
    assert ((0, 3, 6), 7) == (monitor.history.steps, monitor.history.total)
    assert [False, False, True, False, False, True, False] == seen
    assert 7 == len(monitor.history.curve("loss").values)


def test_a_budget_observes_more_rarely_the_more_it_costs():
    def due(cost):
        pace, steps = Pace(every=1, budget=0.05), []
        for step in range(200):
            observed = pace.is_due(step)
            steps += [step] * observed
            pace.took(step, 1.0 + cost * observed, observed=observed)
        return len(steps)

    assert due(0.01) > 5 * due(1.0)
    assert 200 * 0.05 + 5 > due(1.0) > 5


def test_patterns_choose_the_layers_and_what_chooses_the_tensors():
    history = run(small(), modules=("1", "3*"), what=("activation", "update")).history
    assert {("1", "activation"), ("3", "activation")} == {
        (s.fqn, s.what) for s in history.series if s.what != "update" and "." not in s.fqn
    }
    assert {"activation", "update", "parameter"} == {s.what for s in history.series}


def test_a_fraction_reads_the_first_part_of_each_batch():
    model, (x, _) = small(), batch()
    expected = torch.relu(model[0](x[:1])).mean().item()
    seen = run(model, steps=1, fraction=0.25).history.of("1")
    assert (4 * 36, expected) == (seen["count"][0], pytest.approx(seen["mean"][0], rel=1e-5))


def test_an_evaluation_inside_the_loop_is_no_training():
    model, x = small(), batch()[0]

    def evaluate(_):
        model.eval()
        with torch.no_grad():
            model(x)
        model(100 * x)  # somebody forgot no_grad
        model.train()

    history = run(model, steps=3, after=evaluate).history
    assert 3 == history.total
    assert max(history.of("0")["max"]) < 10
    assert (4 * 4 * 36,) * 3 == history.of("0")["count"]


def test_without_an_optimizer_a_step_ends_where_the_model_is_called_again():
    model, (x, y) = small(), batch()
    with cnnprobe.monitor(model) as monitor:
        for _ in range(3):
            model.zero_grad()
            cross_entropy(model(x), y).backward()
    assert ((0, 1, 2), 3) == (monitor.history.steps, monitor.history.total)


def test_two_models_are_watched_side_by_side():
    a, b, (x, y) = small(), small(), batch()
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (a, b)]
    with (
        cnnprobe.monitor(a, optimizers[0]) as first,
        cnnprobe.monitor(b, optimizers[1], every=2) as second,
    ):
        for _ in range(3):
            for model, optimizer in zip((a, b), optimizers, strict=True):
                optimizer.zero_grad()
                cross_entropy(model(x), y).backward()
                optimizer.step()
    assert ((0, 1, 2), (0, 2)) == (first.history.steps, second.history.steps)
    assert first.history.of("0")["mean"][0::2] == pytest.approx(second.history.of("0")["mean"])


def test_a_loop_on_another_thread_is_watched():
    model, found = small(), []
    thread = threading.Thread(target=lambda: found.append(run(model)))
    thread.start()
    thread.join()
    assert (0, 1, 2) == found[0].history.steps


def test_loops_on_two_threads_at_once_are_watched_apart():
    found, ready, (x, y) = {}, threading.Barrier(2), batch()

    def train(name, model):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with cnnprobe.monitor(model, optimizer) as monitor:
            for _ in range(5):
                ready.wait(timeout=30)
                optimizer.zero_grad()
                monitor.loss(cross_entropy(model(x), y)).backward()
                optimizer.step()
        found[name] = monitor.history

    threads = [
        threading.Thread(target=train, args=(name, small())) for name in ("a", "b")
    ]  # all threads share one seed
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = run(small(), steps=5).history
    for history in found.values():
        assert (alone.steps, alone.notes) == (history.steps, history.notes)
        assert [alone.of(fqn, "gradient")["norm"] for fqn in "013"] == [
            history.of(fqn, "gradient")["norm"] for fqn in "013"
        ]


def test_a_compiled_model_is_observed_from_outside_and_said_to_be():
    model = torch.compile(small(), backend="eager")
    history = run(model).history
    assert any("compiled" in note for note in history.notes)
    assert {"_orig_mod.0.weight"} <= {s.fqn for s in history.series if s.what == "update"}
    torch.compiler.reset()


def test_nested_outputs_and_outputs_of_other_kinds_are_observed_too():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return {"logits": self.fc(x), "kept": x.long(), "name": "pair"}

    torch.manual_seed(0)
    model = Pair()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer) as monitor:
        model(torch.ones(2, 4))["logits"].sum().backward()
        optimizer.step()
    series = {
        (s.fqn, s.output): s["count"][0] for s in monitor.history.series if s.what == "activation"
    }
    assert {("fc", ""): 6.0, ("", "['logits']"): 6.0, ("", "['kept']"): 8.0} == series


# -- what is wrong ----------------------------------------------------------------------------------------------------------


class Root(nn.Module):
    """Square roots of what may be negative."""

    def forward(self, x):
        return x.sqrt()


def test_a_rule_says_itself_whether_a_monitor_judges_it(monkeypatch):
    def always(evidence):
        yield Finding(module=None, message=f"{len(evidence.steps)} steps", fix="none")

    made = [
        rule(code=f"XX00{i}", name=name, monitored=i > 0)(always)
        for i, name in enumerate(("needs-probes", "needs-steps"))
    ]
    monkeypatch.setattr(judging, "all_rules", lambda: made)
    assert [("needs-steps", "3 steps")] == [
        (found.rule, found.message) for found in run(small(), steps=3).findings
    ]


def test_the_first_nan_is_told_by_module_call_step_and_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5))
    monitor = run(model, steps=2)
    event = monitor.history.nonfinite
    assert (0, "activation", "2", 0, "Root", None) == (
        event.step,
        event.what,
        event.fqn,
        event.call,
        event.kind,
        event.seen_before,
    )
    assert event.nan > 0
    assert ((4, 8), 0) == (event.inputs[0].shape, event.inputs[0].stats["nan"])
    assert {"nan-forward"} <= rules(monitor)


def test_weights_that_are_nan_before_the_first_step_are_told_as_such():
    model = small()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = math.nan
    found = run(model, steps=2).findings[0]
    assert ("nan-parameter", "nan-forward", "0") == (found.rule, found.family, found.module)
    assert found.message.startswith("step 0: model[0].weight holds 1 NaN or Inf")


def test_what_is_not_finite_any_more_has_no_norm_and_the_tables_say_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    monitor = run(model, steps=3, lr=float("inf"))
    assert [False, True, True] == np.isnan(
        monitor.history.of("1.weight", "parameter")["norm"]
    ).tolist()
    assert [False, True, True] == np.isnan(monitor.history.of("1", "gradient")["norm"]).tolist()
    rows = [row.split() for row in str(monitor).splitlines() if row.startswith(("1.weight ", "1 "))]
    assert all(row.count("NaN") >= 3 for row in rows[:2])


def test_raise_on_nan_stops_in_the_call_that_made_it():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5))
    with pytest.raises(
        NonFiniteError,
        match=r"step 0: \d+ of the 32 values that '2' \(Root\) put out are NaN, in its call 0",
    ) as raised:
        run(model, raise_on_nan=True)
    assert raised.value.where.startswith("given (4, 8) float32, all finite, from -")
    assert is_clean(model)


def rooted(*between):
    """The square root of 0 has an infinite slope."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), *between, Root(), nn.Linear(8, 5))
    with torch.no_grad():
        model[1].weight.fill_(0.0)
        model[1].bias.fill_(0.0)
    return model


def test_raise_on_nan_stops_before_the_optimizer_uses_the_gradient():
    model = rooted()
    with pytest.raises(
        NonFiniteError,
        match=r"step 0: the gradient of '1' \(Linear\) has 0 NaN and 32 Inf among 32 values",
    ) as raised:
        run(model, raise_on_nan=True)
    assert "the optimizer has not stepped" in raised.value.where
    assert all(p.isfinite().all() for p in model.parameters())
    monitor = run(rooted(), steps=2)
    finding = monitor.findings[0]  # later ones follow from it: the next step's loss is NaN
    assert ("nan-backward", "2") == (finding.rule, finding.module)
    assert finding.message.startswith("step 0: the loss is ")


def test_an_infinite_gradient_that_a_relu_stops_is_no_event():
    assert run(rooted(nn.ReLU()), steps=2, raise_on_nan=True).history.nonfinite is None


def test_raise_on_nan_stops_at_the_loss():
    model, (x, _) = small(), batch()
    with (
        pytest.raises(NonFiniteError, match="step 0: the loss is inf"),
        cnnprobe.monitor(model, raise_on_nan=True) as monitor,
    ):
        monitor.loss(model(x).sum() / torch.zeros(()))
    assert ("loss", 1) == (monitor.ledger.nonfinite.what, monitor.ledger.nonfinite.inf)


def exploding(monitor, model, optimizer, steps, n=8):
    """A plain loop on new random images at each step."""
    generator = torch.Generator().manual_seed(1)
    with monitor:
        for _ in range(steps):
            x, y = (
                torch.randn(n, 3, 32, 32, generator=generator),
                torch.randint(0, 10, (n,), generator=generator),
            )
            optimizer.zero_grad()
            monitor.loss(cross_entropy(model(x), y)).backward()
            optimizer.step()
    return monitor


def test_raise_on_nan_names_the_layer_that_overflowed_before():
    torch.manual_seed(0)
    model = SimpleCNN(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    monitor = cnnprobe.monitor(model, optimizer, raise_on_nan=True)
    with pytest.raises(NonFiniteError, match=r"step \d: ") as raised:
        exploding(monitor, model, optimizer, steps=20)
    event = monitor.history.nonfinite
    assert ("activation", 0) == (event.what, event.nan)
    assert (
        f"'{event.fqn}' ({event.kind}) had put out {event.inf} Inf in its call 0 of step {event.step}, given (8, "
        in raised.value.where
    )
    assert "lower the learning rate" in raised.value.fix


@pytest.mark.parametrize("overflows", [False, True])
def test_raise_on_nan_stops_after_the_step_where_the_numbers_come_from_a_device_too_late(
    overflows, monkeypatch
):
    class Hidden(nn.Module):
        def forward(self, x):
            return x * torch.inf if overflows else x.sqrt()

    monkeypatch.setattr(
        hooks.LayerHook, "glance", staticmethod(lambda _: 0)
    )  # what a hook knows of rows that are still on a GPU
    monkeypatch.setattr(native, "kernel", lambda: None)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Hidden(), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = r"step 0: the activation of '2' \(Hidden\) has \d+ NaN and \d+ Inf among 32 values, in call 0"
    with (
        pytest.raises(NonFiniteError, match=told) as raised,
        cnnprobe.monitor(model, optimizer, raise_on_nan=True),
    ):
        model(batch()[0]).sum().backward()
        for parameter in model.parameters():
            parameter.grad.nan_to_num_(0, 0, 0)  # so that the gradients stop nothing earlier
        optimizer.step()
    assert "the training loop; the optimizer has stepped" == raised.value.where
    assert "on the CPU" in raised.value.fix


def test_channels_that_never_fire_are_told_after_a_window():
    model = small()
    with torch.no_grad():
        model[0].bias[2] = -100.0
    short, long = (
        run(model, steps=3, window=4, lr=0.0).history,
        run(model, steps=5, window=4, lr=0.0).history,
    )
    assert () == short.dead
    (dead,) = long.dead
    assert ("1", (2,), 4, 1, 4) == (dead.fqn, dead.channels, dead.of, dead.first, dead.last)
    assert (1.0,) * 5 == long.of("1")["dead"]


def test_graphs_that_a_list_keeps_are_found_with_their_keeper():
    model, (x, y), losses = small(), batch(), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(4):
            optimizer.zero_grad()
            losses.append(cross_entropy(model(x), y))
            losses[-1].backward()
            optimizer.step()
    kept = monitor.history.kept
    assert [0, 1, 2, 3] == [graph.step for graph in kept]
    assert any("losses" in keeper for keeper in kept[0].keepers)
    assert {"graph-kept-alive"} <= rules(monitor)


def test_the_rules_find_what_is_wrong_with_a_loop():
    assert {"update-ratio"} <= rules(run(small(), lr=100.0))
    dead = small()
    with torch.no_grad():
        dead[0].bias.fill_(-100.0)
    assert {"dead-relu"} <= rules(run(dead))
    assert {"eval-mode-in-train"} <= rules(
        run(nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.Dropout()).eval())
    )
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    assert {"lr-collapsed"} <= rules(
        run(model, steps=12, optimizer=optimizer, after=lambda _: scheduler.step())
    )
    deep = nn.Sequential(
        nn.Flatten(),
        nn.Linear(192, 8),
        *[m for _ in range(12) for m in (nn.Sigmoid(), nn.Linear(8, 8))],
    )
    assert {"vanishing-gradient"} <= rules(run(deep))
    huge = small()
    with torch.no_grad():
        huge[3].weight.mul_(1e6)
    assert {"exploding-gradient"} <= rules(run(huge, lr=1e-9))


def test_gradients_that_are_never_cleared_are_found():
    model, (x, y) = small(), batch()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(3):
            cross_entropy(model(x), y).backward()
            optimizer.step()
    assert {"no-zero-grad"} == rules(monitor)


def test_a_loss_that_does_not_fall_or_diverges_is_found_and_a_noisy_one_that_falls_is_not():
    def judged(losses):
        model = nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        with cnnprobe.monitor(model, optimizer, every=50) as monitor:
            for value in losses:
                optimizer.zero_grad()
                out = model(torch.ones(1, 2)).sum()
                monitor.loss(out * 0 + value)
                out.backward()
                optimizer.step()
        return rules(monitor) & {"loss-not-decreasing", "divergence"}

    noise = np.random.default_rng(0).normal(0, 0.2, 150)
    assert {"loss-not-decreasing"} == judged(2.3 + np.abs(noise[:1]) + noise * 1e-3)
    assert {"divergence"} <= judged(np.geomspace(1, 1e4, 150))
    assert set() == judged(2.3 * 0.99 ** np.arange(150) + noise)


def test_a_run_that_explodes_is_told_from_the_loss_that_it_began_with():
    torch.manual_seed(0)
    model = SimpleCNN(10)
    optimizer = torch.optim.SGD(model.parameters(), lr=2.0)
    monitor = exploding(cnnprobe.monitor(model, optimizer), model, optimizer, steps=20)
    finding = next(f for f in monitor.findings if f.rule == "divergence")
    assert finding.message.startswith(
        f"the loss went from {monitor.history.curve('loss').values[0]:.3g} to nan in "
    )
    assert finding.fix == "lower the learning rate of optimizer, and clip the gradients"


@pytest.mark.parametrize("end", [2.3, 1.0])
def test_a_loss_that_explodes_and_comes_down_to_no_better_has_diverged(end):
    losses = [2.3, 23.0, 3e4, 1e24, *[end] * 296]
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    with cnnprobe.monitor(model, optimizer, every=100) as monitor:
        for value in losses:
            optimizer.zero_grad()
            out = model(torch.ones(1, 2)).sum()
            monitor.loss(out * 0 + value)
            out.backward()
            optimizer.step()
    told = [f.message for f in monitor.findings if f.rule == "divergence"]
    assert (["2.3 to 1e+24 in 4 steps"] if end > 2 else []) == [
        message[message.index("2.3 to") :].partition(" (")[0] for message in told
    ]


@pytest.mark.parametrize(
    "make",
    [lambda: SimpleCNN(10), lambda: CNNModel(num_of_output_classes=10)],
    ids=["SimpleCNN", "CNNModel"],
)
def test_a_reference_model_that_learns_for_a_hundred_steps_is_not_complained_of(make):
    torch.manual_seed(0)
    model, loss_fn, colours = make(), nn.CrossEntropyLoss(), torch.randn(10, 3, 1, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    with cnnprobe.monitor(model, optimizer) as monitor:
        for _ in range(100):
            y = torch.randint(0, 10, (8,))
            optimizer.zero_grad()
            loss_fn(model(colours[y] + torch.randn(8, 3, 32, 32) / 4), y).backward()
            optimizer.step()
    losses = monitor.history.curve("loss").values
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    assert () == monitor.findings


# -- where it is written ----------------------------------------------------------------------------------------------------


def test_a_journal_is_read_back_as_the_history_it_is(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5))
    monitor = run(model, steps=5, every=2, histograms=True, log=tmp_path / "run.jsonl")
    report = cnnprobe.load(tmp_path / "run.jsonl")
    assert monitor.history == report.history
    assert schema.to_plain(monitor.trace) == schema.to_plain(report.trace)
    assert monitor.findings == report.findings
    lines = (tmp_path / "run.jsonl").read_text().splitlines()
    assert all(json.loads(line, parse_constant=pytest.fail) for line in lines)


KILLED = """
    import os, signal, sys, torch, cnnprobe
    from torch import nn
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, optimizer, log=sys.argv[1]):
        for step in range(100):
            optimizer.zero_grad()
            model(torch.ones(3, 4)).sum().backward()
            optimizer.step()
            if step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_killed_run_keeps_what_it_had_written(tmp_path):
    path = tmp_path / "run.jsonl"
    ended = run_python("-c", textwrap.dedent(KILLED), str(path))
    assert -signal.SIGKILL == ended.returncode
    history = cnnprobe.load(path).history
    assert tuple(range(7)) == history.steps
    assert any("did not come to its end" in note for note in history.notes)
    with path.open("a") as file:
        file.write('{"step": 7, "cur')  # a line that the kill cut off
    assert history == cnnprobe.load(path).history


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "no complete JSON"), ('{"schema_version": 1, "type": "Report"}\n', "no Journal"), (None, "cannot be read"), ("GOOD{\n{}\n", "is no JSON"), ('GOOD{"step": 1}\n', "damaged")],
)  # fmt: skip
def test_what_is_no_journal_is_refused(tmp_path, text, message):
    path = tmp_path / "run.jsonl"
    if text is not None:
        path.write_text(
            text.replace("GOOD", '{"schema_version": 1, "type": "Journal", "model": "Net"}\n')
        )
    with pytest.raises(ProbeError, match=message):
        cnnprobe.load(path)


def test_tensorboards_writer_gets_scalars_and_histograms():
    got = []
    writer = types.SimpleNamespace(
        add_scalar=lambda tag, value, step: got.append((tag, step)),
        add_histogram_raw=lambda tag, **values: got.append(
            (tag, len(values["bucket_limits"]) - len(values["bucket_counts"]))
        ),
        flush=lambda: got.append(("flush", 0)),
    )
    run(small(), steps=2, histograms=True, tensorboard=writer)
    assert {
        ("training/loss", 1),
        ("activation zeros/1", 0),
        ("update ratio/0.weight", 1),
        ("activation/0", 0),
        ("flush", 0),
    } <= set(got)


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip(
        "tensorboard", reason="TensorBoard is not installed: its files were NOT read back"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = run(small(), steps=3, histograms=True, tensorboard=tmp_path).history
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    points = [(each.step, each.value) for each in events.Scalars("training/loss")]
    assert list(zip(history.steps, history.curve("loss").values, strict=True)) == [
        (step, pytest.approx(value)) for step, value in points
    ]
    spread = events.Histograms("activation/1")[-1].histogram_value
    seen = history.of("1")
    assert (seen["count"][-1], seen["max"][-1]) == (spread.num, pytest.approx(spread.max))
    assert seen["count"][-1] == sum(spread.bucket)


def test_without_tensorboard_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TargetError) as raised:
        cnnprobe.monitor(small(), tensorboard=tmp_path)
    assert raised.value.fix.startswith("pip install tensorboard")


def test_a_line_of_progress_is_written_over_itself_in_a_terminal_and_nowhere_else(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "60")
    terminal, file = Terminal(), io.StringIO()
    monitor = run(small())
    for stream in (terminal, file):
        line = TerminalLine(stream)
        line.wrote(monitor, 2, observed=True)
        line.close(monitor)
    assert "" == file.getvalue()
    assert terminal.getvalue().startswith("\rstep 2, loss ")
    assert terminal.getvalue().endswith("\n")
    assert all(len(part) <= 60 for part in terminal.getvalue().split("\r"))


def test_the_line_says_what_is_wrong_first_and_leaves_whole_parts_out_where_there_is_no_room():
    monitor = run(
        nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Root(), nn.Linear(8, 5)), steps=2, every=2
    )
    whole, short = line(monitor, 1), line(monitor, 1, 79)
    assert whole.startswith(
        "step 1, NOT FINITE since step 0: activation of '2', loss NaN, lr 0.1000, "
    )
    assert whole.endswith(" steps/s, 1 in 2 observed")
    assert len(short) <= 79
    assert whole.startswith(f"{short}, ")


def test_a_report_of_a_run_is_saved_loaded_and_shown(tmp_path):
    monitor = run(small())
    monitor.save(tmp_path / "run.json")
    assert monitor.report == cnnprobe.load(tmp_path / "run.json")
    assert "3 training steps: 0 to 2" in str(monitor)
    assert "<Monitor of Sequential: 3 steps, 3 observed>" == repr(monitor)


# -- asking for what makes no sense -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"every": 0}, UsageError, "observes no step"),
        ({"budget": 2}, UsageError, "no fraction of the time"),
        ({"fraction": 0}, UsageError, "reads nothing"),
        ({"window": 1}, UsageError, "too short"),
        ({"what": ("activations",)}, UnknownNameError, "nothing named 'activations'"),
        ({"optimizer": "Adam"}, TargetError, "str is not a torch.optim.Optimizer"),
        ({"log": "/no/such/folder/run.jsonl"}, ProbeError, "cannot be written"),
    ],
)
def test_a_wrong_request_is_refused_before_anything_is_hooked(options, kind, message):
    model = small()
    with pytest.raises(kind, match=message):
        cnnprobe.monitor(model, **options)
    assert is_clean(model)
    with pytest.raises(TargetError, match=r"is not a torch\.nn\.Module"):
        cnnprobe.monitor(nn.Linear)


def test_what_our_own_hooks_stumble_over_is_said_and_the_training_goes_on(monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(hooks, "hook_gradient", broken)
    history = run(small()).history
    assert 3 == history.total
    assert any("was not observed in full (RuntimeError: ours)" in note for note in history.notes)
