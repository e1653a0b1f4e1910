"""Graphs against torchviz (autograd) and torchview (modules): interleaved in one process, medians
of ratios.

    python -m benchmarks.graph [--quick] [--dot]

torchvision models are measured where torchvision is installed; torchviz and torchview come with the
`bench` group.
"""

import argparse
import gc
import statistics
import sys
import time
import warnings

import torch
from torch import nn

import cnnprobe
from cnnprobe.document.render import as_dot, as_svg
from cnnprobe.graph import build_module_graph


def seconds(run):
    gc.collect()
    start = time.process_time()
    run()
    return time.process_time() - start


def interleaved(runs, rounds):
    """Median time of each, and the median of each one's ratio to the first of the same round."""
    times = [[seconds(run) for run in runs] for _ in range(rounds)]
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    ratios = [statistics.median(row[i] / row[0] for row in times) for i in range(len(runs))]
    return medians, ratios


class Tooth(nn.Module):
    def forward(self, y):
        for _ in range(5):
            y = y * 2
        return y


class Comb(nn.Module):
    """Many chains of 500 operations, five in each module: torchviz recurses, so that no path may be
    longer than 981.
    """

    def __init__(self, nodes, teeth=100):
        super().__init__()
        self.start = nn.Parameter(torch.ones(4))
        self.teeth = nn.ModuleList([Tooth() for _ in range(teeth)])
        self.chains = nodes // (5 * teeth)

    def forward(self):
        ends = []
        for _ in range(self.chains):
            y = self.start
            for tooth in self.teeth:
                y = tooth(y)
            ends.append(y)
        return torch.stack(ends).sum()


def chain(nodes):
    y = torch.ones(4, requires_grad=True)
    for _ in range(nodes):
        y = y + 1
    return y


def bare_walk(output):
    """Nodes alone: the floor under every walker in Python."""
    seen, stack = {output.grad_fn}, [output.grad_fn]
    while stack:
        for below, _ in stack.pop().next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)
    return len(seen)


def read_getters(output):
    """What is asked of torch for a graph with shapes and what is kept, and nothing else: the floor
    under the walk before any text.
    """
    seen, stack = {output.grad_fn}, [output.grad_fn]
    names = {}
    while stack:
        node = stack.pop()
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                stack.append(below)
        if (metadata := getattr(node, "_input_metadata", None)) is not None:
            _ = tuple(metadata[0].shape), metadata[0].dtype
        kind = type(node)
        if kind not in names:
            names[kind] = [name for name in dir(kind) if name.startswith("_raw_saved_")]
        for name in names[kind]:
            if (tensor := getattr(node, name).data) is not None:
                storage = tensor.untyped_storage()
                _ = storage._cdata, storage.nbytes(), tensor.shape
    return len(seen)


# What both show, and who shows it: torchviz's shapes of what is kept against cnnprobe's, which come
# with the shape and dtype of each result.
LIKE_FOR_LIKE = (
    ("names of operations", "torchviz", "cnnprobe, shapes"),
    ("and what is kept", "torchviz, what is saved", "cnnprobe, shapes and what is kept"),
)


def autograd_to_dot(nodes, rounds):
    from torchviz import make_dot

    print(
        f"\nautograd graph to DOT, comb of {nodes:,} nodes, thousand nodes a second (median "
        f"of {rounds})"
    )
    model = Comb(nodes)
    with cnnprobe.record(model, statistics=False) as recording:
        outputs = [model() for _ in range(7)]
    traces = recording.traces
    names = dict(model.named_parameters())
    attributes = {"show_attrs": True, "show_saved": True}
    runs = {
        "torchviz": lambda: make_dot(outputs[0], params=names).source,
        "torchviz, what is saved": lambda: (
            make_dot(outputs[5], params=names, show_saved=True).source
        ),
        "torchviz, attributes and what is saved": lambda: (
            make_dot(outputs[6], params=names, **attributes).source
        ),
        "cnnprobe, shapes": lambda: as_dot.render_graph(
            cnnprobe.autograd_graph(outputs[1], saved=False)
        ),
        "cnnprobe, shapes and module names": lambda: as_dot.render_graph(
            cnnprobe.autograd_graph(outputs[2], model, trace=traces[2], saved=False)
        ),
        "cnnprobe, shapes and what is kept": lambda: as_dot.render_graph(
            cnnprobe.autograd_graph(outputs[5])
        ),
        "cnnprobe, names and what is kept": lambda: as_dot.render_graph(
            cnnprobe.autograd_graph(outputs[3], model, trace=traces[3])
        ),
        "torch's getters alone, no text": lambda: read_getters(outputs[4]),
        "bare walk, no text": lambda: bare_walk(outputs[4]),
    }
    medians, ratios = interleaved(list(runs.values()), rounds)
    for name, median, ratio in zip(runs, medians, ratios, strict=True):
        print(f"  {name:42}{nodes / median / 1e3:10.0f}{1 / ratio:8.1f}x torchviz")
    found = dict(zip(runs, ratios, strict=True))
    for what, theirs, ours in LIKE_FOR_LIKE:
        print(f"  like for like, {what:27}{found[theirs] / found[ours]:18.1f}x {theirs}")


