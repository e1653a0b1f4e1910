"""Shapes and parameters: cnnprobe against a bare forward and torchinfo, interleaved in one process.

    python -m benchmarks.structure [--rounds 5] [--only simplecnn,deep:1000]
    python -m benchmarks.structure --parts --only deep:10000
    python -m benchmarks.structure --reads --only resnet18,densenet121

Prints medians of the per-round ratios to the bare forward (CPU time of the process, one thread).
Trust the ratios only. With --parts what a recording without statistics consists of, in microseconds
a module. With --reads the time that a probe spends on reading, beside that of a plain sum of the
same tensors at the same moment; and the whole pass with neither and with each.
"""

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable

import torch
from torch import nn

import cnnprobe
from cnnprobe import recorder
from cnnprobe.recorder import Recording, observe
from cnnprobe.stats import Pages

try:
    import torchinfo
except ImportError:
    torchinfo = None


def deep(layers: int) -> nn.Module:
    """A flat Sequential of many small layers."""
    return nn.Sequential(
        *[layer for _ in range(layers // 2) for layer in (nn.Linear(8, 8), nn.ReLU())]
    )


def nested(depth: int) -> nn.Module:
    """One small layer inside `depth` Sequentials."""
    model: nn.Module = nn.Linear(8, 8)
    for _ in range(depth):
        model = nn.Sequential(model)
    return model


def cases() -> dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]]:
    from torchvision import models

    from reference_models import SimpleCNN

    def zoo(name: str) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
        return lambda: (models.get_model(name, weights=None), torch.randn(8, 3, 224, 224))

    names = (
        "resnet18",
        "resnet50",
        "densenet121",
        "mobilenet_v3_large",
        "efficientnet_b0",
        "vit_b_16",
    )
    found: dict[str, Callable[[], tuple[nn.Module, torch.Tensor]]] = {
        "simplecnn": lambda: (SimpleCNN(10), torch.randn(64, 3, 32, 32))
    }
    found |= {name: zoo(name) for name in names}
    found |= {
        f"deep:{n}": (lambda n=n: (deep(n), torch.randn(4, 8))) for n in (1_000, 10_000, 40_000)
    }
    found |= {f"nest:{n}": (lambda n=n: (nested(n), torch.randn(4, 8))) for n in (12, 18, 24)}
    return found


def recorded(model: nn.Module, x: torch.Tensor) -> None:
    with cnnprobe.record(model, statistics=False) as recording:
        model(x)
    assert recording.trace.calls


def probed(model: nn.Module, x: torch.Tensor) -> None:
    cnnprobe.probe(model, x)


def summarised(model: nn.Module, x: torch.Tensor) -> None:
    torchinfo.summary(
        model,
        input_data=x,
        verbose=0,
        depth=100,
        mode="eval",
        col_names=("input_size", "output_size", "num_params"),
    )


def seconds(action: Callable[[], object], *, tidy: bool = True) -> float:
    if tidy:
        gc.collect()  # the garbage of the one before is no cost of this one
    start = time.process_time()
    action()
    return time.process_time() - start


def measure(name: str, make: Callable[[], tuple[nn.Module, torch.Tensor]], rounds: int) -> str:
    model, x = make()
    model.eval()
    rivals: dict[str, Callable[[nn.Module, torch.Tensor], None]] = {
        "record": recorded,
        "probe": probed,
    }
    exponential = (
        name.startswith("nest:") and int(name[5:]) > 20
    )  # torchinfo's time doubles with each level
    if torchinfo is not None and not exponential and name != "deep:40000":
        rivals["torchinfo"] = summarised
    with torch.no_grad():
        model(x)
        ratios: dict[str, list[float]] = {rival: [] for rival in rivals}
        bare = []
        for _ in range(rounds):
            bare.append(seconds(lambda: model(x)))
            for rival, run in rivals.items():
                ratios[rival].append(seconds(lambda run=run: run(model, x)) / bare[-1])
    cells = [
        f"{statistics.median(ratios[r]):.2f}x" if r in ratios else "-"
        for r in ("record", "probe", "torchinfo")
    ]
    return f"| {name} | {statistics.median(bare) * 1e3:.1f} | {' | '.join(cells)} |"


