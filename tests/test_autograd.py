"""The walk behind an output: held against an independent breadth-first walk, torch's own hooks, and
hand arithmetic.
"""

import gc
import textwrap
import threading
import weakref
from collections import deque

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import cnnprobe
from cnnprobe.recorder import Recording
from cnnprobe.recorder.autograd import walk, walking
from tests.support.graphs_of_autograd import Twice, leaf, needs_saved
from tests.support.python import run_python


def breadth_first(*roots):
    """(nodes, edges) by name, written apart from the product: a queue and two counters."""
    queue, seen, names, edges = deque(roots), set(roots), [], []
    while queue:
        node = queue.popleft()
        names.append(node.name())
        for i, (below, output) in enumerate(node.next_functions):
            if below is not None:
                edges.append((below.name(), node.name(), i, output))
                if below not in seen:
                    seen.add(below)
                    queue.append(below)
    return sorted(name.rpartition("::")[2] for name in names), sorted(
        (a.rpartition("::")[2], b.rpartition("::")[2], i, o) for a, b, i, o in edges
    )


def custom_function():
    return sum(Twice.apply(leaf(3), leaf(3)))


def several_outputs_and_lists():
    parts = torch.stack([leaf(4, 4), leaf(4, 4)]).unbind(0)
    values, _ = parts[0].max(0)
    return values.sum() + parts[1].split(2)[1].sum()


def views():
    return leaf(4, 4).t()[1:, None].expand(3, 2, 4).reshape(-1).view(2, 12).transpose(0, 1).sum()


def in_place_on_a_view():
    x = leaf(6).clone()
    x[2:4].mul_(2)
    x[0] = 1
    return x.sum()


def double_backward():
    x = leaf(3)
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    return (g**2).sum()


def checkpoints():
    layer = nn.Linear(3, 3)
    x = leaf(2, 3)
    return (
        checkpoint(layer, x, use_reentrant=False).sum()
        + checkpoint(layer, x, use_reentrant=True).sum()
    )


def sparse():
    return torch.sparse.mm(torch.eye(3).to_sparse().requires_grad_(), leaf(3, 2)).sum()


def complex_numbers():
    return torch.fft.ifft(torch.fft.fft(leaf(8)) * 1j).abs().sum()


def exponentially_many_paths():
    x = leaf(2)
    for _ in range(60):
        x = x * x + x
    return x.sum()


def recurrent():
    return nn.LSTM(3, 4, 2)(torch.ones(5, 1, 3))[0].sum()


def a_leaf_itself():
    return leaf(3)


GRAPHS = [
    custom_function, several_outputs_and_lists, views, in_place_on_a_view, double_backward,
    checkpoints, sparse, complex_numbers, exponentially_many_paths, recurrent,
]  # fmt: skip


@pytest.mark.parametrize("build", GRAPHS)
def test_walk_finds_the_nodes_and_edges_of_an_independent_walk(build):
    output = build()
    nodes, edges = breadth_first(output.grad_fn)
    graph = walk(output)
    assert nodes == sorted(node.name.rpartition("::")[2] for node in graph.nodes)
    named = [node.name.rpartition("::")[2] for node in graph.nodes]
    assert edges == sorted(
        (named[edge.start], named[edge.end], edge.input, edge.output) for edge in graph.edges
    )


@pytest.mark.parametrize("build", GRAPHS)
def test_walk_puts_every_node_after_those_whose_values_it_uses(build):
    graph = walk(build())
    assert all(edge.start < edge.end for edge in graph.edges)
    assert list(range(len(graph.nodes))) == [node.id for node in graph.nodes]


def test_walk_of_a_leaf_gives_its_one_node():
    assert [("input", (3,))] == [(node.kind, node.shape) for node in walk(a_leaf_itself()).nodes]


def test_walk_of_a_nested_output_starts_at_each_tensor_once():
    x = leaf(3)
    output = {"a": [x * 2, (x + 1).detach()], "b": (x.sin(), x)}
    graph = walk(output, saved=False)
    assert {"MulBackward0", "SinBackward0", "AccumulateGrad"} == {
        graph.nodes[i].name for i in graph.outputs
    }
    assert ("1 of 4 output tensors have no graph: they do not require grad",) == graph.notes


