"""Holds the predicted memory of a training step against torch's CPU allocator and the process's resident set.

python -m benchmarks.memory
"""

import subprocess
import sys

import torch
import torchvision

import cnnprobe
from reference_models import SimpleCNN
from tests.support.memory import UNet, measure_allocations

MIB = 2**20
MODELS = {
    "SimpleCNN": (lambda: SimpleCNN(10), (512, 3, 32, 32)),
    "resnet50": (torchvision.models.resnet50, (8, 3, 224, 224)),
    "vit_b_16": (torchvision.models.vit_b_16, (4, 3, 224, 224)),
    "U-Net": (UNet, (4, 3, 128, 128)),
}


def read_status(key: str) -> int:
    """Bytes of a line of this process's status."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def train(model: torch.nn.Module, x: torch.Tensor, dtype: torch.dtype | None) -> None:
    """Two steps of a usual loop."""
    optimizer = torch.optim.Adam(model.parameters(), foreach=True)  # as it is by default on a GPU
    for _ in range(2):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None):
            loss = model(x).float().mean()
        loss.backward()
        optimizer.step()


def measure_resident(name: str, dtype: torch.dtype | None) -> int:
    """The growth of the resident set over what it was before the model was made."""
    warm = UNet(8, 1)
    train(warm, torch.randn(2, 3, 16, 16), dtype)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as reset:
        reset.write("5")
    before = read_status("VmRSS")
    make, shape = MODELS[name]
    train(make().train(), torch.randn(shape), dtype)
    return read_status("VmHWM") - before


def run(name: str, dtype: str, what: str) -> int:
    """One figure, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", name, dtype, what],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def main() -> int:
    if len(sys.argv) > 1:
        name, dtype, what = sys.argv[1:]
        cast = torch.bfloat16 if dtype else None
        make, shape = MODELS[name]
        if what == "resident":
            print(measure_resident(name, cast))
        elif what == "allocated":
            print(measure_allocations(make().train(), torch.randn(shape), dtype=cast))
        else:
            found = cnnprobe.memory(make(), torch.empty(shape)).find_way(autocast=dtype)
            print(max(found.given.peak, found.step + found.step_slope * shape[0]))
        return 0
    print("| model | N | autocast | predicted MiB | allocator MiB | off by | resident set MiB |")
    print("|---|--:|---|--:|--:|--:|--:|")
    worst = 0.0
    for name, (_, shape) in MODELS.items():
        for dtype in ("", "bfloat16"):
            predicted, allocated, resident = (
                run(name, dtype, what) for what in ("predicted", "allocated", "resident")
            )
            off = predicted / allocated - 1
            worst = max(worst, abs(off))
            sizes = (
                f"{predicted / MIB:.0f} | {allocated / MIB:.0f} | {off:+.1%} | {resident / MIB:.0f}"
            )
            print(f"| {name} | {shape[0]} | {dtype or '-'} | {sizes} |", flush=True)
    return 1 if worst > 0.05 else 0


if __name__ == "__main__":
    sys.exit(main())
