"""Holds the predicted memory of a training step against torch's CPU allocator and the process's
resident set.

The resident set is measured twice: with a malloc that gives every freed tensor back to the system,
and as it is by default, where glibc keeps freed blocks of up to 32 MiB, with holes between them.

python -m benchmarks.memory [MODEL ...]
"""

import os
import subprocess
import sys
from collections.abc import Mapping

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
    "densenet121": (torchvision.models.densenet121, (4, 3, 224, 224)),
    "mobilenet_v3_large": (torchvision.models.mobilenet_v3_large, (8, 3, 224, 224)),
}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # bytes; larger blocks go back when they are freed
MOST = 0.05  # that the prediction may be off


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


def run(name: str, dtype: str, what: str, environment: Mapping[str, str] | None = None) -> int:
    """One figure, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--one", name, dtype, what],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout.split()[-1])


def print_one(name: str, dtype: str, what: str) -> None:
    """The figure that a process is asked for."""
    cast = torch.bfloat16 if dtype else None
    make, shape = MODELS[name]
    if what == "resident":
        print(measure_resident(name, cast))
    elif what == "allocated":
        print(measure_allocations(make().train(), torch.randn(shape), dtype=cast))
    else:
        found = cnnprobe.memory(make(), torch.empty(shape)).find_way(autocast=dtype)
        print(max(found.given.on_cpu, found.step + found.step_slope * shape[0]))


def compare(name: str, dtype: str) -> float:
    """Prints a row, and gives how far the prediction is off; of the resident set in float32 only.

    Under autocast the process's own 6 to 27 MiB, as of oneDNN's compiled code, are a larger part.
    """
    predicted, allocated = run(name, dtype, "predicted"), run(name, dtype, "allocated")
    resident, kept = run(name, dtype, "resident", GIVE_BACK), run(name, dtype, "resident")
    offs = [predicted / allocated - 1, predicted / resident - 1]
    sizes = " | ".join(f"{size / MIB:.0f}" for size in (predicted, allocated, resident, kept))
    row = f"| {name} | {MODELS[name][1][0]} | {dtype or '-'} | {sizes}"
    print(" | ".join([row, *(f"{off:+.1%}" for off in offs)]) + " |", flush=True)
    return max(map(abs, offs[:1] if dtype else offs))


def main() -> int:
    if sys.argv[1:2] == ["--one"]:
        print_one(*sys.argv[2:])
        return 0
    columns = ("predicted", "allocator", "resident", "by default", "to allocator", "to resident")
    print("| model | N | autocast | " + " | ".join(columns) + " |")
    print("|---|--:|---|" + "--:|" * len(columns))
    names = sys.argv[1:] or MODELS
    worst = max(compare(name, dtype) for name in names for dtype in ("", "bfloat16"))
    return 1 if worst > MOST else 0


if __name__ == "__main__":
    sys.exit(main())
