"""Inputs that are not normalised."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from cnnprobe.diagnosis import Finding, Severity, rule
from cnnprobe.diagnosis.evidence import PROJECTIONS, Evidence, Flow, describe, operation
from cnnprobe.diagnosis.evidence.questions import input_stats, rms, stat, variable
from cnnprobe.records.trace import ModuleCall, TensorInfo
from cnnprobe.rulebook.material import classifying, images, perceptron

# rms of what reaches the first weights; standardised data has 1, pixels in [0, 1] about 0.5, in [0,
# 255] about 130
LARGE = 20.0
WHITE = 255.0  # the greatest value of an 8-bit pixel, and one that a batch of them goes beyond
PALE = 100.0
FLAT = 0.01  # std over size; pixels in [0, 1] less 127.5, over 127.5, have 0.003
LOOKUPS = frozenset({"embedding", "embedding_bag"})
JOINS = frozenset({"cat", "stack"})
SMALL = 0.005  # the same; pixels that were divided by 255 twice have 0.002


def _training(factor: float) -> Mapping[str, Any]:
    import torch

    model = perceptron()
    return classifying(
        model,
        inputs=images().sigmoid() * factor,
        optimizer=torch.optim.SGD(model.parameters(), lr=1e-5),
    )


def sick() -> Mapping[str, Any]:
    """Pixels in [0, 255]."""
    return _training(255.0)


def healthy() -> Mapping[str, Any]:
    """Pixels in [0, 1]."""
    return _training(1.0)


@rule(
    code="CP705",
    name="input-range",
    severity=Severity.WARNING,
    examples=(sick, healthy),
    explains=(
        "loss-at-init",
        "exploding-activation",
        "exploding-gradient",
        "lr-too-high",
        "divergence",
        "saturated-activation",
        "dead-relu",
        "update-ratio",
        "vanishing-gradient",
        "lr-too-low",
        "constant-output",
        "zero-grad",
        "ignored-input",
    ),
)
def input_range(evidence: Evidence) -> Iterator[Finding]:
    """What reaches the first weights is far from unit size: raw pixels, pixels divided by 255
    twice, nothing but zeros, or next to constant.

    Why it matters: torch's initialisations assume inputs of about unit variance.
    What to do: x / 255, then subtract mean and divide by std.
    Known exceptions: models that normalise by themselves, by division or by a BatchNorm before the
    first weights, also in eval mode before it has seen a batch; token indices, and what is looked
    up in a table of weights. It is info where a norm of each sample follows the first weights, as
    in style transfer, or a BatchNorm in train mode, which takes the size out again.
    Source: LeCun et al. 1998, "Efficient BackProp", section 4.3.
    """
    flow = Flow(evidence.trace)
    first = next(flow.primitives(PROJECTIONS | {"rnn"}), None)
    if first is None or not flow.calls[first].inputs:
        return
    if any(_is_untrained_norm(evidence, flow.calls[i]) for i in flow.before(first)):
        return
    info = input_stats(flow, flow.calls[first].inputs[0])
    given = flow.outer(flow.calls[first].inputs[0])
    if _is_looked_up(flow, given):
        return
    if info.stats is None and given.source is None:
        same = [
            i
            for i in evidence.inputs
            if i.shape == given.shape or math.prod(i.shape) == math.prod(given.shape)
        ]
        info = same[0] if len(same) == 1 and same[0].dtype.startswith(("float", "bfloat")) else info
    size, spread = rms(info), stat(info, "std")
    if size == 0 and evidence.steps and _is_given(evidence, info):
        yield Finding(
            module=None,
            message=f"what reaches {describe(flow.calls[first])} is 0 at every one of its places",
            fix=(
                f"see how {variable(evidence, 'inputs')} is made: / and not //, no cast to integers"
            ),
            kind="zeros",
        )
    elif _is_flat(info):
        yield Finding(
            module=None,
            severity=Severity.INFO if _is_scaled_back(evidence, flow, first) else None,
            message=(
                f"what reaches {describe(flow.calls[first])} is next to constant: mean "
                f"{stat(info, 'mean'):.4g}, std {spread:.2g} (less than {FLAT:.0%} of it), values "
                f"from {stat(info, 'min'):.4g} to {stat(info, 'max'):.4g}"
            ),
            fix=(
                f"see how {variable(evidence, 'inputs')} is normalised: mean and std of pixels in "
                "[0, 255] are wrong for pixels in [0, 1]; (x - x.mean()) / x.std()"
            ),
        )
    elif math.isfinite(size) and (size > LARGE or (0 < size < SMALL and spread > 0)):
        bound = f"more than {LARGE:g}" if size > LARGE else f"less than {SMALL:g}"
        yield Finding(
            module=None,
            severity=Severity.INFO if _is_scaled_back(evidence, flow, first) else None,
            message=(
                f"what reaches {describe(flow.calls[first])} has a root mean square of {size:.3g} "
                f"({bound}): values from {stat(info, 'min'):.3g} to {stat(info, 'max'):.3g}, mean "
                f"{stat(info, 'mean'):.3g}, std {spread:.3g}"
            ),
            fix="divide by 255 and standardise: (x / 255 - mean) / std"
            if size > LARGE and _are_pixels(info)
            else f"normalise {variable(evidence, 'inputs')}: (x - mean) / std",
        )


def _is_flat(info: TensorInfo) -> bool:
    """Whether the values differ by next to nothing beside their mean, and are not large."""
    size = rms(info)
    return SMALL <= size <= LARGE and 0 < stat(info, "std") < FLAT * size


def _are_pixels(info: TensorInfo) -> bool:
    """Whether the values lie where those of 8-bit pixels do."""
    return stat(info, "min") >= 0 and PALE < stat(info, "max") <= WHITE


def _is_scaled_back(evidence: Evidence, flow: Flow, first: int) -> bool:
    """Whether a norm takes the size out of what the first weights give: of each sample, or of the
    batch where all steps are in train mode.
    """
    readers = flow.readers.get(first, ())
    trains = bool(evidence.steps) and all(step.training for step in evidence.steps)
    kinds = {"instance_norm", "group_norm", "layer_norm", *(("batch_norm",) if trains else ())}
    return bool(readers) and all(
        operation(flow.calls[i]) in kinds and not _is_resting(evidence, flow.calls[i])
        for i in readers
    )


def _is_resting(evidence: Evidence, call: ModuleCall) -> bool:
    """Whether a BatchNorm is in eval mode while the model trains."""
    return operation(call) == "batch_norm" and (
        call.fqn is None or call.fqn in evidence.probes.resting
    )


def _is_looked_up(flow: Flow, info: TensorInfo) -> bool:
    """Whether the values are rows of a table of weights, or of several side by side."""
    given = flow.outer(info)
    made = flow.producer(given)
    if made is None:
        return isinstance(given.source, str)
    call = flow.calls[made]
    if operation(call) in JOINS:
        return all(_is_looked_up(flow, part) for part in call.inputs)
    return operation(call) in LOOKUPS


def _is_given(evidence: Evidence, info: TensorInfo) -> bool:
    """Whether it is as large as all that came in, in floats, and nothing that came in differs
    from 0.
    """
    whole = sum(math.prod(given.shape) for given in evidence.inputs)
    return math.prod(info.shape) == whole and all(rms(given) == 0 for given in evidence.inputs)


def _is_untrained_norm(evidence: Evidence, call: ModuleCall) -> bool:
    """Whether the row is a BatchNorm whose running statistics are still those that it was built
    with.
    """
    tracked = (
        evidence.values.get(f"{call.fqn}.num_batches_tracked")
        if operation(call) == "batch_norm"
        else None
    )
    return tracked is not None and tracked.high == 0
