"""A monitor around the user's own training loop: it changes nothing, and sees the steps and layers
asked for.
"""

import copy
import io
import pickle
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import cnnprobe
from cnnprobe.errors import ProbeError, TargetError, UnknownNameError, UsageError
from cnnprobe.monitoring import hooks
from cnnprobe.monitoring.pace import Pace
from reference_models.models import CNNModel, SimpleCNN
from tests.support.loops import batch, is_clean, run, small


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


# -- neutrality ------------------------------------------------------------------------------------


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


def test_a_loop_that_raises_gets_its_explanation_and_the_model_stays_as_it_was():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(9, 2))
    before, drawn = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    with (
        pytest.raises(RuntimeError) as raised,
        cnnprobe.monitor(net, torch.optim.SGD(net.parameters())) as watched,
    ):
        net(torch.ones(3, 1, 6, 6)).sum().backward()
    note = raised.value.__notes__[0]
    assert (watched.explanation.diagnosis, watched.explanation.module) == (
        "linear-in-features",
        "3",
    )
    assert "set in_features=32 in '3'" in note
    assert "test_monitor.py" in note and "net(torch.ones(3, 1, 6, 6))" in note
    assert is_clean(net)
    assert torch.equal(drawn, torch.get_rng_state())
    counted = net.state_dict()["1.num_batches_tracked"]
    assert counted == before["1.num_batches_tracked"] + 1  # by the user's own forward alone


def test_a_loop_that_raises_out_of_its_forward_is_explained_too():
    net = nn.Linear(4, 3)
    with (
        pytest.raises(IndexError) as raised,
        cnnprobe.monitor(net, torch.optim.SGD(net.parameters())) as watched,
    ):
        cross_entropy(net(torch.ones(2, 4)), torch.tensor([0, 3])).backward()
    assert watched.explanation.diagnosis == "label-range"
    assert raised.value.__notes__[0].startswith("cnnprobe: label-range")


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


# -- which steps, which layers ---------------------------------------------------------------------


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


# -- asking for what makes no sense ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"every": 0}, UsageError, "observes no step"),
        ({"budget": 2}, UsageError, "not a fraction of the time"),
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
    with pytest.raises(TargetError, match="Linear is a class, not a model"):
        cnnprobe.monitor(nn.Linear)


def test_what_our_own_hooks_stumble_over_is_said_and_the_training_goes_on(monkeypatch):
    def broken(*_):
        raise RuntimeError("ours")

    monkeypatch.setattr(hooks, "hook_gradient", broken)
    history = run(small()).history
    assert 3 == history.total
    assert any("was not observed in full (RuntimeError: ours)" in note for note in history.notes)


@pytest.mark.parametrize("look", ["probe", "diagnose"])
def test_a_look_at_the_model_in_the_middle_of_the_loop_is_no_step_of_it(look):
    torch.manual_seed(0)
    model, loss_fn = (
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)),
        nn.CrossEntropyLoss(),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(6, 4), torch.arange(6) % 2
    with cnnprobe.monitor(model, optimizer, loss_fn=loss_fn) as watched:
        for _ in range(3):
            optimizer.zero_grad()
            loss_fn(model(x), y).backward()
            optimizer.step()
            if look == "probe":
                cnnprobe.probe(model, x)
            else:
                cnnprobe.diagnose(model, x, y, loss_fn=loss_fn, optimizer=optimizer)
    assert (0, 1, 2) == watched.history.steps
    assert (6.0 * 8,) * 3 == watched.history.of("0", "activation")["count"]
