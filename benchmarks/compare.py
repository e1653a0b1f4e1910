"""Comparing two models, every activation included: cnnprobe against the two bare forwards,
interleaved in one process.

    python -m benchmarks.compare [--rounds 5] [--batch 8] [--only resnet50]

Prints medians of the per-round ratios to the two bare forwards (CPU time of the process, one
thread), for two equal models and for two with other weights; and the most that is kept at once
where the passes cannot take turns, in activations of one model. Trust the ratios only.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torchvision import models

import cnnprobe
from cnnprobe.comparison import passes

Case = tuple[nn.Module, nn.Module, torch.Tensor]


def pair(name: str, batch: int, *, equal: bool) -> Case:
    actual = models.get_model(name, weights=None).eval()
    expected = copy.deepcopy(actual) if equal else models.get_model(name, weights=None).eval()
    return actual, expected, torch.randn(batch, 3, 224, 224)


def bare(actual: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    with torch.no_grad():
        actual(x)
        expected(x)


def bare_both_ways(actual: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    """What all levels cannot do without: a forward in eval and one in train mode, and one with its
    backward, of each model.
    """
    bare(actual, expected, x)
    bare(copy.deepcopy(actual).train(), copy.deepcopy(expected).train(), x)
    for model in (actual, expected):
        torch.autograd.grad(model(x).sum(), list(model.parameters()))


def numbers(actual: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    assert cnnprobe.compare(actual, expected, x, level="numbers").levels["numbers"] is not None


def everything(actual: nn.Module, expected: nn.Module, x: torch.Tensor) -> None:
    assert cnnprobe.compare(actual, expected, x).levels["gradients"] is not None


def seconds(run: Callable[..., None], case: Case) -> float:
    began = time.process_time()
    run(*case)
    return time.process_time() - began


def held(case: Case) -> float:
    """The greatest number of bytes of activations held at once, in bytes of all activations of one
    model.
    """
    sizes: list[int] = []
    see = passes.Keeper.see

    def watched(keeper: passes.Keeper, tensor: torch.Tensor) -> dict[str, float | int] | None:
        found = see(keeper, tensor)
        storages = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for t in keeper.tensors
            if t is not None
        }
        sizes.append(sum(storages.values()))
        return found

    can = passes.can_run_side_by_side
    passes.Keeper.see = watched  # type: ignore[method-assign]
    passes.can_run_side_by_side = lambda *_: False  # type: ignore[assignment]
    try:
        numbers(*case)
    finally:
        passes.Keeper.see = see  # type: ignore[method-assign]
        passes.can_run_side_by_side = can
    with cnnprobe.record(case[0], statistics=False) as recording:
        bare(case[0], case[0], case[2])
    own = sum(
        out.nbytes
        for k, call in enumerate(recording.trace.calls)
        for out in call.outputs
        if out.source == k
    )
    return max(sizes) / own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", default="resnet18,resnet50")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'models':<28}{'bare, s':>10}{'numbers':>10}{'all levels':>12}{'kept':>8}")
    for name in wanted.only.split(","):
        for equal in (True, False):
            case = pair(name, wanted.batch, equal=equal)
            seconds(bare, case), seconds(numbers, case)
            rows = [
                (
                    seconds(bare, case),
                    seconds(numbers, case),
                    seconds(bare_both_ways, case),
                    seconds(everything, case),
                )
                for _ in range(wanted.rounds)
            ]
            ratios = [
                statistics.median(column)
                for column in zip(*((n / b, e / a) for b, n, a, e in rows), strict=True)
            ]
            label = f"two {name}s, {'equal' if equal else 'other weights'}"
            print(
                f"{label:<28}{statistics.median(r[0] for r in rows):>10.2f}{ratios[0]:>9.2f}x{ratios[1]:>11.2f}x{held(case):>8.2f}",  # noqa: E501
                flush=True,
            )


if __name__ == "__main__":
    main()
