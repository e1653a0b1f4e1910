"""Holds the formulas of torchvision's models against real forward passes at sizes drawn at random.

python -m benchmarks.shape_formulas [MODEL ...]
"""

import random
import sys
import time
import warnings

import torch
import torchvision

import cnnprobe
from cnnprobe.records.sizes import Symbol, evaluate_dim

MODELS = (
    "alexnet", "vgg11_bn", "resnet18", "resnet50", "squeezenet1_1", "densenet121", "googlenet",
    "inception_v3", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0",
    "mnasnet0_5", "convnext_tiny", "regnet_y_400mf", "swin_t", "swin_v2_t", "vit_b_16", "maxvit_t",
    "fcn_resnet50", "lraspp_mobilenet_v3_large",
)  # fmt: skip
SIZES = 4  # real forward passes of each
LARGEST = 320  # pixels


def build(name: str) -> torch.nn.Module:
    options = {"weights_backbone": None} if name.startswith(("fcn", "lraspp")) else {}
    return torchvision.models.get_model(name, weights=None, **options).eval()


def draw(symbol: Symbol, generator: random.Random) -> int:
    """A legal size."""
    end = symbol.most or (3 if symbol.name == "N" else max(LARGEST, symbol.least))
    return symbol.least + symbol.step * generator.randint(
        0, (max(end, symbol.least) - symbol.least) // symbol.step
    )


def check(name: str) -> tuple[int, int, int, float]:
    """Outputs with a formula, without one, wrong ones, and seconds that the formulas took."""
    model, generator = build(name), random.Random(name)
    start = time.perf_counter()
    found = cnnprobe.shapes(model, torch.empty(1, 3, 224, 224))
    seconds = time.perf_counter() - start
    known = unknown = wrong = 0
    for _ in range(SIZES):
        sizes = {key: draw(symbol, generator) for key, symbol in found.symbols.items()}
        shape = [evaluate_dim(dim, sizes) for dim in found.data.inputs[0][1]]
        with cnnprobe.record(model, statistics=False) as recording, torch.no_grad():
            model(torch.randn(shape))
        base, calls = found.data.trace.calls, recording.trace.calls
        is_same = [(c.fqn, c.kind) for c in calls] == [(c.fqn, c.kind) for c in base]
        named = {(c.fqn, c.index): c for c in calls if c.fqn is not None}
        for row in found.data.rows:
            call = base[row.call]
            if call.fqn is None and not is_same:  # it takes another path at this size
                continue
            outputs = calls[row.call].outputs if is_same else named[call.fqn, call.index].outputs
            for dims, made in zip(row.outputs, outputs, strict=True):
                if None in dims:
                    unknown += 1
                else:
                    known += 1
                    wrong += tuple(evaluate_dim(dim, sizes) for dim in dims) != made.shape
    return known, unknown, wrong, seconds


def main() -> int:
    warnings.simplefilter("ignore")
    failed = 0
    for name in sys.argv[1:] or MODELS:
        known, unknown, wrong, seconds = check(name)
        failed += wrong
        print(
            (
                f"{name:28} {known:6} shapes right, {unknown:4} without a formula, {wrong} wrong, "
                f"{seconds:5.1f} s"
            ),
            flush=True,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
