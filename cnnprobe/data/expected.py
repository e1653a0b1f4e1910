"""What a model and its loss expect of the data, by one neutral forward pass over a batch."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from cnnprobe.data.expectation import Expectation
from cnnprobe.data.weights import find_weights
from cnnprobe.recorder import observe
from cnnprobe.recorder.peers import needs_all_ranks
from cnnprobe.records.trace import Trace

STEP = 3.0  # forward passes that a training step takes: the backward pass costs about two
_NAMES = {"CrossEntropyLoss": "cross_entropy", "NLLLoss": "nll_loss"}


def read_expected(
    model: nn.Module | None, loss_fn: Any = None, inputs: Any = None, size: int | None = None
) -> Expectation:
    """What is known of the model and the loss; nothing is an error here.

    Args:
        model: left bit for bit as it was; None where there is none.
        loss_fn: a loss module or function.
        inputs: what the model takes; None where that is not known.
        size: samples of a batch; None where that is not known.
    """
    kind = type(loss_fn).__name__ if loss_fn is not None else ""
    name = _NAMES.get(kind, getattr(loss_fn, "__name__", kind))
    ignored = getattr(loss_fn, "ignore_index", -100)
    weights = find_weights(model) if model is not None else None
    known = Expectation(
        loss=name,
        ignored=ignored,
        unreduced=getattr(loss_fn, "reduction", "") == "none",
        weights=weights,
        detected=_count_detected(model) if model is not None else None,
    )
    if model is None or not isinstance(inputs, Tensor) or needs_all_ranks(model):
        return known  # a pass of one rank would wait for the others
    with torch.no_grad():
        seen = observe(model, (inputs,), {}, statistics=False)
    if seen.error is not None:
        return replace(known, accepted=False)
    outputs = None
    if isinstance(seen.output, Tensor) and seen.output.dim() >= 2 and seen.output.shape[1] > 1:
        outputs = int(seen.output.shape[1])
    seconds = None
    if size and seen.trace.calls and seen.trace.calls[0].seconds:
        seconds = STEP * seen.trace.calls[0].seconds * max(1.0, size / len(inputs))
    return replace(
        known,
        accepted=True,
        outputs=outputs,
        seconds=seconds,
        batch_norm=_find_single(seen.trace),
    )


def _count_detected(model: nn.Module) -> int | None:
    """The classes of one of torchvision's detectors whose class 0 is the background; None of any
    other model. RetinaNet and FCOS have outputs for 0 too.
    """
    modules: Iterator[Any] = model.modules()
    for module in modules:
        names = {each.__name__ for each in type(module).__mro__}
        if "FastRCNNPredictor" in names:
            return int(module.cls_score.out_features)
        if {"SSDClassificationHead", "SSDLiteClassificationHead"} & names:
            return int(module.num_columns)
    return None


def _find_single(trace: Trace) -> str:
    """The first BatchNorm that sees one value per channel of each sample."""
    for call in trace.calls:
        if call.kind.startswith(("BatchNorm", "LazyBatchNorm", "SyncBatchNorm")) and call.inputs:
            given = call.inputs[0].shape
            if len(given) == 2 or (len(given) > 2 and all(side == 1 for side in given[2:])):
                return call.fqn or ""
    return ""
