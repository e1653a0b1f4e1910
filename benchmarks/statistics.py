"""Statistics of every activation, and a whole monitor: what they add to a forward pass and to a
training step, interleaved in one process.

    python -m benchmarks.statistics [--rounds 7] [--only simplecnn,resnet18] [--step] [--kernels]

A forward hook on every leaf module computes the statistics; the monitor's own hooks do so for
cnnprobe. With --step the columns after them are whole monitors around steps with SGD: activations,
gradients, parameters and updates, every step and one step in ten. Printed are the medians of the
per-round overheads over the bare pass (CPU time of the process, one thread) and, for the kernels
alone, the ratio to `x.sum()`. The limit is one plain sum of each activation. Trust the ratios only.
"""

import argparse
import functools
import statistics
import time
import warnings
from collections.abc import Callable
from threading import get_ident

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import cnnprobe
from benchmarks.structure import cases
from cnnprobe.monitoring.hooks import ChannelHook, LayerHook
from cnnprobe.monitoring.wiring import Wiring
from cnnprobe.records.ledger import Ledger
from cnnprobe.stats import RowTable, chunked, native, plain, write
from cnnprobe.stats.content import Content
from cnnprobe.stats.sheet import RowBuffer

try:
    from lovely_tensors.repr_str import lovely
except ImportError:
    lovely = None

Observe = Callable[[Tensor, int], object]
DEEP = "deep:1000"


def by_hand(x: Tensor, _: int) -> None:
    if x.numel():
        (
            x.mean().item(),
            x.std().item(),
            x.min().item(),
            x.max().item(),
            (x == 0).float().mean().item(),
            x.isnan().any().item(),
        )


def lovely_string(x: Tensor, _: int) -> None:
    str(lovely(x))


def one_sum(x: Tensor, _: int) -> None:
    x.sum()


def without_compiler(table: RowTable) -> Observe:
    def observe(x: Tensor, row: int) -> None:
        kernel, native.load_kernel = (
            native.load_kernel,
            lambda: None,
        )  # what a machine without a compiler and without a wheel of ours sees
        try:
            write(x, table, row)
        finally:
            native.load_kernel = kernel

    return observe


RIVALS = (
    "limit: one sum",
    "cnnprobe",
    "histogram",
    "per channel",
    "1 in 10",
    "no compiler",
    "by hand",
    "lovely",
)
MONITORS = ("monitor", "monitor, 1 in 10")
SLOW, SLOW_ROUNDS = (
    {"by hand", "lovely"},
    3,
)  # their ratios are so large that three rounds tell them


def rivals(rows: int) -> dict[str, Observe]:
    found: dict[str, Observe] = {
        "limit: one sum": one_sum,
        "no compiler": without_compiler(RowTable(rows)),
        "by hand": by_hand,
    }
    return found | ({"lovely": lovely_string} if lovely is not None else {})


def ours(model: nn.Module) -> dict[str, Callable[[Callable[[], object]], float]]:
    """The monitor's own hooks, put on for one pass."""
    kinds = {
        "cnnprobe": (LayerHook, False),
        "histogram": (LayerHook, True),
        "per channel": (ChannelHook, False),
    }
    found = {}
    for name, (kind, histogram) in kinds.items():
        wiring = Wiring(
            Ledger(model="net"), RowBuffer(4096, histogram=histogram), gradients=False, fraction=1.0
        )
        wiring.observing, wiring.thread = True, get_ident()
        hooks = [kind(wiring, module, "") for module in leaves(model)]
        found[name] = by_hooks(wiring, hooks)
    sparse = found["cnnprobe"]
    found["1 in 10"] = lambda action: (sparse(action) + sum(seconds(action) for _ in range(9))) / 10
    return found


def by_hooks(wiring: Wiring, hooks: list[LayerHook]) -> Callable[[Callable[[], object]], float]:
    def taken(action: Callable[[], object]) -> float:
        def one() -> None:
            for hook in hooks:
                hook.attach()
                hook.calls = 0
            wiring.active = True
            action()
            wiring.active = False
            wiring.release()
            wiring.sheet.take()
            for hook in hooks:
                hook.detach()

        return seconds(one)

    return taken


def monitored(
    model: nn.Module, optimizer: Optimizer, action: Callable[[], object], rounds: int, *, every: int
) -> float:
    """Seconds of a step under a monitor that has seen its first step already."""
    with cnnprobe.monitor(model, optimizer, every=every) as monitor:
        for _ in range(2):
            action()
        start = time.process_time()
        for _ in range(rounds):
            action()
        taken = time.process_time() - start
        assert monitor.step >= rounds
    return taken / rounds


def seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def leaves(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if not any(m.children())]


