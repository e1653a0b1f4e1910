"""The model, its inputs and the generators are bit for bit as they were, however the forward
ended.
"""

import contextlib
import gc
import random
import sys
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import cnnprobe
from cnnprobe.recorder import Recording, observe
from cnnprobe.recorder.assembly import no_collection
from cnnprobe.training.keeping import TensorState, kept
from cnnprobe.training.surroundings import look_around
from tests.support.models import Broken, Small, images


def state_of(model):
    """Everything that an observer could disturb, as comparable data."""
    return {
        name: {
            "class": type(module),
            "attributes": {k: v for k, v in module.__dict__.items() if not isinstance(v, dict)},
            "hooks": {
                k: tuple(v.items())
                for k, v in module.__dict__.items()
                if isinstance(v, dict) and "hook" in k
            },
            "tensors": {
                k: (
                    id(t),
                    t.detach().clone().reshape(-1).view(torch.uint8).tolist()
                    if t.numel() and not t.is_meta
                    else None,
                    t.requires_grad,
                    id(t.grad),
                    t._version,
                )
                for registry in (module._parameters, module._buffers)
                for k, t in registry.items()
                if t is not None
            },
        }
        for name, module in model.named_modules()
    }


def generators():
    return torch.get_rng_state().tolist(), random.getstate(), tuple(np.random.get_state()[1])


class Interrupted(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, x):
        self.bn(x)
        raise KeyboardInterrupt


