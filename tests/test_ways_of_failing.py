"""What a report names when the user's own hooks, exceptions and interrupts come in between, and
what is recorded beside the usual.
"""

import asyncio
import threading

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import cnnprobe


class Raising(nn.Module):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


class Net(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), last

    def forward(self, x):
        return self.last(self.first(x))


class Mute(Exception):
    """Refuses to be read or copied."""

    def __str__(self):
        raise RuntimeError("no")

    def __deepcopy__(self, memo):
        raise RuntimeError("no")


def raise_error(*_):
    raise ValueError("from a hook")


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_failure_names_the_module_whose_own_hook_raises(register):
    model = Net(nn.Linear(4, 2))
    getattr(model.last, register)(raise_error)
    report = cnnprobe.probe(model, torch.ones(3, 4))
    assert ("ValueError", "last") == (report.trace.failure.kind, report.trace.failure.module)


def test_probe_names_the_module_when_the_exception_refuses_str():
    report = cnnprobe.probe(Net(Raising(Mute())), torch.ones(3, 4))
    assert ("Mute", "last") == (report.trace.failure.kind, report.trace.failure.module)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("verb", ["probe", "record", "probed"])
def test_last_report_knows_the_module_that_was_interrupted(verb, kind):
    model = Net(Raising(kind()))
    with pytest.raises(kind):
        if verb == "probe":
            cnnprobe.probe(model, torch.ones(3, 4))
        elif verb == "record":
            with cnnprobe.record(model):
                model(torch.ones(3, 4))
        else:
            cnnprobe.probed(model)(torch.ones(3, 4))
    failure = cnnprobe.last_report(model).trace.failure
    assert (kind.__name__, "last") == (failure.kind, failure.module)


def test_calls_on_another_thread_name_it_and_stand_below_the_call_that_made_them():
    class Threaded(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.side = nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU())

        def forward(self, x):
            x, made = self.first(x), []
            thread = threading.Thread(target=lambda: made.append(self.side(x)), name="side")
            thread.start()
            thread.join()
            return torch.relu(made[0])

    trace = cnnprobe.probe(Threaded(), torch.ones(3, 4)).trace
    rows = [(c.fqn or c.kind, c.thread, c.parent) for c in trace.calls]
    assert [
        ("Threaded", "", None),
        ("first", "", 0),
        ("torch.relu", "", 0),
        ("side", "side", 0),
        ("side.0", "side", 3),
        ("side.1", "side", 3),
    ] == rows
    assert (1, 5) == (trace["side"].inputs[0].source, trace.calls[2].inputs[0].source)


def test_gradient_edge_is_the_root_of_its_graph():
    model = nn.Linear(4, 2)
    output = model(torch.ones(3, 4))
    edge = torch.autograd.graph.get_gradient_edge(output)
    assert (
        [node.name for node in cnnprobe.autograd_graph(output, model).nodes]
        == [node.name for node in cnnprobe.autograd_graph(edge, model).nodes]
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mode_of_a_scripted_child_is_put_back():
    model = Net(torch.jit.script(nn.Sequential(nn.Linear(4, 2), nn.Dropout()))).train()
    cnnprobe.compare(model, model, torch.ones(3, 4))
    assert (True, True) == (model.training, model.last.training)


def test_output_of_more_tensors_than_are_recorded_is_told():
    class Many(nn.Module):
        def forward(self, x):
            return list(x.unbind())

    notes = cnnprobe.probe(Many(), torch.ones(2_500)).trace.notes
    assert any("more than 2,000 tensors" in note for note in notes)


def test_mapping_that_computes_when_read_is_not_read():
    from collections.abc import Mapping

    class Computed(Mapping):
        def __getitem__(self, key):
            raise AssertionError("read")

        def __iter__(self):
            return iter(["y"])

        def __len__(self):
            return 1

    class Lazy(nn.Module):
        def forward(self, x):
            return Computed()

    report = cnnprobe.probe(Lazy(), torch.ones(2))
    assert (True, "Computed") == (report.ok, report.trace[""].returned)


def test_copy_of_a_watched_model_records_nothing():
    import copy

    model = nn.Linear(4, 2)
    with cnnprobe.record(model) as recording:
        copy.deepcopy(model)(torch.ones(3, 4))
        model(torch.ones(3, 4))
    assert 1 == recording.forwards


class Reentrant(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(checkpoint(self.block, x, use_reentrant=True))


def test_reentrant_checkpoint_of_an_input_without_grad_is_told_use_reentrant():
    report = cnnprobe.diagnose(
        Reentrant(), torch.randn(8, 4), torch.arange(8) % 2, loss_fn=nn.CrossEntropyLoss()
    )
    found = next(finding for finding in report.findings if finding.rule == "no-grad-path")
    assert "use_reentrant=False" in found.fix


@pytest.mark.filterwarnings("ignore")
def test_dynamic_quantization_is_no_error_of_the_batch():
    torch.manual_seed(0)
    model = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(4, 4)).eval(), {nn.Linear}, torch.qint8
    )
    inputs = torch.randn(8, 4)
    findings = cnnprobe.diagnose(model, inputs).findings
    assert [("batch-leak", "info")] == [(f.rule, f.severity) for f in findings]


def test_statistics_of_a_view_are_read_again_after_its_base_was_written():
    class View(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x):
            y = self.fc(x)
            view = y[0]
            y.fill_(3.0)
            return view

    trace = cnnprobe.probe(nn.Sequential(View()), torch.randn(2, 4)).trace
    assert (3.0, 3.0) == (trace[""].outputs[0].stats["mean"], trace["0"].outputs[0].stats["mean"])


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(4, 3))

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


def test_segment_that_raises_leaves_no_hook_on_saved_tensors():
    report = cnnprobe.probe(Checkpointed(), torch.ones(2, 4))
    assert "block.2" == report.explanation.module
    x = torch.ones(3, requires_grad=True)
    y = x.exp()
    y.sum().backward()  # a hook that had stayed would run the segment once more, and raise
    assert torch.equal(y.detach(), x.grad)
