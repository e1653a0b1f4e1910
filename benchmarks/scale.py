"""How the time of each verb and format grows with the model, the graph and the data: CPU seconds at
several sizes, and the exponent between them.

    python -m benchmarks.scale [--sizes 1000,3000,10000,30000] [--nodes 10000,100000,1000000]
    [--only probe,record] [--limit 60]

An exponent of 1 is linear, 2 is quadratic: the slope of the logarithm of the time over that of the
size, by least squares over the sizes that took more than 20 ms, where a fixed cost no longer hides
it. A row stops at the first size that takes longer than the limit, and says so. The model is flat:
`Linear(8, 8)` and ReLU in turns, as deep as there are modules. CPU time of the process, one thread,
the least of three (of one, from 1 s on).
"""

import argparse
import gc
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnnprobe
from benchmarks.graph import Comb
from benchmarks.ranks import compare_ranks
from benchmarks.structure import deep
from cnnprobe.document.graph_formats import list_text_formats
from cnnprobe.document.render import list_formats
from cnnprobe.graph import Graph, build_module_graph

LEAST = 0.02  # seconds: below, the fixed cost of a call is most of it
LONG = 1.0
Work = Callable[[], object]
Case = tuple[str, Callable[[int], Work]]  # its name, and what makes the work of a size


def seconds(work: Work) -> float:
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(make: Callable[[int], Work], size: int) -> float:
    work = make(size)
    least = seconds(work)
    for _ in range(2 if least < LONG else 0):
        least = min(least, seconds(work))
    return least


def find_exponent(sizes: list[int], times: list[float]) -> float | None:
    """The slope of log time over log size; None where fewer than two sizes can tell."""
    points = [(math.log(n), math.log(t)) for n, t in zip(sizes, times, strict=False) if t > LEAST]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread


def write_row(case: Case, sizes: list[int], limit: float) -> str:
    name, make = case
    times: list[float] = []
    for size in sizes:
        times.append(measure(make, size))
        if times[-1] > limit:
            break
    cells = [f"{t:.3f}" for t in times] + ["over the limit"] * (len(sizes) - len(times))
    exponent = find_exponent(sizes, times)
    return f"| {name} | {' | '.join(cells)} | {'-' if exponent is None else f'{exponent:.2f}'} |"


def recorded(model: nn.Module, x: torch.Tensor) -> tuple[cnnprobe.Trace, torch.Tensor]:
    with cnnprobe.record(model, statistics=False) as recording:
        output = model(x)
    return recording.trace, output


def verbs() -> Iterator[Case]:
    x = torch.randn(4, 8)

    def graph(n: int) -> Work:
        model = deep(n)
        trace, output = recorded(model, x)
        return lambda: cnnprobe.autograd_graph(output, model, trace=trace)

    def step(n: int) -> Work:
        model = deep(n)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

        def train() -> None:
            with cnnprobe.monitor(model, optimizer):
                for _ in range(2):
                    optimizer.zero_grad()
                    model(x).sum().backward()
                    optimizer.step()

        return train

    def loader(n: int) -> Work:
        data = TensorDataset(torch.randn(n, 3, 8, 8), torch.randint(0, 10, (n,)))
        return lambda: cnnprobe.inspect_data(DataLoader(data, 50))

    def of_model(action: Callable[[nn.Module], object]) -> Callable[[int], Work]:
        def make(n: int) -> Work:
            model = deep(n)
            return lambda: action(model)

        return make

    def of_two(n: int) -> Work:
        one, other = deep(n), deep(n)
        other.load_state_dict(one.state_dict())
        return lambda: cnnprobe.compare(one, other, x)

    yield "bare forward", of_model(lambda model: model(x))
    yield "record without statistics", of_model(lambda model: recorded(model, x))
    yield "probe", of_model(lambda model: cnnprobe.probe(model, x))
    yield (
        "probe of shapes alone",
        of_model(lambda model: cnnprobe.probe(model, x, shapes_only=True)),
    )
    yield "autograd_graph", graph
    yield "compare", of_two
    yield "refactor", of_model(lambda model: cnnprobe.refactor(model, x))
    yield "diagnose", of_model(lambda model: cnnprobe.diagnose(model, x, torch.randn(4, 8)))
    yield "monitor of two steps", step
    yield "inspect_data of as many samples", loader


def formats() -> Iterator[Case]:
    x = torch.randn(4, 8)

    def report(name: str) -> Callable[[int], Work]:
        def make(n: int) -> Work:
            found = cnnprobe.probe(deep(n), x)
            return lambda: found.to(name)

        return make

    def drawn(name: str) -> Callable[[int], Work]:
        def make(n: int) -> Work:
            graph = build_module_graph(recorded(deep(n), x)[0])
            return lambda: graph.to(name)

        return make

    for name in list_formats():
        yield f"report as {name}", report(name)
    for name in list_text_formats():
        yield f"graph as {name}", drawn(name)


def graphs() -> Iterator[Case]:
    def walk(saved: bool) -> Callable[[int], Work]:
        def make(n: int) -> Work:
            output = Comb(n)()
            return lambda: cnnprobe.autograd_graph(output, saved=saved)

        return make

    def write(name: str) -> Callable[[int], Work]:
        def make(n: int) -> Work:
            graph: Graph = cnnprobe.autograd_graph(Comb(n)())
            return lambda: graph.to(name)

        return make

    yield "walk", walk(saved=False)
    yield "walk with what is kept for backward", walk(saved=True)
    for name in list_text_formats():
        yield f"as {name}", write(name)


def show(title: str, cases: Iterator[Case], sizes: list[int], options: argparse.Namespace) -> None:
    heads = " | ".join(f"{size:,}" for size in sizes)
    print(f"\n{title}\n\n| | {heads} | exponent |\n|---|{'--:|' * (len(sizes) + 1)}")
    for case in cases:
        if not options.only or case[0] in options.only.split(","):
            print(write_row(case, sizes, options.limit), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="1000,3000,10000,30000")
    parser.add_argument("--nodes", default="10000,100000,1000000")
    parser.add_argument("--only", default="")
    parser.add_argument("--limit", type=float, default=60.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, CPU seconds")
    sizes, nodes = ([int(n) for n in text.split(",")] for text in (options.sizes, options.nodes))
    show("By the number of modules", verbs(), sizes, options)
    show("By the number of modules, as text", formats(), sizes, options)
    show("By the number of nodes in the graph", graphs(), nodes, options)
    if not options.only or "ranks" in options.only.split(","):
        print("\nA monitored step by the number of ranks\n")
        compare_ranks((1, 2, 4), steps=10, rounds=3)


if __name__ == "__main__":
    main()
