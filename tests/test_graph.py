"""Folding, comparing, laying out and drawing a graph; every count is made by hand or by another
tool.
"""

from itertools import pairwise

import pytest
import torch
from torch import nn

import cnnprobe
from cnnprobe.errors import UnknownNameError
from cnnprobe.graph import build_module_graph, find_unreached
from cnnprobe.graph.placement import place_boxes
from cnnprobe.recorder.autograd.saved import READABLE
from tests.support.graphs import Net, image, recorded


class Loop(nn.Module):
    """Runs `layer` as often as it is told, and `extra` in its second pass."""

    def __init__(self):
        super().__init__()
        self.layer, self.extra = nn.Linear(3, 3), nn.Linear(3, 3)
        self.times, self.runs = 2, 0

    def forward(self, x):
        self.runs += 1
        for _ in range(self.times):
            x = torch.relu(self.layer(x))
        return self.extra(x) if self.runs == 2 else x


def names(graph):
    return [(node.module if node.kind == "module" else node.name) for node in graph.nodes]


def lines(graph):
    shown = names(graph)
    return [(shown[edge.start], shown[edge.end]) for edge in graph.edges]


# ---------------------------------------------------------------- modules


def test_module_graph_shows_modules_functions_and_the_residual_line():
    graph = build_module_graph(recorded(Net(blocks=1), image()))
    expected = [
        ("input", "stem"),
        ("stem", "blocks.0.conv"),
        ("blocks.0.conv", "blocks.0.norm"),
        ("blocks.0.norm", "torch.Tensor.add"),
        ("stem", "torch.Tensor.add"),
        ("torch.Tensor.add", "torch.relu"),
        ("torch.relu", "torch.Tensor.mean"),
        ("torch.Tensor.mean", "head"),
    ]
    assert expected == lines(graph)


def test_module_graph_is_the_same_in_eval_and_without_autograd():
    model = Net(blocks=2).eval()
    with torch.no_grad():
        without = build_module_graph(recorded(model, image()))
    assert build_module_graph(recorded(model, image())) == without


@pytest.mark.parametrize("view", ["modules", "autograd"])
def test_collapse_to_depth_one_shows_the_children_of_the_model(view):
    model = Net()
    with cnnprobe.record(model, statistics=False) as recording:
        output = model(image())
    graph = (
        build_module_graph(recording.trace)
        if view == "modules"
        else cnnprobe.autograd_graph(output, model)
    )
    shown = [
        name
        for name in names(graph.collapse(1))
        if name not in ("input", "torch.Tensor.mean", "MeanBackward1")
    ]
    assert ["stem", "blocks", "head"] == shown


def test_collapse_opens_the_first_of_identical_blocks_and_counts_the_others():
    folded = build_module_graph(recorded(Net(blocks=5), image())).collapse(3)
    (pile,) = [node for node in folded.nodes if node.kind == "blocks"]
    assert ("Block × 4", "blocks.1", ("to blocks.4", "like blocks.0"), 16) == (
        pile.name,
        pile.module,
        pile.marks,
        pile.members,
    )
    assert "blocks.0.conv" in names(folded) and "blocks.1.conv" not in names(folded)


def test_collapse_keeps_blocks_apart_that_differ_in_shape():
    model = nn.Sequential(*[nn.Linear(width, width + 1) for width in range(3, 8)])
    assert 6 == len(build_module_graph(recorded(model, torch.ones(1, 3))).collapse().nodes)


def test_collapse_folds_a_pattern_that_repeats_in_a_flat_model():
    model = nn.Sequential(*[layer for _ in range(300) for layer in (nn.Linear(4, 4), nn.ReLU())])
    folded = build_module_graph(recorded(model, torch.ones(1, 4))).collapse()
    assert ["input", "0", "1", "(Linear, ReLU) × 299"] == names(folded)
    assert 601 == sum(node.members for node in folded.nodes)


def test_collapse_shows_no_more_boxes_than_the_limit():
    model = nn.Sequential(*[nn.Linear(width, width + 1) for width in range(3, 203)])
    graph = build_module_graph(recorded(model, torch.ones(1, 3)))
    folded = graph.collapse()
    assert 80 == len(folded.nodes) and 201 == sum(node.members for node in folded.nodes)
    assert {"122 more"} == {node.name for node in folded.nodes if node.kind == "more"}
    assert 201 == len(graph.collapse(1).nodes)  # the rest on demand


def test_collapse_around_a_module_shows_it_and_its_neighbours():
    graph = build_module_graph(recorded(Net(blocks=2), image()))
    assert {
        "stem",
        "torch.Tensor.add",
        "blocks.0.conv",
        "blocks.0.norm",
        "torch.relu",
        "blocks.1",
    } == set(names(graph.collapse(3, around="blocks.0")))


def test_collapse_around_an_unknown_module_says_which_there_are():
    with pytest.raises(UnknownNameError, match="did you mean 'stem'"):
        build_module_graph(recorded(Net(1), image())).collapse(around="stm")


@pytest.mark.skipif(
    not READABLE,
    reason=f"torch {torch.__version__} does not show what is kept for backward: 2.7 or later does",
)
def test_collapse_adds_up_what_is_kept_for_backward():
    model = Net()
    with cnnprobe.record(model, statistics=False) as recording:
        output = model(image())
    graph = cnnprobe.autograd_graph(output, model, trace=recording.trace)
    assert graph.saved_bytes == sum(node.saved_bytes for node in graph.collapse(1).nodes) > 0


# ---------------------------------------------------------------- several forwards