def depth(nodes):
    from torchviz import make_dot

    print("\nhow deep")
    try:
        make_dot(chain(2_000))
        print("  torchviz draws a chain of 2,000")
    except RecursionError:
        print("  torchviz raises RecursionError on a chain of 2,000")
    output = chain(nodes)
    took = seconds(lambda: as_dot.render_graph(cnnprobe.autograd_graph(output, saved=False)))
    print(f"  cnnprobe walks, writes and releases a chain of {nodes:,} in {took:.2f} s")


def models():
    try:
        import torchvision
    except ImportError:
        return
    for name in (
        "resnet18",
        "resnet50",
        "densenet121",
        "mobilenet_v3_large",
        "googlenet",
        "vit_b_16",
    ):
        options = {"init_weights": False} if name == "googlenet" else {}
        yield name, torchvision.models.get_model(name, **options), torch.rand(2, 3, 224, 224)


def deep(layers):
    return nn.Sequential(
        *[layer for _ in range(layers // 2) for layer in (nn.Linear(8, 8), nn.ReLU())]
    )


def svg():
    print(
        "\nSVG without Graphviz, seconds: the folded picture, every module call and function, "
        "every node of autograd"
    )
    for name, model, x in models():
        with cnnprobe.record(model, statistics=False) as recording:
            output = model(x)
        modules, autograd = (
            build_module_graph(recording.trace),
            cnnprobe.autograd_graph(output, model, trace=recording.trace),
        )
        times = [
            seconds(lambda g=g: as_svg.render_graph(g()))
            for g in (modules.collapse, lambda m=modules: m, lambda a=autograd: a)
        ]
        print(
            f"  {name:22}{times[0]:8.3f}{times[1]:8.3f} "
            f"({len(modules.nodes):4}){times[2]:8.3f} ({len(autograd.nodes):5})"
        )


def modules(rounds):
    from torchview import draw_graph

    def watched(model, x):
        with cnnprobe.record(model, statistics=False) as recording:
            model(x)
        return build_module_graph(recording.trace)

    print(
        "\nmodule graph, ratio to the bare forward in eval under no_grad (median of "
        f"{rounds}), and microseconds a row above it"
    )
    cases = [*models(), ("flat, 1,000 layers", deep(1_000), torch.rand(1, 8))]
    for name, model, x in cases:
        model.eval()
        with torch.no_grad():
            rows = len(watched(model, x).nodes)
            runs = [
                lambda m=model, x=x: m(x),
                lambda m=model, x=x: watched(m, x),
                lambda m=model, x=x: draw_graph(m, input_data=x, mode="eval"),
            ]
            medians, ratios = interleaved(runs, rounds)
        extra = [(median - medians[0]) / rows * 1e6 for median in medians]
        print(
            f"  {name:22}cnnprobe {ratios[1]:6.2f}x {extra[1]:7.1f} us   torchview "
            f"{ratios[2]:7.2f}x {extra[2]:7.1f} us   ({rows} rows)"
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small graphs, few rounds")
    parser.add_argument("--dot", action="store_true", help="only DOT against torchviz")
    options = parser.parse_args()
    quick = options.quick
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(
        f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, CPU time of "
        "the process"
    )
    autograd_to_dot(10_000 if quick else 100_000, 3 if quick else 7)
    if options.dot:
        return
    depth(50_000 if quick else 200_000)
    svg()
    modules(3 if quick else 7)


if __name__ == "__main__":
    main()
