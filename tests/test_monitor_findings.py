"""What a monitor says is wrong with a training, and of what it does not complain."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cnnprobe
from cnnprobe.diagnosis import Finding, rule
from cnnprobe.errors import NonFiniteError
from cnnprobe.monitoring import judging, wiring
from cnnprobe.stats import native
from reference_models.models import CNNModel, SimpleCNN
from tests.support.loops import Root, batch, is_clean, rules, run, small


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
        f"'{event.fqn}' ({event.kind}) had put out {event.inf} Inf in its call 0 of step "
        f"{event.step}, given (8, "
    ) in raised.value.where
    assert "lower the learning rate" in raised.value.fix


@pytest.mark.parametrize("overflows", [False, True])
def test_raise_on_nan_stops_after_the_step_where_the_numbers_come_from_a_device_too_late(
    overflows, monkeypatch
):
    class Hidden(nn.Module):
        def forward(self, x):
            return x * torch.inf if overflows else x.sqrt()

    monkeypatch.setattr(
        wiring.Wiring, "glance", lambda _: 0
    )  # what a hook knows of rows that are still on a GPU
    monkeypatch.setattr(native, "load_kernel", lambda: None)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), Hidden(), nn.Linear(8, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    told = (
        r"step 0: the activation of '2' \(Hidden\) has \d+ NaN and \d+ Inf among 32 values, in "
        r"call 0"
    )
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
    (finding,) = [each for each in monitor.findings if each.rule == "graph-kept-alive"]
    assert "still held by an item of the list 'losses' in test_" in finding.message


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


def test_group_with_a_rate_of_zero_is_told_as_one_and_not_as_a_fault():
    model = small()
    groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[3].parameters()}]
    found = run(model, optimizer=torch.optim.SGD(groups, lr=0.1)).findings
    assert [("unchanged-weights", "info", "0")] == [
        (f.rule, f.severity, f.module) for f in found if f.rule == "unchanged-weights"
    ]