def two_runs(change):
    model = Loop()
    with cnnprobe.record(model, statistics=False) as recording:
        first = model(torch.ones(1, 3))
        change(model)
        second = model(torch.ones(1, 3))
    return [cnnprobe.autograd_graph(output, model) for output in (first, second)], [
        build_module_graph(trace) for trace in recording.traces
    ]


def more_often(model):
    model.times, model.runs = 3, 5


def test_each_recorded_forward_gives_its_own_graph():
    (first, second), _ = two_runs(more_often)
    assert [2, 3] == [
        sum(node.name == "AddmmBackward0" and node.module == "layer" for node in graph.nodes)
        for graph in (first, second)
    ]


@pytest.mark.parametrize("kind", [0, 1])
def test_diff_tells_the_loop_that_ran_once_more(kind):
    first, second = two_runs(more_often)[kind]
    change = first.diff(second).changes[0]
    line = Loop.forward.__code__.co_firstlineno + 3
    assert ("layer", "Linear", 2, 3) == (change.module, change.name, change.before, change.after)
    assert [f"test_graph.py:{line}"] == [source.rpartition("/")[2] for source in change.sources]


def test_diff_tells_the_branch_that_was_taken():
    first, second = two_runs(lambda model: None)[0]
    assert "'extra' (Linear) ran once instead of not at all" in str(first.diff(second))
    assert "'extra' (Linear) ran not at all instead of once" in str(second.diff(first))


def test_diff_of_the_same_forward_twice_is_empty():
    first, second = two_runs(lambda model: setattr(model, "runs", 5))[0]
    assert not first.diff(second) and "the graphs are the same" == str(first.diff(second))


def test_diff_tells_another_shape():
    model = nn.Linear(3, 2)
    small, large = (build_module_graph(recorded(model, torch.ones(n, 3))) for n in (1, 2))
    assert "Linear outputs (2, 2) float32 instead of (1, 2) float32" in str(small.diff(large))


# ---------------------------------------------------------------- reachability


class Cuts(nn.Module):
    def __init__(self):
        super().__init__()
        for name in ("good", "frozen", "detached", "silent", "chosen", "spare", "lost"):
            setattr(self, name, nn.Linear(3, 3, bias=False))
        self.frozen.weight.requires_grad_(False)

    def forward(self, x):
        x = self.frozen(self.good(x))
        y = self.detached(x).detach()
        with torch.no_grad():
            z = self.silent(x)
        index = self.chosen(x).argmax(1)
        self.lost(x)
        return x + y + z + index[:, None]


def test_unreached_tells_every_parameter_without_a_gradient_and_where_the_path_is_cut():
    model = Cuts()
    with cnnprobe.record(model, statistics=False) as recording:
        output = model(torch.ones(2, 3))
    graph = cnnprobe.autograd_graph(output, model)
    cuts = find_unreached(graph, recording.trace)
    expected = {
        "frozen.weight": "frozen", "detached.weight": "detach", "silent.weight": "no grad",
        "chosen.weight": "integers", "spare.weight": "never used",
        "lost.weight": "not used further",
    }  # fmt: skip
    assert expected == {cut.parameter: cut.why for cut in cuts}
    output.sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == set(
        expected
    )
    line = Cuts.forward.__code__.co_firstlineno + 2
    assert any(cut.why == "detach" and cut.source.endswith(f"test_graph.py:{line}") for cut in cuts)


def test_unreached_is_empty_where_every_parameter_gets_a_gradient():
    model = Net()
    with cnnprobe.record(model, statistics=False) as recording:
        output = model(image())
    assert () == find_unreached(cnnprobe.autograd_graph(output, model), recording.trace)


# ---------------------------------------------------------------- layout


def random_graph(count=60):
    generator = torch.Generator().manual_seed(3)
    draw = lambda below: int(torch.randint(0, below, (1,), generator=generator))
    edges = [(draw(end), end) for end in range(1, count) for _ in range(1 + draw(3))]
    return [(40.0 + draw(60), 30.0) for _ in range(count)], edges


def test_place_lets_no_two_boxes_overlap_and_every_line_run_downwards():
    sizes, edges = random_graph()
    found = place_boxes(sizes, edges)
    for i, (x, y) in enumerate(found.middles):
        for j in range(i):
            apart_x = abs(x - found.middles[j][0]) - (sizes[i][0] + sizes[j][0]) / 2
            apart_y = abs(y - found.middles[j][1]) - (sizes[i][1] + sizes[j][1]) / 2
            assert apart_x >= 0 or apart_y >= 0
    assert all(a[1] <= b[1] for route in found.routes for a, b in pairwise(route))
    assert all(found.middles[a][1] < found.middles[b][1] for a, b in edges)


def test_place_runs_no_line_through_a_box():
    sizes, edges = random_graph()
    found = place_boxes(sizes, edges)
    for route in found.routes:
        for (ax, ay), (bx, by) in pairwise(route):
            if ax != bx:
                continue  # between two layers, where no box stands
            for (x, y), (width, height) in zip(found.middles, sizes, strict=True):
                through = (
                    abs(ax - x) < width / 2 - 1e-6
                    and min(by, y + height / 2) - max(ay, y - height / 2) > 1e-6
                )
                assert not through


def test_place_gives_a_value_with_many_users_one_trunk():
    edges = [(i, i + 1) for i in range(9)] + [(0, i) for i in range(2, 10)]
    routes = place_boxes([(20.0, 10.0)] * 10, edges).routes
    long = [route for route, (a, b) in zip(routes, edges, strict=True) if a == 0 and b > 1]
    assert all(one[:-1] == other[: len(one) - 1] for one, other in pairwise(long))


def test_place_of_nothing_and_of_one_box():
    assert () == place_boxes([], []).middles
    assert ((5.0, 2.0),) == place_boxes([(10, 4)], []).middles
