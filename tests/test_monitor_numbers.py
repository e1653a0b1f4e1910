"""What a monitor measures: the numbers are torch's own."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

import cnnprobe
from cnnprobe.records.history import drift
from cnnprobe.stats import native
from tests.support.loops import batch, rules, run, small


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("engine", ["kernel", "none"])
def test_activations_gradients_parameters_and_updates_are_torchs_own(inplace, engine, monkeypatch):
    if engine == "none":
        monkeypatch.setattr(native, "load_kernel", lambda: None)
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
    assert any("a GradScaler skips steps" in note for note in history.notes)
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


def test_optimizer_that_the_loop_does_not_use_is_named_in_one_note():
    model, x = nn.Linear(4, 2), torch.randn(6, 4)
    used = torch.optim.SGD(model.parameters(), lr=0.1)
    with cnnprobe.monitor(model, torch.optim.SGD(model.parameters(), lr=0.1)) as monitor:
        for _ in range(5):
            model(x).pow(2).mean().backward()
            used.step()
            used.zero_grad()
    (note,) = [note for note in monitor.history.notes if "optimizer" in note]
    assert note.startswith("steps in which the optimizer made none: 4 (the first is 0)")
    assert note.endswith("give monitor() the optimizer that the loop uses")
