"""What `diagnose` costs before it tries a fix: `python -m benchmarks.diagnosing [--rounds 5]`.

Processor time of a bare training step, and of a diagnosis with `trials=0`, in turns. Figures are
medians over the rounds, and what the diagnosis is of a bare step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torchvision
from torch import nn

import cnnprobe
from reference_models import SimpleCNN


def make_ways(model: nn.Module, size: int) -> dict[str, Callable[[], object]]:
    """A bare step of a model, and its diagnosis, of 8 images."""
    images, labels = torch.randn(8, 3, size, size), torch.arange(8)
    loss_fn, optimizer = nn.CrossEntropyLoss(), torch.optim.Adam(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        loss_fn(model(images), labels).backward()
        optimizer.step()

    def diagnose() -> object:
        return cnnprobe.diagnose(
            model, images, labels, loss_fn=loss_fn, optimizer=optimizer, trials=0
        )

    return {"bare step": step, "diagnose": diagnose}


def main() -> None:
    """Print one line for each model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default=5, type=int)
    rounds = parser.parse_args().rounds
    models: dict[str, tuple[nn.Module, int]] = {
        "simplecnn": (SimpleCNN(10), 32),
        "resnet18": (torchvision.models.resnet18(num_classes=10), 64),
    }
    for name, (model, size) in models.items():
        ways = make_ways(model.train(), size)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds + 1):  # the first is to warm up
            for way, call in ways.items():
                start = time.process_time()
                call()
                times[way].append(time.process_time() - start)
        bare, whole = (statistics.median(took[1:]) for took in times.values())
        print(f"{name:<10} {1e3 * bare:>7.1f} ms {1e3 * whole:>8.1f} ms {whole / bare:>6.1f} x")


if __name__ == "__main__":
    main()