def hooked(model: nn.Module, observe: Observe, action: Callable[[], object]) -> float:
    handles = []
    for row, module in enumerate(leaves(model)):

        def hook(_module: nn.Module, _inputs: object, output: object, row: int = row) -> None:
            if isinstance(output, Tensor):
                observe(output, row)

        handles.append(module.register_forward_hook(hook))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return seconds(action)
    finally:
        for handle in handles:
            handle.remove()


def overheads(name: str, rounds: int, *, step: bool) -> str:
    model, x = cases()[name]()
    model.train(step)
    observers = rivals(len(leaves(model)))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9)

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def training_step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    action = training_step if step else forward
    action()
    takers = ours(model) | {
        rival: functools.partial(hooked, model, observe) for rival, observe in observers.items()
    }
    if step:
        takers["monitor"] = lambda action: monitored(model, optimizer, action, 1, every=1)
        takers["monitor, 1 in 10"] = lambda action: monitored(
            model, optimizer, action, 10, every=10
        )
    ratios: dict[str, list[float]] = {rival: [] for rival in takers}
    bare = []
    for round_ in range(rounds):
        bare.append(seconds(action))
        for rival, taken_by in takers.items():
            if rival in SLOW and round_ >= SLOW_ROUNDS:
                continue
            before = seconds(action)
            taken = taken_by(action)
            ratios[rival].append(2 * taken / (before + seconds(action)) - 1)
    columns = (*RIVALS, *MONITORS) if step else RIVALS
    cells = [
        f"{statistics.median(ratios[r]) * 100:.1f} %" if ratios.get(r) else "-" for r in columns
    ]
    return f"| {name} | {statistics.median(bare) * 1e3:.1f} | " + " | ".join(cells) + " |"


def kernels(rounds: int) -> None:
    """Each engine alone, on data that come from memory and on data that are in the cache, as a
    ratio to `x.sum()`.
    """
    print(
        "| values | x.sum() us | kernel | with histogram | per channel | per channel, "
        "channels last | no compiler | plain torch | by hand |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    for shape in ((8, 64, 112, 112), (8, 64, 28, 28), (8, 512, 7, 7), (8, 64)):
        for dtype in (torch.float32, torch.bfloat16):
            print(one_kernel(shape, dtype, rounds), flush=True)


def one_kernel(shape: tuple[int, ...], dtype: torch.dtype, rounds: int) -> str:
    tensors = [torch.randn(shape).relu().to(dtype) for _ in range(4)]
    last = (
        [x.contiguous(memory_format=torch.channels_last) for x in tensors]
        if len(shape) == 4
        else tensors
    )
    whole, histogram, channels = (
        RowTable(1),
        RowTable(1, histogram=True),
        RowTable(1, channels=True),
    )

    def fresh(x: Tensor, table: RowTable) -> None:
        table.last = None  # or the same tensor would not be read twice
        write(x, table, 0)

    actions: dict[str, Callable[[int], object]] = {
        "sum": lambda i: tensors[i].sum(),
        "kernel": lambda i: fresh(tensors[i], whole),
        "histogram": lambda i: fresh(tensors[i], histogram),
        "channels": lambda i: fresh(tensors[i], channels),
        "last": lambda i: fresh(last[i], channels),
        "no compiler": lambda i: chunked.write(tensors[i], whole, 0),
        "plain": lambda i: plain.measure(Content(values=tensors[i])),
        "by hand": lambda i: by_hand(tensors[i], 0),
    }
    repeats = max(1, 2_000_000 // tensors[0].numel())
    ratios: dict[str, list[float]] = {name: [] for name in actions}
    sums = []
    for _ in range(rounds):
        for name, action in actions.items():
            some = range(max(4, repeats // 20 if name in {"plain", "by hand"} else repeats))
            taken = seconds(lambda action=action, some=some: [action(i % 4) for i in some]) / len(
                some
            )
            if name == "sum":
                sums.append(taken)
            ratios[name].append(taken / sums[-1])
    cells = " | ".join(
        f"{statistics.median(values):.2f}" for name, values in ratios.items() if name != "sum"
    )
    return f"| {str(dtype)[6:]} {shape} | {statistics.median(sums) * 1e6:.0f} | {cells} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="")
    parser.add_argument(
        "--step", action="store_true", help="training steps instead of forward passes"
    )
    parser.add_argument("--kernels", action="store_true", help="the engines alone")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"engine: {'C kernel' if native.load_kernel() else 'torch and NumPy'}\n")
    if options.kernels:
        kernels(options.rounds)
        return
    names = (
        options.only.split(",")
        if options.only
        else [n for n in cases() if n == DEEP or ":" not in n]
    )
    columns = (*RIVALS, *MONITORS) if options.step else RIVALS
    print(f"| model | bare ms | {' | '.join(columns)} |\n|---|--:|{'--:|' * len(columns)}")
    for name in names:
        print(overheads(name, options.rounds, step=options.step), flush=True)


if __name__ == "__main__":
    main()