class Rude(nn.Module):
    """Writes to its own parameters, buffers, attributes, flags and gradients as it runs."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.other = nn.Parameter(torch.ones(3))
        self.register_buffer("seen", torch.zeros(3))
        self.history = []
        self.calls = 0
        self.other.grad = torch.ones(3)

    def forward(self, x):
        with torch.no_grad():
            self.weight.mul_(2)
            self.weight.data[0] = 7
            self.other.detach().numpy()[1] = 5
        self.seen += 1
        self.history.append(x)
        self.calls += 1
        self.new = x
        self.train(not self.training)
        self.other.requires_grad_(False)
        self.weight.sum().backward()
        random.random()
        np.random.rand()
        return x * torch.rand(1)


def frozen_norm():
    model = Small().train()
    model.bn.eval()
    return model


def spectral():
    return nn.Sequential(
        nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.Dropout(0.5)
    ).train()


def renormed():
    return nn.Sequential(nn.Embedding(10, 4, max_norm=0.1), nn.Linear(4, 2))


class Ranged(nn.Module):
    """Resizes a buffer of its own in its first forward, as the observers of quantization do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("low", torch.tensor([]))

    def forward(self, x):
        y = self.conv(x)
        if not self.low.numel():
            self.low.resize_(4)
        self.low.copy_(y.detach().amin((0, 2, 3)))
        return y


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: Small().train(), images()),
        (Ranged, images()),
        (lambda: Small().eval(), images()),
        (frozen_norm, images()),
        (Broken, images()),
        (Rude, images()),
        (spectral, images()),
        (renormed, torch.tensor([[1, 2]])),
        (lambda: nn.utils.weight_norm(nn.Linear(8, 2)), images()),
        (lambda: nn.LSTM(8, 4), images()[0]),
    ],
    ids=[
        "train",
        "resized buffer",
        "eval",
        "mixed",
        "raising",
        "rude",
        "spectral norm",
        "embedding renorm",
        "weight norm",
        "lstm",
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_probing_leaves_model_input_and_generators_bit_equal(make, x):
    model = make()
    model.register_forward_hook(lambda *_: None)
    before, rng, x_before = state_of(model), generators(), x.clone()
    observe(model, (x,), {})
    assert before == state_of(model)
    assert rng == generators()
    assert torch.equal(x_before, x)


class LoadsGenerator(nn.Module):
    """Its forward is the first to ask NumPy for random numbers, and seeds them."""

    def forward(self, x):
        sys.modules["numpy.random"] = np.random
        np.random.seed(0)
        return x + np.random.rand()


def test_numpys_generator_that_the_forward_loads_is_as_new_afterwards(monkeypatch):
    before = np.random.get_state()
    np.random.seed(0)
    drawn = [np.random.rand() for _ in range(2)]
    monkeypatch.delitem(sys.modules, "numpy.random")
    report = cnnprobe.probe(LoadsGenerator(), torch.zeros(1, dtype=torch.float64))
    assert drawn[0] == report.output
    assert np.random.rand() not in drawn
    np.random.set_state(before)


def test_interrupt_goes_on_to_the_user_and_everything_is_restored():
    model = Interrupted().train()
    before, rng, depth = state_of(model), generators(), torch._C._len_torch_function_stack()
    with pytest.raises(KeyboardInterrupt) as interrupt:
        observe(model, (images(),), {})
    assert before == state_of(model)
    assert (rng, depth) == (generators(), torch._C._len_torch_function_stack())
    assert ["", "bn"] == [call.fqn for call in interrupt.value.observation.trace.calls]


def test_input_that_the_model_overwrites_is_put_back():
    model, x = nn.Sequential(nn.ReLU(inplace=True)), images()
    before = x.clone()
    observe(model, (x,), {})
    assert torch.equal(before, x)


def test_graph_of_an_earlier_forward_can_still_go_backward_after_a_probe():
    model = Small().train()
    loss = model(images()).sum()
    observe(model, (images(),), {})
    observe(Rude(), (images(),), {})
    loss.backward()
    assert model.conv.weight.grad is not None


def test_record_changes_nothing_that_the_bare_run_would_not():
    def run(watch):
        torch.manual_seed(0)
        model, numbers = Small().train(), []
        optimizer = torch.optim.Adam(model.parameters())
        for _ in range(3):
            if watch:
                with Recording(model):
                    loss = F.cross_entropy(model(images()), torch.tensor([0, 1]))
                    loss.backward()
            else:
                loss = F.cross_entropy(model(images()), torch.tensor([0, 1]))
                loss.backward()
            optimizer.step()
            numbers.append(loss.item())
        return (
            numbers,
            [t.tolist() for t in model.state_dict().values()],
            torch.get_rng_state().tolist(),
        )

    assert run(watch=True) == run(watch=False)


def test_hooks_are_gone_and_the_users_own_still_there_after_an_exception():
    model, seen = Broken(), []
    model.block[0].register_forward_hook(lambda *_: seen.append("mine"))
    for _ in range(2):
        with pytest.raises(RuntimeError), Recording(model):
            model(images())
    assert ["mine", "mine"] == seen
    assert [1, 0] == [len(m._forward_hooks) for m in (model.block[0], model.block[1])]


def test_a_model_and_its_activations_are_not_kept_alive():
    model = Small()
    activations = []
    model.conv.register_forward_hook(lambda m, a, out: activations.append(weakref.ref(out)))
    observation = observe(model, (images(),), {})
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert observation.output.shape == (2, 5)
    assert (None, None) == (alive(), activations[0]())


@pytest.mark.parametrize("statistics", [False, True])
def test_a_recorded_model_goes_with_its_last_holder_and_not_with_the_garbage_collector(statistics):
    model = Small()
    with no_collection():
        with Recording(model, statistics=statistics) as recording:
            model(images())
        alive = [weakref.ref(held) for held in (model, recording)]
        del model, recording
        assert [None, None] == [reference() for reference in alive]


def fail_in_probe(model):
    cnnprobe.probe(model, images())


def fail_in_record(model):
    with contextlib.suppress(RuntimeError), cnnprobe.record(model):
        model(images())


@pytest.mark.parametrize("run", [fail_in_probe, fail_in_record])
def test_a_model_that_raised_is_kept_no_longer_than_until_the_next_report(run):
    model, following = Broken(), Small()
    run(model)
    assert isinstance(cnnprobe.last_report(model).error, RuntimeError)
    cnnprobe.probe(following, images())
    assert cnnprobe.last_report(model).error is None
    assert "RuntimeError" == cnnprobe.last_report(model).trace.failure.kind
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None


def test_torch_itself_is_not_patched():
    before = (
        nn.Module.__call__,
        torch.add,
        torch.Tensor.add,
        nn.functional.relu,
        torch._C._len_torch_function_stack(),
    )
    observe(Small(), (images(),), {})
    assert before == (
        nn.Module.__call__,
        torch.add,
        torch.Tensor.add,
        nn.functional.relu,
        torch._C._len_torch_function_stack(),
    )


def test_users_own_function_mode_keeps_its_place_and_sees_the_same_calls():
    class Counting(torch.overrides.TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.names = []

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.names.append(func.__name__)
            return func(*args, **(kwargs or {}))

    class WithMode(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            with Counting() as self.inner:
                return torch.relu(self.conv(x))

    with Counting() as outer:
        trace = observe(WithMode(), (images(),), {}).trace
    assert "torch.relu" == trace.calls[-1].kind
    assert "conv2d" in outer.names


def test_recursion_limit_is_put_back():
    import sys

    limit = sys.getrecursionlimit()
    observe(Small(), (images(),), {})
    assert limit == sys.getrecursionlimit()


def test_values_can_be_put_back_again_where_the_data_was_exchanged_and_then_written_to():
    layer = nn.Linear(3, 2)
    place, values = layer.weight.data_ptr(), layer.weight.detach().clone()
    state = TensorState([layer.weight])
    for _ in range(2):
        layer.weight.data = layer.weight.data + 1.0
        layer.weight.data.add_(1.0)
        state.restore()
        assert torch.equal(values, layer.weight)
        layer.weight.data.mul_(2.0)
        state.restore()
        assert torch.equal(values, layer.weight)
    assert place == layer.weight.data_ptr()


class Trained(nn.Module):
    """A model with its own step, whose optimizers and average hang on it."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)
        self.optimizers = [torch.optim.Adam(self.fc.parameters(), lr=0.1)]
        self.schedule = torch.optim.lr_scheduler.StepLR(self.optimizers[0], 1)
        self.tally = Tally()

    def step(self, x, y):
        self.optimizers[0].zero_grad()
        F.cross_entropy(self.fc(x), y).backward()
        self.optimizers[0].step()
        self.schedule.step()
        self.tally.count += 1


class Tally:
    def __init__(self):
        self.count = 0


def test_diagnosis_puts_back_the_optimizer_that_hangs_on_the_model():
    model = Trained()

    def train(x, y):
        model.step(x, y)

    cnnprobe.diagnose(model, torch.randn(6, 4), torch.arange(6) % 2, train_step=train)
    assert {} == dict(model.optimizers[0].state)
    assert 0.1 == model.optimizers[0].param_groups[0]["lr"]
    assert (0, 0) == (model.schedule.last_epoch, model.tally.count)


def test_diagnosis_puts_back_the_tensors_of_a_list_that_the_step_writes_to():
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    averages = [p.detach().clone() for p in model.parameters()]
    before = [tensor.clone() for tensor in averages]

    def train(x, y):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        for average, parameter in zip(averages, model.parameters(), strict=True):
            average.lerp_(parameter.detach(), 0.1)

    cnnprobe.diagnose(model, torch.randn(6, 4), torch.arange(6) % 2, train_step=train)
    assert all(map(torch.equal, averages, before))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="no seed waits for a device in use")
def test_diagnosis_leaves_no_seed_for_a_device_that_is_not_in_use():
    waiting = list(torch.cuda._queued_calls)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 0, 1])
    cnnprobe.diagnose(model, x, y, loss_fn=F.cross_entropy, optimizer=optimizer, trials=0)
    assert [each[0] for each in waiting] == [each[0] for each in torch.cuda._queued_calls]


def test_values_that_model_and_optimizer_share_are_kept_once():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    around = look_around(None, {"model": model, "optimizer": optimizer})
    before = model.weight.detach().clone()
    with kept(around, []) as states:
        held = [each for each in states if isinstance(each, TensorState)]
        optimizer.step()
        assert not torch.equal(before, model.weight)
    assert 1 == len(held)
    assert torch.equal(before, model.weight)
    assert not optimizer.state