def test_walk_keeps_no_tensor_alive():
    output = several_outputs_and_lists()
    gone = weakref.ref(output)
    graph = walk(output, saved=True)
    del output
    assert gone() is None and len(graph.nodes) > 3


def test_walk_changes_no_gradient():
    layer = nn.Linear(3, 2)
    x = torch.ones(4, 3)
    layer(x).sum().backward()
    expected, layer.weight.grad = layer.weight.grad, None
    output = layer(x).sum()
    walk(output, model=layer)
    output.backward()
    assert torch.equal(expected, layer.weight.grad)


class Shared(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = nn.Linear(4, 4)
        self.again.weight = self.first.weight

    def forward(self, x):
        return self.again(torch.relu(self.first(self.first(x)))) + x


def test_walk_names_each_node_by_the_module_call_that_made_it():
    model = Shared()
    with Recording(model, statistics=False) as recording:
        output = model(torch.ones(2, 4))
    graph = walk(output, model=model, trace=recording.trace)
    made = [(node.name, node.module, node.call) for node in graph.nodes if node.kind == "operation"]
    linear = ["TBackward0", "AddmmBackward0"]
    expected = [(name, "first", k) for k in (0, 1) for name in linear]
    expected += (
        [("ReluBackward0", "", 0)]
        + [(name, "again", 0) for name in linear]
        + [("AddBackward0", "", 0)]
    )
    assert expected == made


def test_walk_gives_the_users_line_of_each_operation():
    model = Shared()
    with Recording(model, statistics=False) as recording:
        output = model(torch.ones(2, 4))
    graph = walk(output, model=model, trace=recording.trace)
    line = Shared.forward.__code__.co_firstlineno + 1
    relu = next(node for node in graph.nodes if node.name == "ReluBackward0")
    assert relu.source.endswith(f"test_autograd.py:{line}")


def test_walk_names_a_tied_parameter_once():
    model = Shared()
    graph = walk(model(torch.ones(2, 4)), model=model)
    assert ["again.bias", "first.bias", "first.weight"] == sorted(
        node.parameter for node in graph.nodes if node.parameter
    )


def test_walk_without_a_trace_tells_modules_by_their_parameters():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    graph = walk(model(torch.ones(1, 1, 6, 6)), model=model)
    modules = {node.name: node.module for node in graph.nodes if node.kind == "operation"}
    assert {
        "ConvolutionBackward0": "0",
        "ReluBackward0": None,
        "ViewBackward0": None,
        "TBackward0": "3",
        "AddmmBackward0": "3",
    } == modules
    assert "modules were told by the parameters" in graph.notes[0]


def test_walk_says_which_nodes_are_custom_checkpointed_views_and_hooked():
    x = leaf(2, 3)
    x.register_hook(lambda gradient: gradient)
    output = Twice.apply(x, x)[0].t() + checkpoint(torch.exp, x, use_reentrant=True).t()
    marks = {node.name: (node.kind, node.marks) for node in walk(output).nodes}
    assert ("custom", ("2 outputs",)) == marks["TwiceBackward"]
    assert ("checkpoint", ()) == marks["CheckpointFunctionBackward"]
    assert "view" in marks["TBackward0"][1]
    assert ("input", ("hook",)) == marks["AccumulateGrad"]


@needs_saved
def test_walk_says_which_nodes_checkpointing_will_compute_again():
    output = checkpoint(lambda t: t.t().sin(), leaf(2, 3), use_reentrant=False)
    assert {"SinBackward0"} == {
        node.name for node in walk(output).nodes if "recomputed" in node.marks
    }


@needs_saved
def test_walk_marks_the_node_whose_saved_tensor_was_overwritten():
    h = leaf(3) * 2
    output = h.sin()
    h.add_(1)
    assert {"SinBackward0"} == {
        node.name for node in walk(output + h).nodes if "overwritten" in node.marks
    }


def test_walk_marks_in_place_operations_of_the_recorded_forward():
    class Net(nn.Module):
        def forward(self, x):
            y = x * 2
            y += 1
            y[0] = 0
            return y

    model = Net()
    with Recording(model, statistics=False) as recording:
        output = model(leaf(3))
    marked = [
        node.name for node in walk(output, trace=recording.trace).nodes if "in-place" in node.marks
    ]
    assert ["AddBackward0", "CopySlices"] == marked


def test_walk_runs_no_unpack_hook_and_recomputes_nothing():
    runs = []

    def segment(t):
        runs.append(1)
        return t.sin().cos()

    output = checkpoint(segment, leaf(3), use_reentrant=False)
    graph = walk(output)
    assert [1] == runs and 0 == graph.saved_bytes


@needs_saved
def test_walk_says_that_a_backward_pass_has_freed_the_graph():
    output = leaf(3).sin().sum()
    output.backward()
    assert ("a backward pass has freed what this graph had kept",) == walk(output).notes


def test_walk_says_that_what_is_kept_cannot_be_read_in_an_old_torch(monkeypatch):
    monkeypatch.setattr(walking, "READABLE", False)
    graph = walk(leaf(3).sin())
    assert 0 == graph.saved_bytes and "torch 2.7 or later" in graph.notes[0]


def test_walk_leaves_the_garbage_collector_as_it_was():
    gc.disable()
    try:
        walk(leaf(2) * 2)
        assert not gc.isenabled()
    finally:
        gc.enable()
    walk(leaf(2) * 2)
    assert gc.isenabled()


DROPS = {
    "the output": "del y",
    "the output after backward": "y.sum().backward(); del y",
    "a tensor in the middle last": "del y; mid.pop()",
    "the output after the middle": "mid.pop(); del y",
    "two outputs": "z = y * 2; walk([y, z]); del y; del z",
}


@pytest.mark.slow
@pytest.mark.parametrize("build", ["y = y + 1", "x, y = x + y, x * y", "y = Same.apply(y)"])
def test_a_deep_graph_that_was_walked_can_be_dropped(build):
    """100,000 nodes, and 50,000 dropped in every order that a user might; torch 2.13 and 2.15 crash
    from some 42,000 on.
    """
    operations = max(1, build.count("+") + build.count("*"))
    head = f"""
        import sys, torch
        from cnnprobe.recorder.autograd import walk
        class Same(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x): return x.clone()
            @staticmethod
            def backward(ctx, g): return g
        def build(nodes):
            x = y = torch.zeros(1, requires_grad=True)
            mid = []
            for i in range(nodes // {operations}):
                {build}
                if i == 12_345: mid.append(y)
            graph = walk(y, saved=False)
            assert len(graph.nodes) >= nodes
            return y, mid
    """
    sizes = [100_000] + [50_000] * (len(DROPS) - 1)
    body = [
        f"y, mid = build({size}); {drop}; mid = None; print({name!r})"
        for size, (name, drop) in zip(sizes, DROPS.items(), strict=True)
    ]
    script = "\n".join([textwrap.dedent(head), *body])
    finished = run_python("-c", script)
    assert list(DROPS) == finished.stdout.splitlines()
    assert 0 == finished.returncode


class OnThreads(nn.Module):
    """Two layers, the second of them on a thread of its own where it is asked for."""

    def __init__(self, is_threaded):
        super().__init__()
        self.first, self.second, self.is_threaded = nn.Linear(4, 4), nn.Linear(4, 4), is_threaded

    def forward(self, x):
        found = []
        thread = threading.Thread(target=lambda: found.append(self.second(x)))
        if self.is_threaded:
            thread.start()
            thread.join()
        return self.first(x) + (found or [self.second(x)])[0]


@pytest.mark.parametrize("is_threaded", [True, False])
def test_walk_notes_whether_modules_ran_on_several_threads(is_threaded):
    model = OnThreads(is_threaded)
    with Recording(model) as recording:
        output = model(torch.ones(2, 4))
    notes = walk(output, model=model, trace=recording.trace).notes
    assert is_threaded == any("ran on several threads" in note for note in notes)


def test_graph_is_named_by_a_recording_that_nobody_holds_any_more():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    gc.collect()
    gc.disable()
    try:
        with cnnprobe.record(model):
            outputs = [model(torch.ones(2, 4)) for _ in range(2)]
    finally:
        gc.enable()
    for output in outputs:
        graph = cnnprobe.autograd_graph(output, model)
        assert {"0", "1"} <= {node.module for node in graph.nodes}