def seconds_of_hooks(model: nn.Module, x: torch.Tensor) -> float:
    """A forward pass with hooks as the recorder's, which do nothing."""
    handles = []
    for module in model.modules():
        handles.append(module.register_forward_pre_hook(lambda *_: None, with_kwargs=True))
        handles.append(
            module.register_forward_hook(lambda *_: None, with_kwargs=True, always_call=True)
        )
    spent = seconds(lambda: model(x))
    for handle in handles:
        handle.remove()
    return spent


def seconds_of_parts(model: nn.Module, x: torch.Tensor) -> dict[str, float]:
    """The parts of one recording without statistics."""
    made: list[float] = []
    assemble = recorder.assemble

    def timed(*args: object, **kwargs: object) -> object:
        start = time.process_time()
        trace = assemble(*args, **kwargs)
        made.append(time.process_time() - start)
        return trace

    bare, hooked = seconds(lambda: model(x)), seconds_of_hooks(model, x)
    start = time.process_time()
    recording = Recording(model, statistics=False)
    parts = {"bare": bare, "modules listed": time.process_time() - start}
    parts["hooks on and off"] = seconds(recording.attach)
    recorder.assemble = timed
    recording.start()
    whole = seconds(lambda: model(x))
    recording.stop()
    recorder.assemble = assemble
    parts["hooks on and off"] += seconds(recording.detach)
    parts["torch's way through hooks"] = hooked - bare
    parts["written down"] = whole - hooked - made[0]
    return parts | {"made a trace": made[0]}


def measure_parts(
    name: str, make: Callable[[], tuple[nn.Module, torch.Tensor]], rounds: int
) -> str:
    model, x = make()
    model.eval()
    count = sum(1 for _ in model.modules())
    with torch.no_grad():
        found = [seconds_of_parts(model, x) for _ in range(rounds + 1)][1:]
    parts = {key: statistics.median(each[key] for each in found) for key in found[0]}
    cells = " | ".join(f"{key} {spent / count * 1e6:.2f}" for key, spent in parts.items())
    return f"| {name} | {cells} |"


class Reader:
    """Reads each output as soon as it is there, and times that."""

    def __init__(self, read: Callable[[torch.Tensor], object]) -> None:
        self._read = read
        self.seconds = 0.0
        self.nbytes = 0

    def see(self, tensor: torch.Tensor) -> None:
        self.seconds += seconds(lambda: self._read(tensor), tidy=False)
        self.nbytes += tensor.nbytes

    def about_to_write(self, tensor: torch.Tensor) -> None:
        """Nothing is kept."""


def measure_reads(
    name: str, make: Callable[[], tuple[nn.Module, torch.Tensor]], rounds: int
) -> str:
    model, x = make()
    model.eval()
    reads: dict[str, Callable[[torch.Tensor], object]] = {
        "nothing": lambda _: None,
        "statistics": Pages(histogram=True).measure,
        "sum": torch.sum,
    }
    within: dict[str, list[float]] = {key: [] for key in reads}
    whole: dict[str, list[float]] = {key: [] for key in reads}
    with torch.no_grad():
        model(x)
        for _ in range(rounds):
            bare = seconds(lambda: model(x))
            for key, read in reads.items():
                reader = Reader(read)
                took = seconds(lambda reader=reader: observe(model, (x,), {}, witness=reader))
                whole[key].append(took / bare)
                within[key].append(reader.seconds / bare)
    cells = [f"{statistics.median(within[key]):.3f}x" for key in ("statistics", "sum")]
    cells += [f"{statistics.median(ratios):.2f}x" for ratios in whole.values()]
    return f"| {name} | {reader.nbytes / 1e6:.0f} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--reads", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    measuring = measure
    if options.parts:
        measuring = measure_parts
    elif options.reads:
        print(
            "| model | MB | statistics | plain sum | pass without | with statistics | with sum "
            "|\n|---|--:|--:|--:|--:|--:|--:|"
        )
        measuring = measure_reads
    else:
        print(
            "| model | bare ms | record, no statistics | probe, with statistics | torchinfo "
            "|\n|---|--:|--:|--:|--:|"
        )
    for name, make in cases().items():
        if not options.only or name in options.only.split(","):
            print(measuring(name, make, options.rounds), flush=True)


if __name__ == "__main__":
    main()
