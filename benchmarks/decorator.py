"""What `@cnnprobe.probed` adds to a call: `python -m benchmarks.decorator [--rounds 30]`.

The same small network undecorated, inside `cnnprobe.record`, and decorated with different options,
each called in turn within one round. Figures are medians over the rounds of processor time, and
what they are of the undecorated call.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn

import cnnprobe
from reference_models import SimpleCNN

CALLS = 20  # in a row; every=10 and sample=0.1 record two of them


def recorded(model: nn.Module) -> Callable[[torch.Tensor], object]:
    """A call inside the recorder, without the decorator."""

    def call(images: torch.Tensor) -> object:
        with cnnprobe.record(model):
            return model(images)

    return call


def main() -> None:
    """Print one line for each way to call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", default=30, type=int)
    rounds = parser.parse_args().rounds
    ways: dict[str, Callable[[torch.Tensor], object]] = {
        "undecorated": SimpleCNN(10).eval(),
        "with record(model)": recorded(SimpleCNN(10).eval()),
        "probed": cnnprobe.probed(SimpleCNN(10).eval()),
        "probed, every=10": cnnprobe.probed(SimpleCNN(10).eval(), every=10),
        "probed, sample=0.1": cnnprobe.probed(SimpleCNN(10).eval(), sample=0.1),
        "probed, every=1000": cnnprobe.probed(SimpleCNN(10).eval(), every=1000),
    }
    images, times = torch.randn(8, 3, 32, 32), {way: [] for way in ways}
    with torch.no_grad():
        for _ in range(rounds):
            for way, call in ways.items():
                start = time.process_time()
                for _ in range(CALLS):
                    call(images)
                times[way].append((time.process_time() - start) / CALLS)
    plain = statistics.median(times["undecorated"])
    for way, took in times.items():
        print(
            f"{way:<20} {1e3 * statistics.median(took):>7.2f} ms "
            f"{statistics.median(took) / plain:>7.2f} x"
        )


if __name__ == "__main__":
    main()
