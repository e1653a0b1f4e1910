"""Holds parameters and MACs against the figures that torchvision publishes with its weights, on the
meta device.

python -m benchmarks.torchvision_figures [-o docs/reference/torchvision-figures.md]
"""

import argparse
import functools
import pathlib
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode

import cnnprobe
from cnnprobe.records.trace import Trace

SEGMENTATION_PIXELS = 520
FLOW_PIXELS = 512
FRAMES = 16  # of a clip
# googlenet's published count leaves its auxiliary heads out; inception_v3's figures were made with
# them.
AUXILIARY = {
    "googlenet": {"aux_logits": False, "init_weights": False},
    "inception_v3": {"aux_logits": True, "init_weights": False},
}


def published() -> Iterator[tuple[str, torchvision.models.WeightsEnum]]:
    """Every (model name, weights) that has a published operation count, detection and quantised
    models left out.
    """
    for name in torchvision.models.list_models():
        if "rcnn" in name or name.startswith(("quantized_", "ssd", "retinanet", "fcos")):
            continue
        for weights in torchvision.models.get_model_weights(name):
            yield name, weights


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves weights as they were allocated: to draw them takes ten times as long as the rest."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in (torch.Tensor.normal_, torch.Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def build(name: str, weights: torchvision.models.WeightsEnum) -> nn.Module:
    """The architecture of these weights, without data, on meta."""
    options = dict(AUXILIARY.get(name, {}))
    if (
        weights.meta.get("num_params")
        and name.startswith("vit_")
        and weights.transforms().crop_size[0] != 224
    ):
        options["image_size"] = weights.transforms().crop_size[0]
    if "deeplab" in name or "fcn" in name or "lraspp" in name:
        options = {"weights_backbone": None} | ({"aux_loss": True} if "lraspp" not in name else {})
    if name.startswith("regnet"):  # its constructor computes its widths with tensors
        with _NoRandomNumbers():
            return torchvision.models.get_model(name, weights=None, **options).to("meta")
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options)


def inputs_for(name: str, weights: torchvision.models.WeightsEnum) -> tuple[torch.Tensor, ...]:
    """The batch of one that the published count was made with."""
    make = functools.partial(torch.empty, device="meta")
    if "deeplab" in name or "fcn" in name or "lraspp" in name:
        return (make(1, 3, SEGMENTATION_PIXELS, SEGMENTATION_PIXELS),)
    if name.startswith("raft"):
        return (make(1, 3, FLOW_PIXELS, FLOW_PIXELS), make(1, 3, FLOW_PIXELS, FLOW_PIXELS))
    crop = weights.transforms().crop_size
    if "KINETICS" in weights.name:
        return (make(1, 3, FRAMES, crop[0], crop[0]),)
    return (make(1, 3, crop[0], crop[0]),)


def trace_of(name: str, weights: torchvision.models.WeightsEnum) -> Trace:
    """What cnnprobe shows of this architecture with `shapes_only`."""
    model = build(name, weights).eval()
    with torch.no_grad():
        return cnnprobe.probe(model, *inputs_for(name, weights), shapes_only=True).trace


def figures(trace: Trace) -> tuple[int, float]:
    """Parameters, and giga-MACs."""
    parameters = sum(p.numel for p in trace.parameters if p.kind == "parameter")
    return parameters, sum(call.macs or 0 for call in trace.calls) / 1e9


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=pathlib.Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    lines = [
        "# torchvision's published figures, and ours",
        "",
        (
            f"Made by `python -m benchmarks.torchvision_figures` with torch {torch.__version__} "
            f"and torchvision {torchvision.__version__}."
        ),
        (
            "Each model is built without weights on the meta device and probed by its shapes "
            "alone with the input that the published count was made with."
        ),
        "Published: `Weights.meta['num_params']` and `Weights.meta['_ops']` (giga-MACs).",
        "",
        "| model | weights | parameters published | ours | GMACs published | ours |",
        "|---|---|--:|--:|--:|--:|",
    ]
    wrong, start = 0, time.perf_counter()
    for name, weights in published():
        parameters, macs = figures(trace_of(name, weights))
        agree = parameters == weights.meta["num_params"] and round(macs, 3) == round(
            weights.meta["_ops"], 3
        )
        wrong += not agree
        row = (
            f"| {name} | {weights.name} | {weights.meta['num_params']:,} | {parameters:,} | "
            f"{weights.meta['_ops']:.3f} | {macs:.3f} |"
        )
        lines.append(row + ("" if agree else " **differs**"))
        print(row, "" if agree else "<- differs", file=sys.stderr)
    seconds = time.perf_counter() - start, time.process_time()
    print("{:.0f} s, {:.0f} s of them on a CPU".format(*seconds), file=sys.stderr)
    lines += ["", f"{len(lines) - 8 - wrong} of {len(lines) - 8} agree in both."]
    text = "\n".join(lines) + "\n"
    if options.output:
        options.output.write_text(text)
    else:
        print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
