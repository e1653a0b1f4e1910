"""What a monitor costs on several ranks: `python -m benchmarks.ranks [--ranks 1 2 4] [--steps 10]
    [--rounds 3]`.

DistributedDataParallel over gloo, one thread a rank. Each round trains some steps bare and some
under `cnnprobe.monitor`, with the same model. Figures are of rank 0, medians over the rounds: the
time that its main thread computed in a step, which is not that of waiting for other ranks; what the
monitor adds; "ranks", the part of a step that is spent on what the ranks are compared by; "beside",
the computing time of the thread that compares them meanwhile; and the time until the report of all
ranks is there.
"""

import argparse
import contextlib
import functools
import socket
import statistics
import time
from collections.abc import Callable, Iterable

import torch
import torch.distributed as dist
from torch import nn, optim

import cnnprobe
from cnnprobe.monitoring.comparing import Comparison
from cnnprobe.monitoring.ranks import RankDraft, RankWatch
from reference_models import SimpleCNN


def resnet18() -> nn.Module:
    """Large parameters for little computation: what a hash costs shows."""
    import torchvision

    return torchvision.models.resnet18(num_classes=10)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "SimpleCNN, 64 of 32 x 32": (lambda: SimpleCNN(10), (64, 3, 32, 32)),
    "ResNet-18, 8 of 64 x 64": (resnet18, (8, 3, 64, 64)),
}
PARTS = (
    *((RankWatch, name) for name in ("begin_pass", "enter", "arrive", "end_pass", "before_update")),
    (RankWatch, "end_step"),
    (RankDraft, "read"),
    (Comparison, "wrote"),
)  # all that a monitor does for the comparison of ranks, within a step


def count_time(spent: list[float], parts: Iterable[tuple[type, str]]) -> None:
    """Add up what the parts take of their thread."""
    for kind, name in parts:
        part = getattr(kind, name)

        @functools.wraps(part)
        def timed(*args: object, _part: Callable = part, **options: object) -> object:
            start = time.thread_time()
            try:
                return _part(*args, **options)
            finally:
                spent[0] += time.thread_time() - start

        setattr(kind, name, timed)


def train(
    model: nn.Module, optimizer: optim.Optimizer, data: tuple[torch.Tensor, ...], steps: int
) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()


def measure(rank: int, ranks: int, port: int, steps: int, rounds: int) -> None:
    """Print one line a model, on rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks
    )
    spent, spent_beside = [0.0], [0.0]
    count_time(spent, PARTS)
    count_time(spent_beside, [(Comparison, "_run")])
    for name, (build, shape) in MODELS.items():
        torch.manual_seed(0)
        model = nn.parallel.DistributedDataParallel(build())
        optimizer = optim.SGD(model.parameters(), lr=0.01)
        data = torch.randn(shape), torch.randint(0, 10, shape[:1])
        bare, monitored, compared, beside, merged = [], [], [], [], []
        for _ in range(rounds):
            for way in (bare, monitored):
                watched = cnnprobe.monitor(model, optimizer, loss_fn=False)
                with watched if way is monitored else contextlib.nullcontext():
                    train(model, optimizer, data, 1)
                    spent[0], start = 0.0, time.thread_time()
                    train(model, optimizer, data, steps)
                    way.append((time.thread_time() - start) / steps)
            compared.append(spent[0] / steps)
            beside.append(spent_beside[0] / (steps + 1))
            spent_beside[0] = 0.0
            start = time.perf_counter()
            watched.merged()
            merged.append(time.perf_counter() - start)
        if rank == 0:
            step, added, of_ranks, thread, report = map(
                statistics.median, (bare, monitored, compared, beside, merged)
            )
            print(
                (
                    f"{name:<26} {ranks:>5} {1e3 * step:>9.2f} {added / step - 1:>10.1%} "
                    f"{of_ranks / step:>7.1%} {thread / step:>7.1%} {1e3 * report:>10.0f}"
                ),
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    """Print one line for each model and number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", nargs="+", default=[1, 2, 4], type=int)
    parser.add_argument("--steps", default=10, type=int)
    parser.add_argument("--rounds", default=3, type=int)
    given = parser.parse_args()
    compare_ranks(given.ranks, given.steps, given.rounds)


def compare_ranks(numbers: Iterable[int], steps: int, rounds: int) -> None:
    """Print the table: one line for each model and number of ranks."""
    print(
        f"{'model':<26} {'ranks':>5} {'bare, ms':>9} {'monitored':>10} {'ranks':>7} "
        f"{'beside':>7} {'merged, ms':>10}"
    )
    for ranks in numbers:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        torch.multiprocessing.spawn(measure, (ranks, port, steps, rounds), nprocs=ranks)


if __name__ == "__main__":
    main()
